//! A processor's own lists of free order-0 frames, by migratetype, so that most allocations take no shared lock.

use alloc::vec::Vec;

use super::pageblock::Migratetype;
use crate::units::Pfn;

/// Frames fetched at once when a list is empty.
pub(super) const BATCH: usize = 64;
/// Most frames that a list keeps, however large the zone.
const HIGHEST: usize = 4096;

/// The lock of a processor's lists. It spins: held for a few instructions, and others come for it only to drain the lists;
/// who finds it held by a thread of the same processor goes to the zone's lock instead.
pub(super) type CpuLock = spin::mutex::SpinMutex<CpuLists>;

/// Lists of one processor for one zone. On cache lines of its own.
#[repr(align(128))]
pub(super) struct CpuLists {
    lists: [Vec<Pfn>; 3],
    high: usize,
}

impl CpuLists {
    /// Gives the bytes of one processor's lists.
    pub(super) fn bytes(&self) -> usize {
        size_of::<CpuLock>() + self.lists.iter().map(Vec::capacity).sum::<usize>() * size_of::<Pfn>()
    }

    /// Gives the number of frames beyond which a list gives half of them back.
    pub(super) fn high(&self) -> usize {
        self.high
    }

    /// Makes empty lists for a zone of `frames` frames that `cpus` processors share; all lists together keep at most an
    /// eighth of it, as in Linux since 5.14.
    pub(super) fn new(frames: u32, cpus: usize) -> Self {
        let high = (frames as usize / 8 / cpus / 3).clamp(BATCH, HIGHEST);
        Self { lists: core::array::from_fn(|_| Vec::with_capacity(high + BATCH)), high }
    }

    /// Gives the list of `migratetype`; isolated blocks have none.
    pub(super) fn list(&mut self, migratetype: Migratetype) -> Option<&mut Vec<Pfn>> {
        self.lists.get_mut(migratetype as usize)
    }

    /// Empties all lists into `out`.
    pub(super) fn drain(&mut self, mut out: impl FnMut(Pfn)) {
        self.lists.iter_mut().flat_map(|list| list.drain(..)).for_each(&mut out);
    }
}
