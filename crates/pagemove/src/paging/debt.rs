//! The debt of a page-table change: a TLB flush, and until then the frames that stale translations still reach.

use alloc::{sync::Arc, vec::Vec};

use super::Root;
use crate::{
    port::{FlushRange, might_wait},
    report::Counter,
    units::{Order, Pfn, VirtAddr, VirtRange},
    zone::Physical,
};

/// The most ranges, references or tables of one flush (Linux: about 10,000 pages). A process's exit needs no more memory than that.
const MOST: usize = 4096;

/// Owed TLB flushes. References and tables added here are released after the flush, so no frame is reused before it.
///
/// Freeing memory must not need memory: where a debt can't grow, it is paid in parts, in the worst case page by page.
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
    /// last flush, changes of the address space's mappings owe one too where they find no entry.
    pub(crate) fn announce(&mut self, root: &Arc<Root>) {
        if self.announced.last().is_none_or(|last| !Arc::ptr_eq(last, root)) {
            if !has_room(&mut self.announced) {
                // All that was taken out so far is flushed by this, so what was announced for it may end.
                self.pay();
            }
            root.announce();
            // Without memory to remember it, it is announced for good: then changes flush more than they need to.
            if has_room(&mut self.announced) {
                self.announced.push(root.clone());
            }
        }
    }

    /// Owes the flush of `range` if entries there that are gone may be in TLBs, by another debt that isn't paid yet. The
    /// caller has seen all entries, and holds the address space exclusively.
    pub(crate) fn owe_pending(&mut self, root: &Arc<Root>, range: VirtRange) {
        if root.is_pending() {
            // Whatever their order was.
            self.push(root, range.start(), range.pages(), Order::ZERO, true);
        }
    }

    /// Owes the flush of an entry that maps 2^`order` pages from `start`.
    pub(crate) fn owe(&mut self, root: &Arc<Root>, start: VirtAddr, order: Order) {
        // The last range is of the last root.
        if self.is_last(root)
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
        self.push(root, start, pages, Order::ZERO, true);
        if has_room(&mut self.tables) {
            self.tables.push(table);
        } else {
            self.pay_part();
            self.physical.free_frozen(table);
        }
    }

    /// Owes the flush of what CPUs keep of the upper levels for `start`, since a table moves. The pages stay where they are, but
    /// a flush has at least one.
    pub(super) fn owe_tables_changed(&mut self, root: &Arc<Root>, start: VirtAddr) {
        self.push(root, start, 1, Order::ZERO, true);
    }

    fn push(&mut self, root: &Arc<Root>, start: VirtAddr, pages: u32, order: Order, tables_changed: bool) {
        let range = FlushRange { space: root.space(), start, pages, order, tables_changed };
        if !has_room(&mut self.ranges) || !has_room(&mut self.roots) {
            self.pay_part();
            if !has_room(&mut self.ranges) || !has_room(&mut self.roots) {
                self.flush(&[range]);
                return;
            }
        }
        if !self.is_last(root) {
            self.roots.push(root.clone());
        }
        self.ranges.push(range);
    }

    /// Tells whether the last range is of `root`.
    fn is_last(&self, root: &Arc<Root>) -> bool {
        self.roots.last().is_some_and(|last| Arc::ptr_eq(last, root))
    }

    /// Keeps a reference to the folio of `pfn` until the flush.
    pub(crate) fn keep_reference(&mut self, physical: &Physical, pfn: Pfn) {
        assert!(core::ptr::eq(self.physical, physical), "a flush debt was given a frame of another memory");
        let head = physical.frames().head_of(pfn);
        if let Some((last, references)) = self.references.last_mut()
            && *last == head
        {
            // The pages of a large folio mostly come together.
            *references += 1;
        } else if has_room(&mut self.references) {
            self.references.push((head, 1));
        } else {
            self.pay_part();
            self.physical.put_many(head, 1);
        }
    }

    /// Tells whether nothing is owed.
    pub fn is_paid(&self) -> bool {
        self.ranges.is_empty() && self.references.is_empty() && self.tables.is_empty()
    }

    /// Flushes, then releases what was kept. The debt can be used again.
    pub fn pay(&mut self) {
        self.pay_ranges();
        self.announced.drain(..).for_each(|root| root.paid());
        self.release();
    }

    /// Pays what is owed so far. More will be taken out, so what is announced stays so.
    fn pay_part(&mut self) {
        self.pay_ranges();
        self.release();
    }

    fn pay_ranges(&mut self) {
        if !self.ranges.is_empty() {
            self.flush(&self.ranges);
            self.ranges.clear();
        }
        self.roots.clear();
    }

    fn flush(&self, ranges: &[FlushRange]) {
        might_wait(self.physical.machine());
        self.physical.machine().flush(ranges);
        self.physical.counters().add(Counter::TlbFlush, 1);
        self.physical.counters().add(Counter::TlbFlushRanges, ranges.len() as u64);
    }

    fn release(&mut self) {
        for (head, references) in self.references.drain(..) {
            self.physical.put_many(head, references);
        }
        for pfn in self.tables.drain(..) {
            self.physical.free_frozen(pfn);
        }
    }
}

/// Tells whether one more can be added without more memory than a debt may have.
fn has_room<T>(list: &mut Vec<T>) -> bool {
    list.len() < MOST && list.try_reserve(1).is_ok()
}

impl Drop for FlushDebt<'_> {
    fn drop(&mut self) {
        let paid = self.is_paid();
        self.pay();
        debug_assert!(paid, "a flush debt was dropped unpaid");
    }
}
