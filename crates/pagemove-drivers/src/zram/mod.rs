//! A store of pages, compressed, in memory all of whose pages move (Linux: zram).
//!
//! | file | does |
//! | --- | --- |
//! | `compressor` | the trait of a compressor, and those of library crates |
//! | `backing` | the backing store, and its free blocks |
//! | `slot` | what is stored of one page |
//! | `stats` | figures, in Linux' columns |
//! | `device` | the device: reading, writing, discarding |
//! | `spares` | buffers and tables of the calls that are under way |
//! | `recompress` | another algorithm for what lies idle, or is large |
//! | `writeback` | moving what lies idle, or is large, to the backing store |
//!
//! # Protocol
//! Each slot has a lock, which is held only to look at it, or to copy what it has: never while somebody compresses, allocates, waits for a page that moves,
//! or for the backing store. So users of different slots don't wait for each other, and those of one slot only for a copy. Users of one page
//! at the same time get the one or the other of its contents.
//!
//! Work on a slot without its lock (recompression, writeback) marks it before; whatever changes the slot takes the mark away, and the work is dropped.
//! There is one such worker at a time.

mod backing;
mod compressor;
mod device;
mod recompress;
mod slot;
mod spares;
mod stats;
mod writeback;

pub use backing::{BackingError, BackingStore};
#[cfg(feature = "lz4")]
pub use compressor::Lz4;
#[cfg(feature = "zstd")]
pub use compressor::Zstd;
pub use compressor::{Compressor, CompressorError, Page, Room, by_name, names};
pub use device::{Options, Zram, ZramError};
pub use recompress::{Recompress, Recompressed};
pub use stats::{BdStat, IoStat, MmStat};
pub use writeback::{Writeback, WrittenBack};
