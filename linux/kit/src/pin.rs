// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! A pin: a page that a device uses, with a name, who asked for it, and since when.
//!
//! Takes what a store holds; promises that dropping the pin lets the page go.

use crate::{Errno, Page};

/// Who makes a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Caller {
    /// The process.
    pub pid: u32,
    /// Its name, padded with zeros.
    pub name: [u8; 16],
}

/// The longest name of a pin.
pub const NAME_BYTES: usize = 24;

/// What can be told of a pin. (The shim lists it: `shim.h` has the same.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct PinInfo {
    /// The page.
    pub index: u64,
    /// What for, padded with zeros.
    pub name: [u8; NAME_BYTES],
    /// Who asked.
    pub by: Caller,
    /// When, in nanoseconds since the machine started.
    pub since_ns: u64,
}

const _: () = assert!(size_of::<PinInfo>() == 64 && core::mem::offset_of!(PinInfo, since_ns) == 56, "as in `shim.h`");

impl PinInfo {
    /// Notes a pin. A name that is empty or too long: `EINVAL`.
    pub fn new(index: u64, name: &[u8], by: Caller, since_ns: u64) -> Result<Self, Errno> {
        let mut own = [0; NAME_BYTES];
        if name.is_empty() {
            return Err(Errno::EINVAL);
        }
        own.get_mut(..name.len()).ok_or(Errno::EINVAL)?.copy_from_slice(name);
        Ok(Self { index, name: own, by, since_ns })
    }
}

/// A page that stays where it is until this is dropped.
#[derive(Debug)]
pub struct Pin<H> {
    page: H,
    info: PinInfo,
}

impl<H: Page> Pin<H> {
    /// Joins what a store holds with what is told of it; for implementations of [`Store`](crate::Store).
    pub fn new(page: H, info: PinInfo) -> Self {
        Self { page, info }
    }

    /// Gives the page.
    pub fn page(&self) -> &H {
        &self.page
    }

    /// Tells who pins it, what for and since when.
    pub fn info(&self) -> &PinInfo {
        &self.info
    }
}
