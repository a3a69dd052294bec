//! Splits 2 MiB entries, when a change of mappings needs a part of one. The folio stays whole.

use super::{AddressSpace, SpaceError, vma::Vmas};
use crate::{
    folio::FolioRef,
    paging::Format,
    rmap::{SplitError, split_entry},
    units::{HUGE_ORDER, Pfn, VirtAddr, VirtRange},
};

impl SplitError {
    pub(super) fn at(self, stage: &'static str) -> SpaceError {
        match self {
            Self::OutOfMemory(cause) => SpaceError::OutOfMemory { stage, cause },
            Self::TooManyMappings(cause) => SpaceError::TooManyMappings { stage, cause },
        }
    }
}

/// Why a change of mappings stops.
pub(super) enum Stop {
    /// The folio of this frame, a 2 MiB page to be split, is locked: wait for it without the address space's lock, and begin again.
    Wait(Pfn),
    /// It fails.
    Failed(SpaceError),
}

impl From<SpaceError> for Stop {
    fn from(error: SpaceError) -> Self {
        Self::Failed(error)
    }
}

impl<F: Format> AddressSpace<F> {
    /// Changes mappings. `deed` may have to split 2 MiB pages first, before it has changed anything else; it gives mappings that
    /// are gone to its second argument, since dropping a file for the last time may sleep.
    pub(super) fn change<T>(
        &self,
        mut deed: impl FnMut(&mut Vmas, &mut Vmas) -> Result<T, Stop>,
    ) -> Result<T, SpaceError> {
        self.might_wait();
        loop {
            let mut gone = Vmas::default();
            let result = deed(&mut self.vmas.write(), &mut gone);
            drop(gone);
            match result {
                Ok(done) => return Ok(done),
                Err(Stop::Failed(error)) => return Err(error),
                Err(Stop::Wait(pfn)) => drop(self.physical().frames().wait_unlocked(pfn)),
            }
        }
    }

    /// Splits the 2 MiB entries that the edges of `range` cut. The caller holds the address space exclusively.
    pub(super) fn split_edges(&self, range: VirtRange, stage: &'static str) -> Result<(), Stop> {
        let cut = [range.start(), range.end()].into_iter().filter(|&edge| edge != edge.align_down_huge());
        cut.into_iter().try_for_each(|edge| self.split_for(edge, stage))
    }

    /// Splits all 2 MiB entries of `range`. The caller holds the address space exclusively.
    pub(super) fn split_range(&self, range: VirtRange, stage: &'static str) -> Result<(), Stop> {
        let mut at = range.start().align_down_huge();
        while at < range.end() {
            self.split_for(at, stage)?;
            at = at.up(HUGE_ORDER.frames());
        }
        Ok(())
    }

    /// Splits the 2 MiB entry at `address`, if any, for a change of mappings.
    pub(super) fn split_for(&self, address: VirtAddr, stage: &'static str) -> Result<(), Stop> {
        match self.split_at(address) {
            Ok(None) => Ok(()),
            Ok(Some(locked)) => Err(Stop::Wait(locked)),
            Err(error) => Err(error.at(stage).into()),
        }
    }

    /// Splits the 2 MiB entry at `address`, if any. The caller holds the address space. Gives the frame to wait for if its
    /// folio is locked, by a move for example.
    pub(super) fn split_at(&self, address: VirtAddr) -> Result<Option<Pfn>, SplitError> {
        let start = address.align_down_huge();
        loop {
            let Some(slot) = self.table.slot(start).filter(|slot| slot.order() == HUGE_ORDER) else { return Ok(None) };
            let entry = slot.load();
            if entry.is_none() {
                return Ok(None);
            }
            // A migration entry has no reference, so the frame may be another folio's by now: then the wait is short.
            let Some(Ok(folio)) = self.physical().get(entry.pfn()).map(FolioRef::try_lock) else {
                return Ok(Some(entry.pfn()));
            };
            if entry.is_migration() {
                // Its move has ended meanwhile.
                continue;
            }
            // Does nothing if the entry has changed, so look again.
            split_entry(&folio, &self.table, slot, start)?;
        }
    }
}
