//! Free-page reporting: takes free blocks whose memory the host hasn't got back, and frees them when it has (Linux 5.7,
//! `mm/page_reporting.c`; Virtio 1.2, 5.5.6.7). Meanwhile they are allocated, so that no lock is held while the host is told.

use super::{Physical, buddy::Buddy};
use crate::{
    frame::Kind,
    units::{Order, Pfn},
};

impl Physical {
    /// Takes a free block of exactly `order` that isn't reported, nor in an isolated pageblock.
    pub(crate) fn take_unreported(&self, order: Order) -> Option<Pfn> {
        let pfn = self.zones.iter().find_map(|zone| zone.buddy.lock().take_unreported(self.tables(), order))?;
        self.prepare_allocation(pfn, order, Kind::Kernel);
        Some(pfn)
    }

    /// Frees a folio that only the caller can use, and whose memory the host has.
    pub(crate) fn free_reported(&self, pfn: Pfn) {
        self.free_with(pfn, self.frames[pfn].state().order(), Buddy::give_reported);
    }

    /// Gives the number of free frames whose memory the host has.
    pub fn reported_frames(&self) -> u32 {
        self.zones.iter().map(|zone| zone.buddy.lock().reported_frames()).sum()
    }
}
