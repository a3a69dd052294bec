//! Partly mapped folios: counted and marked, so that an allocation that is about to fail knows whether a split gives
//! memory back (Linux: the deferred split queue).
//!
//! The count is exact at a quiet point. A mark may be outdated, since a page can be mapped again.

use core::sync::atomic::Ordering;

use super::Physical;
use crate::{
    frame::{Kind, Marks},
    units::{FrameRange, Pfn},
};

impl Physical {
    /// Gives the number of anonymous folios that have had all mappings of some page removed, but not of all.
    pub fn partly_mapped(&self) -> u32 {
        self.pressure.partly_mapped.load(Ordering::Relaxed)
    }

    /// Marks a large anonymous folio after the last mapping of one of its pages was removed. The caller has a reference.
    pub(crate) fn mark_partly_mapped(&self, head: Pfn) {
        let frame = &self.frames[head];
        if frame.state().kind() == Kind::Anon && frame.maps() > 0 && frame.mark(Marks::PARTLY_MAPPED) {
            self.pressure.partly_mapped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Removes the mark, before the folio is freed, is split, or has moved.
    pub(crate) fn unmark_partly_mapped(&self, head: Pfn) {
        let frame = &self.frames[head];
        if frame.state().marks().contains(Marks::PARTLY_MAPPED) {
            frame.unmark(Marks::PARTLY_MAPPED);
            self.pressure.partly_mapped.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Finds the next marked folio from frame `from` on; it may be freed at any time.
    pub(crate) fn next_partly_mapped(&self, from: Pfn) -> Option<Pfn> {
        let left = |zone: FrameRange| {
            let start = zone.start.max(from);
            (start < zone.end()).then(|| FrameRange { start, frames: zone.end().offset_from(start) })
        };
        let mut frames = self.zones().filter_map(left).flat_map(FrameRange::iter);
        frames.find(|&pfn| {
            let state = self.frames[pfn].state();
            state.kind() == Kind::Anon && state.marks().contains(Marks::PARTLY_MAPPED)
        })
    }
}
