//! The debt of a page-table change: a TLB flush, and until then the frames that stale translations still reach.

use alloc::{sync::Arc, vec::Vec};

use super::Root;
use crate::{
    port::{FlushRange, might_wait},
    report::Counter,
    units::{Order, Pfn, VirtAddr, VirtRange},
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
    // Of the spaces that `ranges` name.
    roots: Vec<Arc<Root>>,
    // Those from which entries are taken out without the address space's lock.
    announced: Vec<Arc<Root>>,
    // Heads, each with the number of references.
    references: Vec<(Pfn, u32)>,
    tables: Vec<Pfn>,
}

impl<'p> FlushDebt<'p> {
    /// Makes an empty debt.
    pub fn new(physical: &'p Physical) -> Self {
        Self {
            physical,
            ranges: Vec::new(),
            roots: Vec::new(),
            announced: Vec::new(),
            references: Vec::new(),
            tables: Vec::new(),
        }
    }

    /// Reserves space for `pages` separate pages, so that adding them doesn't allocate.
    pub fn reserve(&mut self, pages: usize) {
        self.ranges.reserve(pages);
        self.roots.reserve(pages);
    }

    /// Says that entries of `root` will be taken out without its address space's lock, before the first one is. Until the
    /// flush, changes of the address space's mappings owe one too where they find no entry.
    pub(crate) fn announce(&mut self, root: &Arc<Root>) {
        if self.announced.last().is_none_or(|last| !Arc::ptr_eq(last, root)) {
            root.announce();
            self.announced.push(root.clone());
        }
    }

    /// Owes the flush of `range` if entries there that are gone may be in TLBs, by another debt that isn't paid yet. The
    /// caller has seen all entries, and holds the address space exclusively.
    pub(crate) fn owe_pending(&mut self, root: &Arc<Root>, range: VirtRange) {
        if root.is_pending() {
            self.keep_root(root);
            // Whatever their order was.
            self.push(root, range.start(), range.pages(), Order::ZERO, true);
        }
    }

    /// Owes the flush of an entry that maps 2^`order` pages from `start`.
    pub(crate) fn owe(&mut self, root: &Arc<Root>, start: VirtAddr, order: Order) {
        // The last range is of the last root.
        if self.keep_root(root)
            && let Some(last) = self.ranges.last_mut()
            && last.start.up(last.pages) == start
            && last.order == order
            && !last.tables_changed
        {
            last.pages += order.frames();
            return;
        }
        self.push(root, start, order.frames(), order, false);
    }

    /// Owes the flush of a table, taken out of its tree, that serves `pages` pages from `start`; keeps it until then.
    pub(crate) fn owe_table(&mut self, root: &Arc<Root>, start: VirtAddr, pages: u32, table: Pfn) {
        self.keep_root(root);
        self.push(root, start, pages, Order::ZERO, true);
        self.tables.push(table);
    }

    /// Owes the flush of what CPUs keep of the upper levels for `start`, since a table moves. The pages stay where they are, but
    /// a flush has at least one.
    pub(super) fn owe_tables_changed(&mut self, root: &Arc<Root>, start: VirtAddr) {
        self.keep_root(root);
        self.push(root, start, 1, Order::ZERO, true);
    }

    fn push(&mut self, root: &Arc<Root>, start: VirtAddr, pages: u32, order: Order, tables_changed: bool) {
        self.ranges.push(FlushRange { space: root.space(), start, pages, order, tables_changed });
    }

    /// Keeps a root until the flush; tells whether it was the last one already.
    fn keep_root(&mut self, root: &Arc<Root>) -> bool {
        let is_last = self.roots.last().is_some_and(|last| Arc::ptr_eq(last, root));
        if !is_last {
            self.roots.push(root.clone());
        }
        is_last
    }

    /// Keeps a reference to the folio of `pfn` until the flush.
    pub(crate) fn keep_reference(&mut self, physical: &Physical, pfn: Pfn) {
        assert!(core::ptr::eq(self.physical, physical), "a flush debt was given a frame of another memory");
        let head = physical.frames().head_of(pfn);
        match self.references.last_mut() {
            // The pages of a large folio mostly come together.
            Some((last, references)) if *last == head => *references += 1,
            _ => self.references.push((head, 1)),
        }
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
        self.roots.clear();
        self.announced.drain(..).for_each(|root| root.paid());
        for (head, references) in self.references.drain(..) {
            self.physical.put_many(head, references);
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
