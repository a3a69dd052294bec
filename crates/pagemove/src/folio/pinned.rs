//! A pinned page: a device's reference to a folio, by name.
//!
//! Until the pin is dropped the folio isn't moved, freed or reused, and [`Pins`](crate::frame::Pins) names the holder.

use alloc::{string::String, sync::Arc};

use crate::{frame::Marks, sync::AtomicU64, units::Pfn, zone::Physical};

/// A pinned page; unpinned when dropped.
pub struct PinnedPage {
    physical: Arc<Physical>,
    pfn: Pfn,
    write: bool,
    who: String,
}

impl PinnedPage {
    /// Turns the caller's reference into a pin for `who`, for reading, or with `write` for both.
    pub(crate) fn new(physical: &Arc<Physical>, pfn: Pfn, write: bool, who: &str) -> Self {
        physical.frame(pfn).pin();
        physical.pins().add(pfn, who, physical.machine().now_ns());
        physical.update_class(pfn);
        Self { physical: physical.clone(), pfn, write, who: who.into() }
    }

    /// Gives the frame, which the page keeps until this is dropped.
    pub fn pfn(&self) -> Pfn {
        self.pfn
    }

    /// Views the contents of frame number `frame` of the folio, as a device would by DMA. Panics if it has no such frame.
    pub fn words(&self, frame: u32) -> &[AtomicU64; 512] {
        self.physical.folio_words(self.pfn, frame)
    }
}

impl Drop for PinnedPage {
    fn drop(&mut self) {
        let frame = self.physical.frame(self.pfn);
        if self.write {
            frame.mark(Marks::DIRTY);
        }
        self.physical.pins().remove(self.pfn, &self.who);
        frame.unpin();
        self.physical.update_class(self.pfn);
        self.physical.put(self.pfn);
    }
}
