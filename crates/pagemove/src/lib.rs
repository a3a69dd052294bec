//! Each module uses only those above it in this list.
#![doc = include_str!("../README.md")]
#![no_std]

extern crate alloc;

pub mod units;
pub mod sync;
pub mod port;
pub mod report;
pub mod frame;
pub mod zone;
pub mod folio;
pub mod paging;
pub mod rmap;
pub mod movable;
pub mod engine;
pub mod space;
pub mod migrate;
pub mod compact;
#[cfg(all(test, feature = "loom"))]
mod models;

pub use engine::Engine;
