//! The exclusive handle, and the allocation calls.
#![allow(unsafe_code, reason = "`from_raw` has a contract")]

use alloc::sync::Arc;
use core::{mem::ManuallyDrop, ops::Deref};

use super::{Folio, FolioRef, LockedFolio};
use crate::{
    frame::{Key, Kind},
    units::{Order, Pfn},
    zone::{AllocError, Physical, Request},
};

/// A folio without references: nobody else can get one, so only the holder uses its contents and fields. Freed when
/// dropped (Linux 6.14: `alloc_frozen_pages`).
///
/// Memory that never moves, is never mapped and has one owner can stay frozen: page tables, slabs, a kernel's own data.
/// Other folios are published.
#[must_use = "the folio is freed when this is dropped"]
pub struct FrozenFolio<'p> {
    folio: Folio<'p>,
}

impl Physical {
    /// Allocates a folio of `order` for `kind`. Doesn't clear it.
    ///
    /// Uses [`Effort::Drain`](crate::zone::Effort::Drain), so it doesn't sleep. Panics if nothing can be allocated as
    /// `kind` (free, tail).
    #[inline]
    pub fn alloc(self: &Arc<Self>, order: Order, kind: Kind) -> Result<FrozenFolio<'_>, AllocError> {
        let pfn = self.take(order, kind)?;
        Ok(FrozenFolio::from_exclusive(self, pfn))
    }

    /// Allocates a folio by `request`. Doesn't clear it.
    pub fn alloc_with(self: &Arc<Self>, request: &Request) -> Result<FrozenFolio<'_>, AllocError> {
        let pfn = self.take_with(request)?;
        Ok(FrozenFolio::from_exclusive(self, pfn))
    }

    /// Allocates exactly the frame `pfn`, if it's free and its pageblock isn't isolated; to rebuild a layout.
    pub fn alloc_exactly(self: &Arc<Self>, pfn: Pfn, kind: Kind) -> Option<FrozenFolio<'_>> {
        self.take_exactly(pfn, kind).then(|| FrozenFolio::from_exclusive(self, pfn))
    }

    /// Allocates a free block of exactly `order` whose memory the host hasn't got back ([`FrozenFolio::free_reported`]), as
    /// [`Kind::Kernel`]; `None` if there is no more. Frames on CPUs' lists aren't found. Doesn't sleep.
    pub fn alloc_unreported(self: &Arc<Self>, order: Order) -> Option<FrozenFolio<'_>> {
        Some(FrozenFolio::from_exclusive(self, self.take_unreported(order)?))
    }
}

impl<'p> FrozenFolio<'p> {
    /// Frees the folio, and notes that the host has its memory: it isn't reported again before it, or what it merges with, was used, and of the
    /// blocks of its order and migratetype the others are used first. What two such blocks merge to is reported too.
    ///
    /// Panics if a [`Destination`](crate::migrate::Destination) gave it.
    pub fn free_reported(self) {
        self.check_allocated();
        let physical = self.physical();
        physical.free_reported(self.into_raw());
    }

    /// Clears the contents.
    pub fn zero(&mut self) {
        self.physical().ram().zero(self.pfn(), self.order());
    }

    /// Gives the folio its first reference: now others can get one.
    ///
    /// Panics if a [`Destination`](crate::migrate::Destination) gave it: that can only be moved to, or given back.
    // Not `inline`: in a caller's crate it would be five calls.
    pub fn publish(self) -> FolioRef<'p> {
        self.check_allocated();
        let (physical, pfn) = (self.physical(), self.into_raw());
        physical.frame(pfn).publish();
        FolioRef::from_counted(physical, pfn)
    }

    /// Sets owner and key; takes a reference for the owner, and a reference and the lock for the caller.
    pub(crate) fn publish_owned(self, owner: u32, key: Key) -> LockedFolio<'p> {
        self.check_allocated();
        let (physical, pfn) = (self.physical(), self.into_raw());
        let frame = physical.frame(pfn);
        frame.set_owner(owner, key);
        // Locked before anybody can get a reference, so that no move sees it half initialized.
        physical.frames().lock_exclusive(pfn);
        frame.thaw(2, 0);
        LockedFolio::from_locked(physical, pfn)
    }

    fn check_allocated(&self) {
        if !self.physical().frame(self.pfn()).state().kind().is_allocation() {
            used_as_destination(self.pfn());
        }
    }

    /// Sets the key, and counts the entry of the folio's own order that the caller puts into a table next, and its
    /// reference.
    pub(crate) fn publish_mapped(self, key: Key) -> Pfn {
        let (physical, pfn, order) = (self.physical(), self.pfn(), self.order());
        let _ = self.into_raw();
        physical.frame(pfn).set_owner(0, key);
        physical.frames().thaw_mapped(pfn, order);
        pfn
    }

    /// Sets the key; takes a reference and the lock for the caller.
    pub(crate) fn publish_locked(self, key: Key) -> LockedFolio<'p> {
        let (physical, pfn) = (self.physical(), self.into_raw());
        let frame = physical.frame(pfn);
        frame.set_owner(0, key);
        physical.frames().lock_exclusive(pfn);
        frame.thaw(1, 0);
        LockedFolio::from_locked(physical, pfn)
    }

    /// Gives the frame number, for a container. The folio is freed only by [`Self::from_raw`] and a drop.
    #[inline]
    pub fn into_raw(self) -> Pfn {
        ManuallyDrop::new(self).pfn()
    }

    /// Makes a handle from a frame number.
    ///
    /// # Safety
    /// `pfn` was given by [`Self::into_raw`] of a folio of this memory, and no other handle has been made of it since.
    #[inline]
    pub unsafe fn from_raw(physical: &'p Arc<Physical>, pfn: Pfn) -> Self {
        Self::from_exclusive(physical, pfn)
    }

    /// As [`Self::from_raw`], for what the engine has taken itself.
    #[inline]
    pub(crate) fn from_exclusive(physical: &'p Arc<Physical>, pfn: Pfn) -> Self {
        Self { folio: Folio { physical, pfn } }
    }
}

impl<'p> Deref for FrozenFolio<'p> {
    type Target = Folio<'p>;

    #[inline]
    fn deref(&self) -> &Folio<'p> {
        &self.folio
    }
}

// Cold and out of line, to keep formatting off the hot path.
#[cold]
fn used_as_destination(pfn: Pfn) -> ! {
    panic!("folio {pfn} was set aside for a move; it can't be used otherwise")
}

impl Drop for FrozenFolio<'_> {
    #[inline]
    fn drop(&mut self) {
        self.physical().free_frozen(self.pfn());
    }
}
