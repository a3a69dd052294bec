#![doc = include_str!("../README.md")]
#![no_std]

extern crate alloc;

pub mod balloon;
mod chardev;
mod chunks;
pub mod zram;
pub mod zsmalloc;

pub use balloon::Balloon;
pub use chardev::{CharDevice, DeviceFile};
