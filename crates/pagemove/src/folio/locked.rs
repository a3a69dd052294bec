//! The locked handle.
#![allow(unsafe_code, reason = "`from_raw` has a contract")]

use alloc::sync::Arc;
use core::{mem::ManuallyDrop, ops::Deref};

use super::{Folio, FolioRef, PinnedPage};
use crate::{frame::Marks, units::Pfn, zone::Physical};

/// A reference and the lock: until this is dropped the folio can't move, be freed or truncated, and no fault maps it.
/// (A fork may copy its mappings.)
///
/// The holder must not access user memory that may map the folio: a fault there waits for the lock (also copy-on-write
/// of a private mapping).
#[must_use = "lock and reference are given back when this is dropped"]
pub struct LockedFolio<'p> {
    // Given back together with the lock.
    reference: ManuallyDrop<FolioRef<'p>>,
    fresh: bool,
}

impl<'p> LockedFolio<'p> {
    /// Takes over the caller's reference and lock.
    pub(crate) fn from_locked(physical: &'p Arc<Physical>, pfn: Pfn) -> Self {
        Self { reference: ManuallyDrop::new(FolioRef::from_counted(physical, pfn)), fresh: false }
    }

    /// Marks the handle's folio as just allocated and cleared.
    pub(crate) fn fresh(mut self) -> Self {
        self.fresh = true;
        self
    }

    /// Tells whether the look-up has just allocated and cleared the folio.
    pub fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// Marks the folio as written to.
    pub fn mark_dirty(&self) {
        self.physical().frame(self.pfn()).mark(Marks::DIRTY);
    }

    /// Pins the folio for `who`, a device that reads and writes it: until the pin is dropped it doesn't move, even if
    /// its owner frees it.
    pub fn pin(&self, who: &str) -> PinnedPage {
        self.another_reference().pin(true, who)
    }

    /// Takes another reference, independent of the lock.
    pub fn another_reference(&self) -> FolioRef<'p> {
        FolioRef::clone(&self.reference)
    }

    /// Gives the frame number, for a container. Lock and reference are given back only by [`Self::from_raw`] and a
    /// drop.
    pub fn into_raw(self) -> Pfn {
        ManuallyDrop::new(self).pfn()
    }

    /// Makes a handle from a frame number.
    ///
    /// # Safety
    /// `pfn` was given by [`Self::into_raw`] of a folio of this memory, and no other handle has been made of it since.
    pub unsafe fn from_raw(physical: &'p Arc<Physical>, pfn: Pfn) -> Self {
        Self::from_locked(physical, pfn)
    }

    /// Freezes the references, if the only ones are this one and the owner's, and nothing maps the folio: until the result is dropped nobody can take
    /// another one, so the caller alone uses the contents (Linux: `folio_ref_freeze`). Look-ups by the owner's tokens find a move
    /// ([`TokenError::Moving`](crate::movable::TokenError::Moving)), which ends with the lock.
    ///
    /// For an owner that moves what is *in* its folios: hold the freeze as short as a copy takes.
    pub fn try_freeze(&mut self) -> Option<FrozenReferences<'_, 'p>> {
        let (physical, pfn) = (self.physical(), self.pfn());
        let frame = physical.frame(pfn);
        let references = if frame.owner() == 0 { 1 } else { 2 };
        frame.freeze(references).then(|| FrozenReferences { folio: self, references })
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
    /// Locks the folio; waits while the lock is held, for example by a move.
    pub fn lock(self) -> LockedFolio<'p> {
        self.physical().frames().lock_raw(self.pfn());
        LockedFolio::from_locked(self.physical(), self.into_raw())
    }

    /// Locks the folio if that needs no wait; otherwise returns the reference.
    pub fn try_lock(self) -> Result<LockedFolio<'p>, Self> {
        if !self.physical().frames().try_lock_raw(self.pfn()) {
            return Err(self);
        }
        Ok(LockedFolio::from_locked(self.physical(), self.into_raw()))
    }
}

/// A locked folio to which nobody can take a reference; see [`LockedFolio::try_freeze`].
#[must_use = "the freeze ends when this is dropped"]
pub struct FrozenReferences<'l, 'p> {
    // Borrowed exclusively: a reference to a frozen folio can't be taken by its holder either.
    folio: &'l mut LockedFolio<'p>,
    references: u32,
}

impl<'p> Deref for FrozenReferences<'_, 'p> {
    type Target = Folio<'p>;

    fn deref(&self) -> &Folio<'p> {
        self.folio
    }
}

impl Drop for FrozenReferences<'_, '_> {
    fn drop(&mut self) {
        self.folio.physical().frame(self.folio.pfn()).thaw(self.references, 0);
    }
}

impl Drop for LockedFolio<'_> {
    fn drop(&mut self) {
        self.physical().unlock_and_put(self.pfn());
    }
}
