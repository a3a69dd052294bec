// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! A pin: a page kept for a device, with its name, its owner and its start time.
//!
//! Dropping the pin releases the page.

use crate::{Errno, Page};

/// The calling process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Caller {
    /// Its process ID.
    pub pid: u32,
    /// Its name, padded with zeros.
    pub name: [u8; 16],
}

/// The longest name of a pin, in bytes.
pub const NAME_BYTES: usize = 24;

/// The description of a pin. (The shim lists it; `shim.h` has the same struct.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct PinInfo {
    /// The page's index in the store.
    pub index: u64,
    /// What the pin is for, padded with zeros.
    pub name: [u8; NAME_BYTES],
    /// Who pinned it.
    pub by: Caller,
    /// When, in nanoseconds since boot.
    pub since_ns: u64,
}

const _: () = assert!(size_of::<PinInfo>() == 64 && core::mem::offset_of!(PinInfo, since_ns) == 56, "as in `shim.h`");

impl PinInfo {
    /// Describes a pin. `EINVAL` if the name is empty or too long.
    pub fn new(index: u64, name: &[u8], by: Caller, since_ns: u64) -> Result<Self, Errno> {
        let mut own = [0; NAME_BYTES];
        if name.is_empty() {
            return Err(Errno::EINVAL);
        }
        own.get_mut(..name.len()).ok_or(Errno::EINVAL)?.copy_from_slice(name);
        Ok(Self { index, name: own, by, since_ns })
    }
}

/// A page that can't move until this is dropped.
#[derive(Debug)]
pub struct Pin<H> {
    page: H,
    info: PinInfo,
}

impl<H: Page> Pin<H> {
    /// Joins a held page with its description; for implementations of [`Store`](crate::Store).
    pub fn new(page: H, info: PinInfo) -> Self {
        Self { page, info }
    }

    /// Gives the page.
    pub fn page(&self) -> &H {
        &self.page
    }

    /// Who pins it, what for and since when.
    pub fn info(&self) -> &PinInfo {
        &self.info
    }
}
