//! Counts of the entries that map a folio, and of those that map each of its pages.
//!
//! An entry maps one page, or a whole folio of order 9. The head's word counts all entries, each with a reference, since
//! that is what a freeze compares. A folio of order 0 needs no more. In a larger one each page also has a count of its
//! own, so that a partly mapped folio is known, and a page that only one entry maps:
//!
//! | count of | is in |
//! | --- | --- |
//! | page n > 0 | `pins` of tail n |
//! | page 0 | `owner` of tail 1 |
//! | entries that map the whole folio | `owner` of tail 2 |
//!
//! Tails need these fields for nothing else: owner and pins are those of the folio, at its head. The caller of each call
//! has a reference to the folio, an entry's included, or its lock; so the folio isn't split meanwhile.

use super::{Frame, FrameTable, Kind, TooManyMappings};
use crate::{
    sync::{AtomicU32, Ordering},
    units::{Order, Pfn},
};

impl FrameTable {
    /// Gives the head frame of `pfn`'s folio at this moment: folios are aligned to their size, and a tail has its
    /// order.
    pub(crate) fn head_of(&self, pfn: Pfn) -> Pfn {
        let state = self[pfn].state();
        if state.kind() == Kind::Tail { pfn.align_down(state.order()) } else { pfn }
    }

    /// Gives the head of `pfn`'s folio.
    pub(crate) fn head(&self, pfn: Pfn) -> &Frame {
        &self[self.head_of(pfn)]
    }

    /// Counts an entry of `order` for `pfn`, and its reference, before it is put into a table.
    pub(crate) fn map(&self, pfn: Pfn, order: Order) -> Result<(), TooManyMappings> {
        let head = self.head_of(pfn);
        self.count_page(head, pfn, order);
        self[head].map(1).inspect_err(|_| self.uncount_page(head, pfn, order))
    }

    /// Counts an entry for each page of the folio at `head`, and their references.
    pub(crate) fn map_pages(&self, head: Pfn) -> Result<(), TooManyMappings> {
        let pages = self[head].state().order().frames();
        self[head].map(pages)?;
        (0..pages).for_each(|page| self.count_page(head, head.up(page), Order::ZERO));
        Ok(())
    }

    /// Uncounts an entry for each page of the folio at `head`, and their references; the caller has another one.
    pub(crate) fn unmap_pages(&self, head: Pfn) {
        let pages = self[head].state().order().frames();
        (0..pages).for_each(|page| self.uncount_page(head, head.up(page), Order::ZERO));
        self[head].unmap_with_reference(pages);
    }

    /// Counts an entry again that its move uncounted when it blocked it; for rebinding, which can't fail.
    pub(crate) fn map_again(&self, pfn: Pfn, order: Order) {
        let frame = &self[pfn];
        if frame.state().order() == Order::ZERO {
            // A base folio: a tail has its folio's order.
            frame.map_again();
            return;
        }
        let head = self.head_of(pfn);
        self[head].map_again();
        self.count_page(head, pfn, order);
    }

    /// Uncounts an entry after it was taken out of a table; the caller keeps its reference. Gives the head of a large
    /// folio of which nothing maps that page any more.
    pub(crate) fn unmap(&self, pfn: Pfn, order: Order) -> Option<Pfn> {
        let frame = &self[pfn];
        if frame.state().order() == Order::ZERO {
            frame.unmap();
            return None;
        }
        let head = self.head_of(pfn);
        // The head first, and the page with Release: a thread that takes the page for its own, since nobody else maps it
        // any more, must see in the head's word that the caller still has the entry's reference, until it has flushed.
        self[head].unmap();
        self.uncount_page(head, pfn, order);
        (self.page_maps(pfn) == 0).then_some(head)
    }

    /// Uncounts an entry after it was taken out of a table, and its reference; the caller has another one.
    pub(crate) fn unmap_with_reference(&self, pfn: Pfn, order: Order) {
        let head = self.head_of(pfn);
        self.uncount_page(head, pfn, order);
        self[head].unmap_with_reference(1);
    }

    /// Uncounts `entries` entries of the folio at `head`, whose pages' own counts are uncounted, and their references.
    pub(crate) fn unmap_counted(&self, head: Pfn, entries: u32) {
        self[head].unmap_with_reference(entries);
    }

    /// Makes a frozen folio one that an entry of its own order maps, with its reference.
    pub(crate) fn thaw_mapped(&self, head: Pfn, order: Order) {
        self.count_page(head, head, order);
        self[head].counts.thaw(1, 1);
    }

    /// Gives the number of entries that map the page of frame `pfn`, alone or with its folio.
    pub fn page_maps(&self, pfn: Pfn) -> u32 {
        let head = self.head_of(pfn);
        match self.count(head, pfn, Order::ZERO) {
            None => self[head].maps(),
            // Acquire: see `unmap`.
            Some(count) => count.load(Ordering::Acquire) + self.whole_maps(head),
        }
    }

    /// Gives the number of entries that map the whole folio at `head`, which is of an order above 0.
    pub(crate) fn whole_maps(&self, head: Pfn) -> u32 {
        if self[head].state().order().frames() < 3 {
            return 0;
        }
        self[head.up(2)].owner.load(Ordering::Acquire)
    }

    /// Tells whether some pages of the folio at `head` are mapped, but not all.
    pub fn is_partly_mapped(&self, head: Pfn) -> bool {
        let frame = &self[head];
        frame.maps() > 0 && (0..frame.state().order().frames()).any(|page| self.page_maps(head.up(page)) == 0)
    }

    /// Tells whether the counts of the pages of the folio at `head` sum up to its own; at a quiet point.
    pub(crate) fn are_mappings_counted(&self, head: Pfn) -> bool {
        let order = self[head].state().order();
        let of_page =
            |page| self.count(head, head.up(page), Order::ZERO).map_or(0, |count| count.load(Ordering::Relaxed));
        let of_pages: u32 = (0..order.frames()).map(of_page).sum();
        order == Order::ZERO || of_pages + self.whole_maps(head) == self[head].maps()
    }

    /// Clears the counts of a new folio's tail, which may have any values from its earlier use.
    pub(crate) fn clear_tail(&self, tail: Pfn) {
        self[tail].owner.store(0, Ordering::Relaxed);
    }

    fn count_page(&self, head: Pfn, pfn: Pfn, order: Order) {
        if let Some(count) = self.count(head, pfn, order) {
            // Relaxed: the caller has the reference that the entry will have.
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Uncounts an entry of `order` for the page of `pfn` only; [`Self::unmap_counted`] follows for the folio.
    pub(crate) fn uncount_page(&self, head: Pfn, pfn: Pfn, order: Order) {
        if let Some(count) = self.count(head, pfn, order) {
            // Release: see `unmap`.
            let before = count.fetch_sub(1, Ordering::Release);
            assert_ne!(before, 0, "more entries were removed than the page had");
        }
    }

    /// The count of an entry of `order` for `pfn` beside the head's; `None` for a base folio.
    fn count(&self, head: Pfn, pfn: Pfn, order: Order) -> Option<&AtomicU32> {
        if pfn == head && self[head].state().order() == Order::ZERO {
            return None;
        }
        Some(match (order, pfn.offset_from(head)) {
            (Order::ZERO, 0) => &self[head.up(1)].owner,
            (Order::ZERO, _) => &self[pfn].pins,
            _ => &self[head.up(2)].owner,
        })
    }
}
