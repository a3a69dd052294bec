//! A pinned page: a device's reference to a folio, by name.
//!
//! Until the pin is dropped the folio isn't moved, freed or reused, and [`Pins`](crate::frame::Pins) names the holder.

use alloc::{string::String, sync::Arc};

use crate::{frame::Marks, sync::AtomicU64, units::Pfn, zone::Physical};

/// A pinned page; unpinned when dropped.
pub struct PinnedPage {
    physical: Arc<Physical>,
    head: Pfn,
    pfn: Pfn,
    write: bool,
    who: String,
}

impl PinnedPage {
    /// Turns the caller's reference to the folio at `head` into a pin of its frame `pfn`, for `who`, for reading, or with
    /// `write` for both.
    pub(crate) fn new(physical: &Arc<Physical>, head: Pfn, pfn: Pfn, write: bool, who: &str) -> Self {
        physical.frame(head).pin();
        physical.pins().add(pfn, who, physical.machine().now_ns());
        physical.update_class(head);
        Self { physical: physical.clone(), head, pfn, write, who: who.into() }
    }

    /// Gives the pinned page's frame. Until this is dropped all of its folio stays where it is.
    pub fn pfn(&self) -> Pfn {
        self.pfn
    }

    /// Views the contents of the folio's frame number `frame` from the pinned one on, as a device would by DMA. Panics if
    /// the folio ends before.
    pub fn words(&self, frame: u32) -> &[AtomicU64; 512] {
        self.physical.folio_words(self.head, self.pfn.offset_from(self.head) + frame)
    }
}

impl Drop for PinnedPage {
    fn drop(&mut self) {
        let frame = self.physical.frame(self.head);
        if self.write {
            frame.mark(Marks::DIRTY);
        }
        self.physical.pins().remove(self.pfn, &self.who);
        frame.unpin();
        self.physical.update_class(self.head);
        self.physical.put(self.head);
    }
}
