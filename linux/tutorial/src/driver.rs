// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! The tutorial's driver, as it ends: the frame grabber of `before.c`, with pages that move while they're mapped.
//!
//! Takes ioctls with the index of a page; gives pages to map, and a ring of frames to the device. Promises that the ring
//! names the frame that a page is in, wherever the page has moved to.

use core::ffi::CStr;
use core::sync::atomic::{AtomicU64, Ordering};

use kit::{Absent, Driver, Errno, Moves, OwnedMove, Page, Pins, Store, UserMemory, copy_in, copy_out};

/// Pages of an open.
pub const PAGES: u64 = 64;
/// Captures that can be under way at once.
pub const CAPTURES: usize = 8;

/// Marks a page. Each of these takes the page's index as its argument.
pub const STAMP: u32 = command(1);
/// Puts a page into the device's ring.
pub const QUEUE: u32 = command(2);
/// Begins a capture into a page: the device writes there at any time.
pub const START: u32 = command(3);
/// Ends a capture.
pub const STOP: u32 = command(4);

/// `_IOW('g', number, u64)`
const fn command(number: u32) -> u32 {
    1 << 30 | 8 << 16 | (b'g' as u32) << 8 | number
}

/// An open. `H` is what keeps a pinned page.
pub struct Grab<H> {
    captures: Pins<H, CAPTURES>,
}

/// What the device reads: the frame to fill next; 0 is none.
#[derive(Debug)]
pub struct Ring([AtomicU64; PAGES as usize]);

impl Ring {
    /// The entry of a page; past the end: `ENXIO`.
    pub fn entry(&self, index: u64) -> Result<&AtomicU64, Errno> {
        usize::try_from(index).ok().and_then(|index| self.0.get(index)).ok_or(Errno::ENXIO)
    }
}

impl Moves for Ring {
    fn migrate(&self, page: OwnedMove) {
        if let Ok(entry) = self.entry(page.index) {
            // Only if the device has it. Relaxed: no move begins before the guard of `QUEUE` is dropped, which orders the two.
            let _ = entry.compare_exchange(page.from, page.to, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

impl<S: Store> Driver<S> for Grab<S::Held> {
    const NAME: &'static CStr = c"grab";
    type Moves = Ring;

    fn open(pages: &S) -> Result<(Self, Ring), Errno> {
        pages.resize(PAGES);
        Ok((Self { captures: Pins::default() }, Ring([const { AtomicU64::new(0) }; PAGES as usize])))
    }

    fn read(&mut self, pages: &S, at: u64, user: &mut impl UserMemory) -> Result<usize, Errno> {
        copy_out(pages, at, user)
    }

    fn write(&mut self, pages: &S, at: u64, user: &mut impl UserMemory) -> Result<usize, Errno> {
        copy_in(pages, at, user)
    }

    fn ioctl(&mut self, pages: &S, ring: &Ring, command: u32, argument: &mut [u8]) -> Result<u32, Errno> {
        let Ok(argument) = <[u8; 8]>::try_from(&*argument) else { return Err(Errno::ENOTTY) };
        let index = u64::from_ne_bytes(argument);
        match command {
            STAMP => pages.page(index, Absent::Create)?.write(0, b"grab"),
            QUEUE => {
                // Doesn't move while we have it, so what we write down is true.
                let page = pages.page(index, Absent::Create)?;
                ring.entry(index)?.store(page.pfn(), Ordering::Relaxed);
            }
            START => self.captures.pin(pages, index, b"capture")?,
            STOP => self.captures.unpin(index, b"capture")?,
            _ => return Err(Errno::ENOTTY),
        }
        Ok(0)
    }
}
