// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! The pins of one open: a table of bounded size that can be listed.
//!
//! A page kept beyond a call is always in such a pin.

use crate::{Errno, Page, Pin, PinInfo, Store};

/// The pins of one open, at most `N`.
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
    /// Pins a page. `EEXIST` if the page already has a pin of that name, `ENOSPC` if there are `N` pins.
    pub fn pin<S: Store<Held = H>>(&mut self, pages: &S, index: u64, name: &[u8]) -> Result<(), Errno> {
        // Checked first, so that a refused call allocates no page.
        if self.iter().any(|info| info.index == index && trimmed(&info.name) == name) {
            return Err(Errno::EEXIST);
        }
        let free = self.slots.iter_mut().find(|slot| slot.is_none()).ok_or(Errno::ENOSPC)?;
        *free = Some(pages.pin(index, name)?);
        Ok(())
    }

    /// Releases the page's pins of that name. `ENOENT` if there is none.
    pub fn unpin(&mut self, index: u64, name: &[u8]) -> Result<(), Errno> {
        let mut found = false;
        for slot in &mut self.slots {
            if slot.as_ref().is_some_and(|pin| pin.info().index == index && trimmed(&pin.info().name) == name) {
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
