//! What all handles tell of their folio.

use alloc::sync::Arc;

use crate::{
    frame::Key,
    sync::AtomicU64,
    units::{Order, Pfn},
    zone::Physical,
};

/// A folio, as its handles show it. Seen through a handle only, and no longer than that is held.
pub struct Folio<'p> {
    pub(super) physical: &'p Arc<Physical>,
    pub(super) pfn: Pfn,
}

impl<'p> Folio<'p> {
    /// Gives the head frame.
    #[inline]
    pub fn pfn(&self) -> Pfn {
        self.pfn
    }

    /// Gives its memory.
    #[inline]
    pub fn physical(&self) -> &'p Arc<Physical> {
        self.physical
    }

    /// Gives its place in its object.
    pub fn key(&self) -> Key {
        self.physical.frame(self.pfn).key()
    }

    /// Gives the number of the folio's frame that has the page at `index` of its object.
    pub fn number_of(&self, index: u32) -> Option<u32> {
        let number = index.wrapping_sub(self.key().index);
        (number < self.order().frames()).then_some(number)
    }

    /// Gives the order.
    pub fn order(&self) -> Order {
        self.physical.frame(self.pfn).state().order()
    }

    /// Views the contents of frame number `frame` of the folio, which others may change at the same time, unless the handle is
    /// exclusive. Panics if it has no such frame.
    pub fn words(&self, frame: u32) -> &[AtomicU64; 512] {
        self.physical.folio_words(self.pfn, frame)
    }
}
