#![doc = include_str!("../README.md")]

mod balloon;
mod chardev;

pub use balloon::Balloon;
pub use chardev::{CharDevice, DeviceFile};
