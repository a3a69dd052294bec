//! The shared handle: a reference; and one for a folio that is being written to its backing store.
#![allow(unsafe_code, reason = "`from_raw` has a contract")]

use alloc::sync::Arc;
use core::{mem::ManuallyDrop, ops::Deref};

use super::{Folio, PinnedPage};
use crate::{units::Pfn, zone::Physical};

/// A reference to a folio: until it is dropped, the folio isn't freed, reused or moved. The last one frees it.
#[must_use = "the reference is given back when this is dropped"]
pub struct FolioRef<'p> {
    folio: Folio<'p>,
}

impl Physical {
    /// Takes a reference to the folio of frame `pfn`, its head or a tail. `None` if the frame is free, not published,
    /// or frozen by a move.
    ///
    /// Doesn't wait, and may be called in an interrupt.
    pub fn get(self: &Arc<Self>, pfn: Pfn) -> Option<FolioRef<'_>> {
        self.frames().get(pfn)?;
        loop {
            let head = self.frames().head_of(pfn);
            if !self.frame(head).try_get() {
                return None;
            }
            // The frame may have become part of another folio since its head was read. With the reference it can't any
            // more.
            let folio = FolioRef::from_counted(self, head);
            if self.frames().head_of(pfn) == head {
                return Some(folio);
            }
        }
    }
}

impl<'p> FolioRef<'p> {
    /// Takes over the caller's reference.
    #[inline]
    pub(crate) fn from_counted(physical: &'p Arc<Physical>, pfn: Pfn) -> Self {
        Self { folio: Folio { physical, pfn } }
    }

    /// Pins the folio for `who`, which reads it, and with `write` also writes it. It can't move until the pin is
    /// dropped.
    pub fn pin(self, write: bool, who: &str) -> PinnedPage {
        let head = self.pfn();
        self.pin_page(head, write, who)
    }

    /// As [`Self::pin`], for frame `pfn` of the folio.
    pub(crate) fn pin_page(self, pfn: Pfn, write: bool, who: &str) -> PinnedPage {
        let (physical, head) = (self.physical(), self.into_raw());
        PinnedPage::new(physical, head, pfn, write, who)
    }

    /// Marks the folio as being written to its backing store: moves skip it, or wait.
    pub fn start_writeback(self) -> Writeback<'p> {
        self.physical().frames().start_writeback(self.pfn());
        Writeback { folio: ManuallyDrop::new(self) }
    }

    /// Gives the frame number, for a container. The reference is given back only by [`Self::from_raw`] and a drop.
    #[inline]
    pub fn into_raw(self) -> Pfn {
        ManuallyDrop::new(self).pfn()
    }

    /// Makes a handle from a frame number.
    ///
    /// # Safety
    /// `pfn` was given by [`Self::into_raw`] of a reference to a folio of this memory, and no other handle has been made of it
    /// since.
    #[inline]
    pub unsafe fn from_raw(physical: &'p Arc<Physical>, pfn: Pfn) -> Self {
        Self::from_counted(physical, pfn)
    }
}

impl<'p> Deref for FolioRef<'p> {
    type Target = Folio<'p>;

    #[inline]
    fn deref(&self) -> &Folio<'p> {
        &self.folio
    }
}

impl Clone for FolioRef<'_> {
    fn clone(&self) -> Self {
        self.physical().frame(self.pfn()).get();
        Self::from_counted(self.physical(), self.pfn())
    }
}

impl Drop for FolioRef<'_> {
    #[inline]
    fn drop(&mut self) {
        self.physical().put(self.pfn());
    }
}

/// A folio that is being written to its backing store; dropping this ends that.
#[must_use = "the writing ends when this is dropped"]
pub struct Writeback<'p> {
    folio: ManuallyDrop<FolioRef<'p>>,
}

impl Writeback<'_> {
    /// Gives the head frame.
    pub fn pfn(&self) -> Pfn {
        self.folio.pfn()
    }
}

impl Drop for Writeback<'_> {
    fn drop(&mut self) {
        let (physical, pfn) = (self.folio.physical(), self.folio.pfn());
        physical.frames().end_writeback(pfn);
        physical.put(pfn);
        // Last, since a woken move needs our reference to be gone.
        physical.frames().wake_writeback(pfn);
    }
}
