// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! The tutorial's finished driver: the frame grabber of `before.c`, with pages that move while mapped.
//!
//! Takes ioctls with a page index; gives pages to map, and a ring of frames to the device. After a move the ring names
//! the page's new frame.

use core::ffi::CStr;
use core::sync::atomic::{AtomicU64, Ordering};

use kit::{Absent, Driver, Errno, Migration, Moves, Page, Pins, Store, UserMemory, copy_in, copy_out};

/// The size of an open in pages.
pub const PAGES: u64 = 64;
/// The number of simultaneous captures.
pub const CAPTURES: usize = 8;

/// Writes a stamp into a page. All these commands take the page's index.
pub const STAMP: u32 = command(1);
/// Adds a page to the device's ring.
pub const QUEUE: u32 = command(2);
/// Starts a capture: the device may write to the page at any time.
pub const START: u32 = command(3);
/// Ends a capture.
pub const STOP: u32 = command(4);

/// `_IOW('g', number, u64)`
const fn command(number: u32) -> u32 {
    1 << 30 | 8 << 16 | (b'g' as u32) << 8 | number
}

/// An open. `H` is a held page.
pub struct Grab<H> {
    captures: Pins<H, CAPTURES>,
}

/// The device's table: the frame to fill next; 0 is none.
#[derive(Debug)]
pub struct Ring([AtomicU64; PAGES as usize]);

impl Ring {
    /// A page's entry; `ENXIO` past the end.
    pub fn entry(&self, index: u64) -> Result<&AtomicU64, Errno> {
        usize::try_from(index).ok().and_then(|index| self.0.get(index)).ok_or(Errno::ENXIO)
    }
}

impl Moves for Ring {
    fn migrate(&self, folio: Migration) {
        if let Ok(entry) = self.entry(folio.index) {
            // Only if the page is queued. Relaxed: no move starts before `QUEUE` drops its guard, which orders the two.
            let _ = entry.compare_exchange(folio.src, folio.dst, Ordering::Relaxed, Ordering::Relaxed);
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
                // The guard keeps the page from moving, so the recorded frame is correct.
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
