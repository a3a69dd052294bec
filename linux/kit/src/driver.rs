// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! What a driver is: [`Driver`] is what processes ask of it, [`Moves`] is what the kernel asks of it when pages move.
//!
//! [`Moves`] mirrors the engine's `MovableOps` (isolate, migrate, putback), with what a stock Linux makes of them.

use crate::{Errno, Store, UserMemory};

/// One open of a device, as a process sees it. The kit calls one of these at a time for each open, so a driver needs no
/// lock; faults and moves go on meanwhile.
pub trait Driver<S: Store>: Sized + Send {
    /// The device's name below `/dev`.
    const NAME: &'static core::ffi::CStr;

    /// What the callbacks of moves see. They run beside the driver's other calls, so it has what both share.
    type Moves: Moves + 'static;

    /// Opens the device: says what the open starts with, and sets its size.
    fn open(pages: &S) -> Result<(Self, Self::Moves), Errno>;

    /// Reads at byte `at`; gives the number of bytes.
    fn read(&mut self, pages: &S, at: u64, user: &mut impl UserMemory) -> Result<usize, Errno>;

    /// Writes at byte `at`; gives the number of bytes.
    fn write(&mut self, pages: &S, at: u64, user: &mut impl UserMemory) -> Result<usize, Errno>;

    /// Carries out an ioctl. `argument` has as many bytes as `command` says, copied from the process if the command's
    /// direction is "write", and copied back if it's "read" and this succeeds. Gives what the ioctl returns.
    fn ioctl(&mut self, pages: &S, moves: &Self::Moves, command: u32, argument: &mut [u8]) -> Result<u32, Errno>;
}

/// How far a move goes to succeed. Linux's names and numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Doesn't block.
    Async,
    /// May wait for locks, not for I/O.
    SyncLight,
    /// Waits for I/O, too.
    Sync,
}

/// A driver's page, as its callbacks see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnedPage {
    /// Where the driver keeps it.
    pub index: u64,
    /// The frame that it's in.
    pub pfn: u64,
    /// How far the move goes.
    pub mode: Mode,
}

/// A move that has been made, but for the driver's own tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnedMove {
    /// Where the driver keeps the page.
    pub index: u64,
    /// The frame that it was in.
    pub from: u64,
    /// The frame that it is in.
    pub to: u64,
    /// How far the move goes.
    pub mode: Mode,
}

/// Why a driver lets a page stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It can't be moved. Linux: `EBUSY`, the page is left for this round.
    No,
    /// It can't be moved now; a moment later it may. Linux: `EAGAIN`, tried up to ten times, then left for this round.
    Retry,
}

/// A driver's side of a move. All have a default: a driver without tables of its own writes one line.
///
/// Linux calls none of the three for a page of a page cache by itself (it isolates such pages from its LRU lists without
/// asking), but asks `migrate_folio`, with no mapping left, and both frames locked. The kit calls all three from there.
/// None is called for a page that a guard or a pin keeps, or that somebody else has a reference to when the move comes; and the
/// driver gets no guard and no pin of the page before `putback` has returned. So `isolate` sees what was written down under a
/// guard. (`docs/linux.md` has the whole contract.)
/// They run beside the driver's other calls, on any processor, until the open's pages are gone, which is after the driver
/// is dropped. They must not sleep in [`Mode::Async`], nor reach for pages of the store, nor take a lock that anybody holds
/// while he reaches for one: the kernel has other pages of its batch locked meanwhile, in any mode.
pub trait Moves: Send + Sync {
    /// Before the move: stop the device from using the page, or refuse. On Linux processes are stopped already.
    fn isolate(&self, page: OwnedPage) -> Result<(), Refusal> {
        let _ = page;
        Ok(())
    }

    /// The page has moved: point the device's tables to `page.to`, which has the contents. Can't fail on Linux, where
    /// the page's place in the cache has changed by now.
    fn migrate(&self, page: OwnedMove) {
        let _ = page;
    }

    /// The move is over: let the device use the page again, in the new frame after a move, in the old one after none.
    /// Called once for each `isolate` that was granted.
    fn putback(&self, page: OwnedPage) {
        let _ = page;
    }
}

/// For a driver whose device has no tables of its own.
impl Moves for () {}
