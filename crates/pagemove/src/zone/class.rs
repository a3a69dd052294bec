//! The class that a folio counts as in the summaries of its pageblocks, kept up to date as its kind, mappings and pins change.

use super::Physical;
use crate::{
    frame::{Class, Frame, Kind, Marks},
    units::{Order, Pfn},
};

impl Physical {
    /// Counts a folio of `order` out of one class and into another, in every pageblock that it covers.
    #[inline]
    pub(crate) fn count(&self, pfn: Pfn, order: Order, from: Class, to: Class) {
        if from == to {
            return;
        }
        let block = self.blocks.order();
        if order <= block {
            self.blocks.moved(pfn, from, to, order.frames());
        } else {
            for part in 0..order.frames() / block.frames() {
                self.blocks.moved(pfn.up(part * block.frames()), from, to, block.frames());
            }
        }
    }

    /// Brings the class of a folio up to date with its kind, mappings and pins. The caller has a reference.
    pub(crate) fn update_class(&self, pfn: Pfn) {
        let frame = &self.frames[pfn];
        loop {
            let want = self.class_of(frame);
            let before = frame.swap_class(want);
            if before != want {
                self.count(pfn, frame.state().order(), before, want);
            }
            // Another thread may map or unmap between our look and our swap. The one that swaps last looks again.
            if self.class_of(frame) == want {
                return;
            }
        }
    }

    /// Does what [`Self::update_class`] does, without a change where there is none to make. The caller has locked the folio,
    /// so that nobody adds a mapping; a thread that removes one updates the class as well.
    pub(crate) fn update_class_if_changed(&self, pfn: Pfn) {
        let frame = &self.frames[pfn];
        if frame.state().class() != self.class_of(frame) {
            self.update_class(pfn);
        }
    }

    pub(super) fn class_of(&self, frame: &Frame) -> Class {
        match frame.state().kind() {
            kind if kind.is_movable() && (frame.pins() > 0 || frame.state().marks().contains(Marks::TRUNCATED)) => {
                Class::Pinned
            }
            Kind::Driver if frame.maps() > 0 => Class::DriverMapped,
            kind => kind.first_class(),
        }
    }
}
