//! Compressors: a trait, and those of library crates, by name.

use alloc::{boxed::Box, vec::Vec};

#[cfg(feature = "lz4")]
use lz4_flex::block::CompressTable;
use pagemove::units::PAGE_SIZE;

#[cfg(any(feature = "lz4", feature = "zstd"))]
use super::spares::Spares;

/// A page's contents.
pub type Page = [u8; PAGE_SIZE];

/// Room for what a compressor makes of a page: twice a page, since some grow what can't be compressed.
pub type Room = [u8; 2 * PAGE_SIZE];

/// Compresses pages. Several threads may call it at once, none of which holds a lock.
pub trait Compressor: Send + Sync {
    /// Gives its name, as Linux names it.
    fn name(&self) -> &str;

    /// Compresses a page; gives the length. What it can't compress, or what is longer than a page then, is stored as it is.
    fn compress(&self, page: &Page, out: &mut Room) -> Result<usize, CompressorError>;

    /// Restores a page.
    fn decompress(&self, data: &[u8], page: &mut Page) -> Result<(), CompressorError>;
}

/// What a compressor can't do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CompressorError {
    /// There is no memory for its tables. Then nothing is known of the data.
    #[error("no memory for the compressor's tables")]
    NoMemory,
    /// The page can't be compressed, or the data aren't a page's.
    #[error("the compressor can't take these data")]
    Data,
}

/// Makes the compressor of this name; see [`names`].
pub fn by_name(name: &str) -> Option<Box<dyn Compressor>> {
    match name {
        #[cfg(feature = "lz4")]
        "lz4" => Some(Box::new(Lz4::default())),
        #[cfg(feature = "zstd")]
        "zstd" => Some(Box::new(Zstd::default())),
        _ => None,
    }
}

/// Gives the names of the compressors that were built in, the fastest first.
pub fn names() -> Vec<&'static str> {
    [(cfg!(feature = "lz4"), "lz4"), (cfg!(feature = "zstd"), "zstd")]
        .into_iter()
        .filter_map(|(is_there, name)| is_there.then_some(name))
        .collect()
}

/// LZ4: fast. Keeps a table for each call that there ever was at once; making one takes 8 KiB of the stack, so a kernel whose stacks are small compresses
/// a page once where its stack is empty.
#[cfg(feature = "lz4")]
#[derive(Default)]
pub struct Lz4 {
    tables: Spares<Vec<CompressTable>>,
}

#[cfg(feature = "lz4")]
impl Compressor for Lz4 {
    fn name(&self) -> &str {
        "lz4"
    }

    fn compress(&self, page: &Page, out: &mut Room) -> Result<usize, CompressorError> {
        let mut table = self.tables.take(table).ok_or(CompressorError::NoMemory)?;
        let table = table.first_mut().ok_or(CompressorError::NoMemory)?;
        lz4_flex::block::compress_into_with_table(page, out, table).map_err(|_| CompressorError::Data)
    }

    fn decompress(&self, data: &[u8], page: &mut Page) -> Result<(), CompressorError> {
        whole(lz4_flex::block::decompress_into(data, page))
    }
}

/// Tells whether what was restored is a page.
#[cfg(any(feature = "lz4", feature = "zstd"))]
fn whole<E>(length: Result<usize, E>) -> Result<(), CompressorError> {
    let is_page = length.is_ok_and(|length| length == PAGE_SIZE);
    if is_page { Ok(()) } else { Err(CompressorError::Data) }
}

/// Makes a table. Not inlined: on its way to the heap it's on the stack.
#[cfg(feature = "lz4")]
#[inline(never)]
fn table() -> Option<Vec<CompressTable>> {
    let mut one = Vec::new();
    one.try_reserve_exact(1).ok()?;
    one.push(CompressTable::small());
    Some(one)
}

/// Zstandard: denser, and several times slower.
#[cfg(feature = "zstd")]
#[derive(Default)]
pub struct Zstd {
    // A context is large, and takes long to make.
    compressors: Spares<zstd::bulk::Compressor<'static>>,
    decompressors: Spares<zstd::bulk::Decompressor<'static>>,
}

#[cfg(feature = "zstd")]
impl Zstd {
    /// The level (zram: the default of Linux' `zstd`).
    const LEVEL: i32 = 3;
}

#[cfg(feature = "zstd")]
impl Compressor for Zstd {
    fn name(&self) -> &str {
        "zstd"
    }

    fn compress(&self, page: &Page, out: &mut Room) -> Result<usize, CompressorError> {
        let context = self.compressors.take(|| zstd::bulk::Compressor::new(Self::LEVEL).ok());
        let mut context = context.ok_or(CompressorError::NoMemory)?;
        context.compress_to_buffer(page, &mut out[..]).map_err(|_| CompressorError::Data)
    }

    fn decompress(&self, data: &[u8], page: &mut Page) -> Result<(), CompressorError> {
        let context = self.decompressors.take(|| zstd::bulk::Decompressor::new().ok());
        let mut context = context.ok_or(CompressorError::NoMemory)?;
        whole(context.decompress_to_buffer(data, &mut page[..]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_restores_what_it_compressed_and_refuses_what_is_damaged() {
        let page: Page = core::array::from_fn(|at| (at / 7) as u8 ^ (at % 13) as u8);
        for name in names() {
            let compressor = by_name(name).expect("a compressor");
            assert_eq!(compressor.name(), name);
            let (mut room, mut found) = ([0; 2 * PAGE_SIZE], [0; PAGE_SIZE]);
            let length = compressor.compress(&page, &mut room).expect("a length");
            assert!(length < PAGE_SIZE);
            assert_eq!(compressor.decompress(&room[..length], &mut found), Ok(()));
            assert_eq!(found, page);
            for part in [length / 2, 0] {
                assert_eq!(
                    compressor.decompress(&room[..part], &mut found),
                    Err(CompressorError::Data),
                    "{name}: {part}"
                );
            }
        }
        assert!(by_name("none such").is_none());
    }
}
