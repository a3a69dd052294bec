//! A processor's own lists of free order-0 frames, by migratetype, so that most allocations take no shared lock.

use alloc::vec::Vec;

use super::pageblock::Migratetype;
use crate::units::Pfn;

/// Frames fetched at once when a list is empty.
pub(super) const BATCH: usize = 64;
/// Frames kept at most; beyond that, half of them go back.
pub(super) const HIGH: usize = 1024;

/// Lists of one processor for one zone. On cache lines of its own.
#[repr(align(128))]
pub(super) struct CpuLists {
    lists: [Vec<Pfn>; 3],
}

impl CpuLists {
    pub(super) fn new() -> Self {
        Self { lists: core::array::from_fn(|_| Vec::with_capacity(HIGH + BATCH)) }
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
