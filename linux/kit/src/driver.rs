// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! The driver's two traits: processes call [`Driver`], the kernel calls [`Moves`] when pages move.
//!
//! [`Moves`] mirrors the engine's `MovableOps` (isolate, migrate, putback), as far as a stock Linux can call them.

use crate::{Errno, Store, UserMemory};

/// One open of a device. The kit makes one of these calls at a time for each open, so a driver needs no lock. Faults
/// and moves run concurrently.
pub trait Driver<S: Store>: Sized + Send {
    /// The device's name below `/dev`.
    const NAME: &'static core::ffi::CStr;

    /// The state that the move callbacks share with the driver's other calls, which run concurrently.
    type Moves: Moves + 'static;

    /// Opens the device: gives its initial state, and sets its size.
    fn open(pages: &S) -> Result<(Self, Self::Moves), Errno>;

    /// Reads at byte offset `at`; gives the number of bytes.
    fn read(&mut self, pages: &S, at: u64, user: &mut impl UserMemory) -> Result<usize, Errno>;

    /// Writes at byte offset `at`; gives the number of bytes.
    fn write(&mut self, pages: &S, at: u64, user: &mut impl UserMemory) -> Result<usize, Errno>;

    /// Carries out an ioctl; gives its return value. `argument` has the size encoded in `command`. It is copied from
    /// the process if the direction is "write", and copied back if it is "read" and the call succeeds.
    fn ioctl(&mut self, pages: &S, moves: &Self::Moves, command: u32, argument: &mut [u8]) -> Result<u32, Errno>;
}

/// How long a move may block: Linux's `enum migrate_mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Doesn't block.
    Async,
    /// May wait for locks, but not for I/O.
    SyncLight,
    /// May also wait for I/O.
    Sync,
}

/// A driver's page, as passed to its callbacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IsolatedFolio {
    /// The page's index in the store.
    pub index: u64,
    /// Its frame (PFN).
    pub pfn: u64,
    /// How long the move may block.
    pub mode: Mode,
}

/// A completed move. Only the driver's own tables still name the old frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Migration {
    /// The page's index in the store.
    pub index: u64,
    /// The old frame (PFN).
    pub src: u64,
    /// The new frame (PFN).
    pub dst: u64,
    /// How long the move may block.
    pub mode: Mode,
}

/// Why a driver refuses a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The page can't be moved. Linux: `EBUSY`, skipped in this round.
    No,
    /// The page can't be moved now, but may be soon. Linux: `EAGAIN`, tried up to ten times, then skipped in this
    /// round.
    Retry,
}

/// A driver's side of a move. Each callback has a default, so a driver without tables of its own writes one line.
///
/// Linux calls none of the three for page-cache pages: it isolates them from its LRU lists without asking, then calls
/// `migrate_folio` with all mappings removed and both folios locked. The kit calls all three from there.
///
/// No callback runs for a page with a guard, a pin or any other extra reference. The driver gets no guard and no pin of
/// the page before `putback` has returned. So `isolate` sees what was written under a guard. (`docs/linux.md` has the
/// whole contract.)
///
/// The callbacks run concurrently with the driver's other calls, on any CPU, until the open's pages are freed, which is
/// after the driver is dropped. In any mode the kernel holds the locks of other pages of its batch. So callbacks must
/// not sleep in [`Mode::Async`], nor reach for pages of the store, nor take a lock that is held elsewhere while a page
/// is reached for.
pub trait Moves: Send + Sync {
    /// Before the move: stops the device from using the page, or refuses. On Linux all mappings are already removed.
    fn isolate(&self, folio: IsolatedFolio) -> Result<(), Refusal> {
        let _ = folio;
        Ok(())
    }

    /// The page has moved: points the device's tables to `folio.dst`, which has the contents. Can't fail on Linux,
    /// because the page cache already names the new frame.
    fn migrate(&self, folio: Migration) {
        let _ = folio;
    }

    /// The move is over: lets the device use the page again, in the new frame after a move, in the old one after a
    /// failure. Called once for each granted `isolate`.
    fn putback(&self, folio: IsolatedFolio) {
        let _ = folio;
    }
}

/// For a device without tables of its own.
impl Moves for () {}
