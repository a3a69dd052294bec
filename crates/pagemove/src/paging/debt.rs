//! The debt of a page-table change: a TLB flush, and until then the frames that stale translations still reach.

use alloc::vec::Vec;

use crate::{
    port::{FlushRange, SpaceId, might_wait},
    report::Counter,
    units::{Pfn, VirtAddr},
    zone::Physical,
};

/// Owed TLB flushes. References and tables added here are released after the flush, so no frame is reused before it.
///
/// # Invariants
/// A debt must be paid before it is dropped. Dropping an unpaid debt pays it, and panics with debug assertions: the
/// caller has probably already relied on the missing flush.
#[must_use = "translations stay in TLBs until the debt is paid"]
pub struct FlushDebt<'p> {
    physical: &'p Physical,
    ranges: Vec<FlushRange>,
    references: Vec<Pfn>,
    tables: Vec<Pfn>,
}

impl<'p> FlushDebt<'p> {
    /// Makes an empty debt.
    pub fn new(physical: &'p Physical) -> Self {
        Self { physical, ranges: Vec::new(), references: Vec::new(), tables: Vec::new() }
    }

    /// Reserves space for `pages` separate pages, so that adding them doesn't allocate.
    pub fn reserve(&mut self, pages: usize) {
        self.ranges.reserve(pages);
    }

    /// Owes a flush of `pages` pages from `start`.
    pub fn owe(&mut self, space: SpaceId, start: VirtAddr, pages: u32) {
        if let Some(last) = self.ranges.last_mut()
            && last.space == space
            && last.start.up(last.pages) == start
        {
            last.pages += pages;
        } else {
            self.ranges.push(FlushRange { space, start, pages });
        }
    }

    /// Keeps a reference until the flush.
    pub(crate) fn keep_reference(&mut self, pfn: Pfn) {
        self.references.push(pfn);
    }

    /// Keeps an unlinked page table until the flush.
    pub(crate) fn keep_table(&mut self, pfn: Pfn) {
        self.tables.push(pfn);
    }

    /// Tells whether nothing is owed.
    pub fn is_paid(&self) -> bool {
        self.ranges.is_empty() && self.references.is_empty() && self.tables.is_empty()
    }

    /// Flushes, then releases what was kept. The debt can be used again.
    pub fn pay(&mut self) {
        if !self.ranges.is_empty() {
            might_wait(self.physical.machine());
            self.physical.machine().flush(&self.ranges);
            self.physical.counters().add(Counter::TlbFlush, 1);
            self.physical.counters().add(Counter::TlbFlushRanges, self.ranges.len() as u64);
            self.ranges.clear();
        }
        for pfn in self.references.drain(..) {
            self.physical.put(pfn);
        }
        for pfn in self.tables.drain(..) {
            self.physical.free_frozen(pfn);
        }
    }
}

impl Drop for FlushDebt<'_> {
    fn drop(&mut self) {
        let paid = self.is_paid();
        self.pay();
        debug_assert!(paid, "a flush debt was dropped unpaid");
    }
}
