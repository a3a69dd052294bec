//! The shared handle: a reference. And the same while a folio is written to its backing store.
#![allow(unsafe_code, reason = "`from_raw` has a contract")]

use alloc::sync::Arc;
use core::{mem::ManuallyDrop, ops::Deref};

use super::{Folio, PinnedPage};
use crate::{units::Pfn, zone::Physical};

/// A reference to a folio: it's not freed, reused or moved until this is dropped. The last one frees it.
#[must_use = "the reference is given back when this is dropped"]
pub struct FolioRef<'p> {
    folio: Folio<'p>,
}

impl Physical {
    /// Takes a reference to the folio that frame `pfn` belongs to, whether it's the first one or a tail. `None` if the frame is
    /// free, isn't published yet, or is frozen by a move.
    ///
    /// Doesn't wait, and may be called in an interrupt.
    pub fn get(self: &Arc<Self>, pfn: Pfn) -> Option<FolioRef<'_>> {
        self.frames().get(pfn)?;
        loop {
            let head = self.head_of(pfn);
            if !self.frame(head).try_get() {
                return None;
            }
            // It may have become another folio since its head was read; with the reference it stays this one.
            let folio = FolioRef::from_counted(self, head);
            if self.head_of(pfn) == head {
                return Some(folio);
            }
        }
    }
}

impl<'p> FolioRef<'p> {
    /// Wraps a reference of the caller's.
    #[inline]
    pub(crate) fn from_counted(physical: &'p Arc<Physical>, pfn: Pfn) -> Self {
        Self { folio: Folio { physical, pfn } }
    }

    /// Pins the folio for `who`, which reads it, and with `write` also writes it: it stays where it is until the pin is dropped.
    pub fn pin(self, write: bool, who: &str) -> PinnedPage {
        let (physical, pfn) = (self.physical(), self.into_raw());
        PinnedPage::new(physical, pfn, write, who)
    }

    /// Marks the folio as being written to its backing store: moves leave it, or wait.
    pub fn start_writeback(self) -> Writeback<'p> {
        self.physical().frames().start_writeback(self.pfn());
        Writeback { folio: ManuallyDrop::new(self) }
    }

    /// Gives the number, for a container that keeps it; the reference is given back only by [`Self::from_raw`] and a drop.
    #[inline]
    pub fn into_raw(self) -> Pfn {
        ManuallyDrop::new(self).pfn()
    }

    /// Makes the handle again.
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

/// A folio that is being written to its backing store, until this is dropped.
#[must_use = "the writing ends when this is dropped"]
pub struct Writeback<'p> {
    folio: ManuallyDrop<FolioRef<'p>>,
}

impl Writeback<'_> {
    /// Names the first frame.
    pub fn pfn(&self) -> Pfn {
        self.folio.pfn()
    }
}

impl Drop for Writeback<'_> {
    fn drop(&mut self) {
        let (physical, pfn) = (self.folio.physical(), self.folio.pfn());
        physical.frames().end_writeback(pfn);
        physical.put(pfn);
        // Last: a move that waited demands that nobody else has a reference.
        physical.frames().wake_writeback(pfn);
    }
}
