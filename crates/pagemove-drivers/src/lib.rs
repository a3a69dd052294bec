#![doc = include_str!("../README.md")]
#![no_std]

extern crate alloc;

mod balloon;
mod chardev;
pub mod zram;
pub mod zsmalloc;

pub use balloon::Balloon;
pub use chardev::{CharDevice, DeviceFile};
