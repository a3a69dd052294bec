//! Splits 2 MiB entries, when a change of mappings needs a part of one. The folio stays whole.

use super::{AddressSpace, SpaceError};
use crate::{
    rmap::{SplitError, split_entry},
    units::{HUGE_ORDER, VirtAddr, VirtRange},
};

impl SplitError {
    pub(super) fn at(self, stage: &'static str) -> SpaceError {
        match self {
            Self::OutOfMemory(cause) => SpaceError::OutOfMemory { stage, cause },
            Self::TooManyMappings(cause) => SpaceError::TooManyMappings { stage, cause },
        }
    }
}

impl AddressSpace {
    /// Splits the 2 MiB entries that the edges of `range` cut. The caller holds the address space exclusively.
    pub(super) fn split_edges(&self, range: VirtRange, stage: &'static str) -> Result<(), SpaceError> {
        for edge in [range.start(), range.end()] {
            if edge != edge.align_down_huge() {
                self.split_at(edge).map_err(|error| error.at(stage))?;
            }
        }
        Ok(())
    }

    /// Splits all 2 MiB entries of `range`. The caller holds the address space exclusively.
    pub(super) fn split_range(&self, range: VirtRange, stage: &'static str) -> Result<(), SpaceError> {
        let mut at = range.start().align_down_huge();
        while at < range.end() {
            self.split_at(at).map_err(|error| error.at(stage))?;
            at = at.up(HUGE_ORDER.frames());
        }
        Ok(())
    }

    /// Splits the 2 MiB entry at `address`, if any; waits for a move of its folio. The caller holds the address space.
    pub(super) fn split_at(&self, address: VirtAddr) -> Result<(), SplitError> {
        let start = address.align_down_huge();
        loop {
            let Some(slot) = self.table.slot(start).filter(|slot| slot.order() == HUGE_ORDER) else { return Ok(()) };
            let entry = slot.load();
            if entry.is_migration() {
                self.physical().frames().wait_unlocked(entry.pfn());
                continue;
            }
            if !entry.is_present() {
                return Ok(());
            }
            // Take a reference before the lock: a move may free the frame for others at any time.
            let Some(folio) = self.physical().get(entry.pfn()) else {
                self.physical().machine().pause();
                continue;
            };
            // Does nothing if the entry has changed, so look again.
            split_entry(&folio.lock(), &self.table, slot, start)?;
        }
    }
}
