//! The class of a folio in the summaries of its pageblocks, updated as its kind, mappings and pins change.

use super::Physical;
use crate::{
    frame::{Class, Frame, Kind, Marks},
    units::{Order, Pfn},
};

impl Physical {
    /// Moves a folio of `order` from one class to another, in the summary of every pageblock that it covers.
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

    /// Updates the class of `pfn`'s folio from its kind, mappings and pins. The caller has a reference.
    pub(crate) fn update_class(&self, pfn: Pfn) {
        let pfn = self.frames.head_of(pfn);
        let frame = &self.frames[pfn];
        loop {
            let want = self.class_of(frame);
            let before = frame.swap_class(want);
            if before != want {
                self.count(pfn, frame.state().order(), before, want);
            }
            // Another thread may map or unmap between our read and our swap; the last one to swap reads again.
            if self.class_of(frame) == want {
                return;
            }
        }
    }

    /// As [`Self::update_class`], but writes only if the class differs. The caller holds the folio's lock, so nobody
    /// adds a mapping; a thread that removes one updates the class as well.
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
            Kind::PageTable if frame.state().is_space_table() => Class::SpaceTable,
            kind => kind.first_class(),
        }
    }
}
