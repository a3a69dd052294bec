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

    /// Compresses a page; gives the length. `None`: it can't. What is longer than a page is stored as it is.
    fn compress(&self, page: &Page, out: &mut Room) -> Option<usize>;

    /// Restores a page; false if `data` isn't one's.
    fn decompress(&self, data: &[u8], page: &mut Page) -> bool;
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

/// LZ4: fast.
#[cfg(feature = "lz4")]
#[derive(Default)]
pub struct Lz4 {
    /// One each: they are too large for a kernel's stack.
    tables: Spares<Vec<CompressTable>>,
}

#[cfg(feature = "lz4")]
impl Compressor for Lz4 {
    fn name(&self) -> &str {
        "lz4"
    }

    fn compress(&self, page: &Page, out: &mut Room) -> Option<usize> {
        let mut table = self.tables.take(table)?;
        lz4_flex::block::compress_into_with_table(page, out, table.first_mut()?).ok()
    }

    fn decompress(&self, data: &[u8], page: &mut Page) -> bool {
        lz4_flex::block::decompress_into(data, page).is_ok_and(|length| length == PAGE_SIZE)
    }
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

    fn compress(&self, page: &Page, out: &mut Room) -> Option<usize> {
        let mut context = self.compressors.take(|| zstd::bulk::Compressor::new(Self::LEVEL).ok())?;
        context.compress_to_buffer(page, &mut out[..]).ok()
    }

    fn decompress(&self, data: &[u8], page: &mut Page) -> bool {
        let Some(mut context) = self.decompressors.take(|| zstd::bulk::Decompressor::new().ok()) else { return false };
        context.decompress_to_buffer(data, &mut page[..]).is_ok_and(|length| length == PAGE_SIZE)
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
            assert!(compressor.decompress(&room[..length], &mut found));
            assert_eq!(found, page);
            assert!(!compressor.decompress(&room[..length / 2], &mut found), "{name}: half of it");
            assert!(!compressor.decompress(&[], &mut found), "{name}: nothing");
        }
        assert!(by_name("none such").is_none());
    }
}
