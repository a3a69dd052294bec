// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! Pins: pages that a device uses, each with a name, who asked for it, and since when.
//!
//! Takes pages; gives a table of bounded size that can be listed. Promises that a page kept beyond a call is in such a
//! pin, and that dropping the pin lets the page go.

use crate::{Caller, Errno, Page, Store};

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
    /// Joins what a store holds with what is told of it; for implementations of [`Store`].
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

/// The pins of one open, `N` at most.
#[derive(Debug)]
pub struct Pins<H, const N: usize> {
    slots: [Option<Pin<H>>; N],
}

impl<H: Page, const N: usize> Default for Pins<H, N> {
    fn default() -> Self {
        Self { slots: [const { None }; N] }
    }
}

impl<H: Page, const N: usize> Pins<H, N> {
    /// Pins a page. `EEXIST` if it's pinned by that name already, `ENOSPC` if there are `N` pins.
    pub fn pin<S: Store<Held = H>>(&mut self, pages: &S, index: u64, name: &[u8]) -> Result<(), Errno> {
        // First, so that what is refused makes no page.
        if self.iter().any(|info| info.index == index && trimmed(&info.name) == name) {
            return Err(Errno::EEXIST);
        }
        let free = self.slots.iter_mut().find(|slot| slot.is_none()).ok_or(Errno::ENOSPC)?;
        *free = Some(pages.pin(index, name)?);
        Ok(())
    }

    /// Lets go of the page's pins of that name. `ENOENT` if there is none.
    pub fn unpin(&mut self, index: u64, name: &[u8]) -> Result<(), Errno> {
        let mut found = false;
        for slot in &mut self.slots {
            if slot.as_ref().is_some_and(|pin| pin.info.index == index && trimmed(&pin.info.name) == name) {
                *slot = None;
                found = true;
            }
        }
        if found { Ok(()) } else { Err(Errno::ENOENT) }
    }

    /// Lists the pins.
    pub fn iter(&self) -> impl Iterator<Item = &PinInfo> {
        self.slots.iter().flatten().map(Pin::info)
    }
}

/// A name without its padding.
fn trimmed(name: &[u8]) -> &[u8] {
    let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
    name.get(..end).unwrap_or(name)
}
