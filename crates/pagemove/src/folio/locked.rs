//! The locked handle.
#![allow(unsafe_code, reason = "`from_raw` has a contract")]

use alloc::sync::Arc;
use core::{mem::ManuallyDrop, ops::Deref};

use super::{Folio, FolioRef, PinnedPage};
use crate::{frame::Marks, units::Pfn, zone::Physical};

/// A reference and the lock: the folio can't move, be freed or truncated, and no fault maps it, until this is dropped. (A fork may add
/// mappings beside those that are there.)
///
/// Its holder must not access user memory that may map the folio: a fault there waits for the lock (also copy-on-write of a private
/// mapping).
#[must_use = "lock and reference are given back when this is dropped"]
pub struct LockedFolio<'p> {
    // Given back together with the lock.
    reference: ManuallyDrop<FolioRef<'p>>,
    fresh: bool,
}

impl<'p> LockedFolio<'p> {
    /// Wraps a reference and a lock of the caller's.
    pub(crate) fn from_locked(physical: &'p Arc<Physical>, pfn: Pfn) -> Self {
        Self { reference: ManuallyDrop::new(FolioRef::from_counted(physical, pfn)), fresh: false }
    }

    /// Says that the folio has just been allocated and cleared.
    pub(crate) fn fresh(mut self) -> Self {
        self.fresh = true;
        self
    }

    /// Tells whether the look-up that gave the folio has just allocated and cleared it.
    pub fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// Marks the folio as written to.
    pub fn mark_dirty(&self) {
        self.physical().frame(self.pfn()).mark(Marks::DIRTY);
    }

    /// Pins the folio for `who`, a device that reads and writes it: it stays where it is until the pin is dropped, also if it's
    /// freed meanwhile.
    pub fn pin(&self, who: &str) -> PinnedPage {
        self.another_reference().pin(true, who)
    }

    /// Gives one more reference, which outlives the lock.
    pub fn another_reference(&self) -> FolioRef<'p> {
        FolioRef::clone(&self.reference)
    }

    /// Gives the number, for a holder that keeps it; lock and reference are given back only by [`Self::from_raw`] and a drop.
    pub fn into_raw(self) -> Pfn {
        ManuallyDrop::new(self).pfn()
    }

    /// Makes the handle again.
    ///
    /// # Safety
    /// `pfn` was given by [`Self::into_raw`] of a folio of this memory, and no other handle has been made of it since.
    pub unsafe fn from_raw(physical: &'p Arc<Physical>, pfn: Pfn) -> Self {
        Self::from_locked(physical, pfn)
    }

    /// Releases the lock, and keeps the reference.
    pub fn unlock(self) -> FolioRef<'p> {
        let this = ManuallyDrop::new(self);
        this.physical().frames().unlock_raw(this.pfn());
        FolioRef::from_counted(this.physical(), this.pfn())
    }
}

impl<'p> Deref for LockedFolio<'p> {
    type Target = Folio<'p>;

    #[inline]
    fn deref(&self) -> &Folio<'p> {
        &self.reference
    }
}

impl<'p> FolioRef<'p> {
    /// Locks the folio; waits while somebody else, a move for example, has the lock.
    pub fn lock(self) -> LockedFolio<'p> {
        self.physical().frames().lock_raw(self.pfn());
        LockedFolio::from_locked(self.physical(), self.into_raw())
    }

    /// Locks the folio if that needs no waiting; otherwise gives the reference again.
    pub fn try_lock(self) -> Result<LockedFolio<'p>, Self> {
        if !self.physical().frames().try_lock_raw(self.pfn()) {
            return Err(self);
        }
        Ok(LockedFolio::from_locked(self.physical(), self.into_raw()))
    }
}

impl Drop for LockedFolio<'_> {
    fn drop(&mut self) {
        self.physical().unlock_and_put(self.pfn());
    }
}
