//! Splits 2 MiB entries and their pages into 4 KiB ones, when a change of mappings needs a part of one.

use super::{AddressSpace, SpaceError};
use crate::{
    folio::FrozenFolio,
    frame::{Class, Key, Kind, Marks, State},
    paging::{Entry, Flags, Slot},
    sync::Ordering,
    units::{FrameRange, HUGE_ORDER, Order, VirtAddr, VirtRange},
    zone::AllocError,
};

/// So often a split is tried whose page somebody else has a reference to: a move's goes away soon, a device's pin may not.
const MOST_TRIES: u32 = 10_000;

/// Why a 2 MiB entry was not split.
enum SplitError {
    OutOfMemory(AllocError),
    Busy(VirtAddr),
}

impl From<AllocError> for SplitError {
    fn from(error: AllocError) -> Self {
        Self::OutOfMemory(error)
    }
}

impl SplitError {
    fn at(self, stage: &'static str) -> SpaceError {
        match self {
            Self::OutOfMemory(cause) => SpaceError::OutOfMemory { stage, cause },
            Self::Busy(at) => SpaceError::Busy { stage, at },
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

    /// Splits the 2 MiB entry at `address`, if any: waits for a move of its page, then replaces it by a table of 512
    /// entries, one for each frame.
    fn split_at(&self, address: VirtAddr) -> Result<(), SplitError> {
        let start = address.align_down_huge();
        for _ in 0..MOST_TRIES {
            let Some(slot) = self.table.slot(start).filter(|slot| slot.order() == HUGE_ORDER) else { return Ok(()) };
            let entry = slot.load();
            if entry.is_migration() {
                self.physical().frames().wait_unlocked(entry.pfn());
                continue;
            }
            if !entry.is_present() {
                return Ok(());
            }
            let lower = self.table.new_leaf_table(|number| {
                Entry::present(entry.pfn().up(number), entry.flags() - Flags::PRESENT - Flags::HUGE)
            })?;
            // Take a reference before the lock: a move may free the frame for others at any time.
            let Some(folio) = self.physical().get(entry.pfn()) else {
                self.physical().machine().pause();
                continue;
            };
            let folio = folio.lock();
            if self.split_folio(start, &slot, entry, &lower) {
                // The table is in place, and our reference is one of the 512 entries'.
                let _ = (lower.into_raw(), folio.unlock().into_raw());
                return Ok(());
            }
            // A pin stays for long.
            if self.physical().frame(entry.pfn()).pins() > 0 {
                break;
            }
            drop(folio);
            // A move that waits for the lock holds the reference that is in our way; trying again at once would take the lock
            // from under it, for ever.
            self.physical().machine().pause();
        }
        Err(SplitError::Busy(start))
    }

    /// Does it under the frame's lock, and takes the caller's reference; false if the entry or the frame's references
    /// changed meanwhile, and then the reference is still the caller's.
    fn split_folio(&self, start: VirtAddr, slot: &Slot<'_>, entry: Entry, lower: &FrozenFolio<'_>) -> bool {
        let physical = self.physical();
        let head = physical.frame(entry.pfn());
        if slot.load() != entry {
            return false;
        }
        // Blocked during the split, so that accesses by the 2 MiB entry end before there are 512 frames. We hold the
        // address space and the frame's lock, so only the CPU's marks can change.
        let Some(before) = slot.update(|now| now.is_present().then(|| now.blocked())) else { return false };
        let mut debt = self.debt();
        debt.owe(self.table.root_of(), start, HUGE_ORDER);
        debt.pay();
        head.unmap();
        // The entry's reference and ours. A move waiting for the lock may hold another: let it go first.
        if !head.freeze(2) {
            head.map_with_reference();
            slot.replace(before.blocked(), before);
            return false;
        }
        let key = head.key();
        let dirty = head.state().marks() & Marks::DIRTY;
        // The head last: a look-up by a tail takes its reference at the head, so it gets none before each frame says what it is.
        for (number, pfn) in (FrameRange { start: entry.pfn(), frames: HUGE_ORDER.frames() }).iter().enumerate().rev() {
            let frame = physical.frame(pfn);
            frame.set_owner(0, Key { index: key.index + number as u32, ..key });
            frame.set_state(State::new(Kind::Anon, Class::Lru, Order::ZERO).with(dirty));
            frame.thaw(1, 1);
        }
        let marks = before.flags() & (Flags::ACCESSED | Flags::DIRTY);
        for word in lower.words(0) {
            word.fetch_or(marks.bits(), Ordering::Relaxed);
        }
        slot.replace(before.blocked(), Entry::table(lower.pfn()));
        true
    }
}
