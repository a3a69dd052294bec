//! Compressors: a trait, and those of library crates, by name.

use alloc::{boxed::Box, vec::Vec};

use pagemove::units::PAGE_SIZE;

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
        "lz4" => Some(Box::new(Lz4)),
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
#[derive(Debug, Default, Clone, Copy)]
pub struct Lz4;

#[cfg(feature = "lz4")]
impl Compressor for Lz4 {
    fn name(&self) -> &str {
        "lz4"
    }

    fn compress(&self, page: &Page, out: &mut Room) -> Option<usize> {
        lz4_flex::block::compress_into(page, out).ok()
    }

    fn decompress(&self, data: &[u8], page: &mut Page) -> bool {
        lz4_flex::block::decompress_into(data, page).is_ok_and(|length| length == PAGE_SIZE)
    }
}

/// Zstandard: denser, and several times slower.
#[cfg(feature = "zstd")]
#[derive(Default)]
pub struct Zstd {
    // A context is large, and takes long to make.
    compressors: pagemove::sync::Mutex<Vec<zstd::bulk::Compressor<'static>>>,
    decompressors: pagemove::sync::Mutex<Vec<zstd::bulk::Decompressor<'static>>>,
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
        let kept = self.compressors.lock().pop();
        let mut context = kept.or_else(|| zstd::bulk::Compressor::new(Self::LEVEL).ok())?;
        let length = context.compress_to_buffer(page, &mut out[..]).ok();
        self.compressors.lock().push(context);
        length
    }

    fn decompress(&self, data: &[u8], page: &mut Page) -> bool {
        let kept = self.decompressors.lock().pop();
        let Some(mut context) = kept.or_else(|| zstd::bulk::Decompressor::new().ok()) else { return false };
        let length = context.decompress_to_buffer(data, &mut page[..]);
        self.decompressors.lock().push(context);
        length.is_ok_and(|length| length == PAGE_SIZE)
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
