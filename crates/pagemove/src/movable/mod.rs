//! Who owns a page's contents, and so can move them: drivers by their [`MovableOps`], page caches by the same.
//!
//! The first of the two questions about a frame. The answer stands in the frame's `owner` field, apart from the key of
//! the reverse map, so a page can have both: a driver's page that processes map moves like any other.
//! Anonymous memory has no owner: its contents are copied, and its mappings are all that points to it.

mod index;
mod owners;

pub use index::{LockedPage, PageIndex, ReadPage};
pub use owners::{Owner, OwnerUse, Owners, Registration, StillMoving};

use crate::{units::Pfn, zone::Physical};

/// How far a move goes to succeed, as users of the field know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// Never sleeps, nor waits for a lock that a sleeper can hold.
    Async,
    /// May wait for locks, not for I/O.
    SyncLight,
    /// Waits for I/O, too.
    Sync,
}

/// A driver's page, as its callbacks see it. The frame is locked by the move.
#[derive(Debug, Clone, Copy)]
pub struct OwnedPage {
    /// The frame.
    pub pfn: Pfn,
    /// Where the driver keeps it: the index that it was inserted at.
    pub index: u32,
    /// How far the move goes.
    pub mode: Mode,
}

/// A move that the driver is asked to carry out. Both frames are locked; no mapping is left, no reference but the owner's.
pub struct OwnedMove<'a> {
    pub(crate) physical: &'a Physical,
    /// Where the page is.
    pub from: Pfn,
    /// Where it's to be; it has taken over owner, key and marks already.
    pub to: Pfn,
    /// Where the driver keeps it.
    pub index: u32,
    /// How far the move goes.
    pub mode: Mode,
}

impl OwnedMove<'_> {
    /// Copies the contents. Others see the copy only after the whole batch is copied, and before any `migrate` is called.
    pub fn copy(&self) {
        let order = self.physical.frame(self.from).state().order();
        self.physical.ram().copy_streaming(self.from, self.to, order);
    }
}

/// Why a driver lets a page stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It can't be moved.
    No,
    /// It can't be moved now; a moment later it may.
    Retry,
}

/// A driver's side of a move: Linux's `isolate_page`, `migratepage` and `putback_page` (4.8 to 6.16), for pages that may be
/// mapped meanwhile. The driver must not move, free or repurpose the page between `isolate` and what ends it.
///
/// All callbacks run with the frame locked, and never after [`Registration::unregister`] has returned. They must not
/// lock frames, and in [`Mode::Async`] must not sleep. All but `migrate` have a default: a driver that keeps a
/// [`PageIndex`] writes one line.
pub trait MovableOps: Send + Sync {
    /// Names the driver in reports.
    fn name(&self) -> &str;

    /// Takes the page off the driver's own lists, or refuses.
    fn isolate(&self, page: OwnedPage) -> Result<(), Refusal> {
        let _ = page;
        Ok(())
    }

    /// Copies the contents, of all pages of a batch before any is migrated; a driver may use an engine of its own.
    fn copy(&self, page: &OwnedMove<'_>) -> Result<(), Refusal> {
        page.copy();
        Ok(())
    }

    /// Points the driver's tables to the new frame, which has the contents; the driver's reference goes along with it.
    /// On refusal nothing has changed.
    fn migrate(&self, page: &OwnedMove<'_>) -> Result<(), Refusal>;

    /// Takes the page back: the new frame after a move, the old one after none. Called once for each `isolate` that was
    /// granted.
    fn putback(&self, page: OwnedPage) {
        let _ = page;
    }
}
