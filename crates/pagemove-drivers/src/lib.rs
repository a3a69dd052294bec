//! Drivers for [`pagemove`]: a character device whose private pages processes map, and a balloon.
//!
//! Both keep their pages in a [`pagemove::movable::PageIndex`], so that all they write for the mobility of their pages is
//! a line or two.

mod balloon;
mod chardev;

pub use balloon::Balloon;
pub use chardev::{CharDevice, DeviceFile};
