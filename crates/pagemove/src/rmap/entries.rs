//! A process's entries for pages of an object: found in its page table, blocked, rebound, removed and split.
//!
//! The format of the table is hidden here: [`super::RangeMap`] has page tables as [`Entries`], and asks each once for all pages of
//! a batch.

use alloc::sync::Arc;
use core::ops::Range;

use super::{SplitError, split_entry};
use crate::{
    folio::{LockedFolio, Migration},
    paging::{Cursor, Entry, Flags, FlushDebt, Format, PageTable, Root, Slot},
    port::Space,
    units::{Order, Pfn, VirtAddr, VirtRange},
    zone::Physical,
};

/// Where pages of an object are mapped: their offsets in it, and the address of the first.
pub(crate) struct Placed {
    pub(super) pages: Range<u32>,
    pub(super) start: VirtAddr,
}

/// A page table, by what a reverse map wants of it. `at` is a mapping of the table's process, which the caller keeps; the
/// calls keep the tables where they are.
pub(crate) trait Entries: Send + Sync {
    /// The address space.
    fn space(&self) -> Space;

    /// Blocks the entries of those folios that are to be blocked ([`Migration::is_blocked`]).
    fn block(&self, at: &Placed, physical: &Physical, folios: &[Migration], debt: &mut FlushDebt<'_>);

    /// As [`ReverseMap::rebind`](super::ReverseMap::rebind).
    fn rebind(&self, at: &Placed, physical: &Physical, folios: &[Migration]);

    /// As [`ReverseMap::unmap`](super::ReverseMap::unmap).
    fn unmap(&self, at: &Placed, folio: &LockedFolio<'_>, debt: &mut FlushDebt<'_>);

    /// As [`ReverseMap::split`](super::ReverseMap::split).
    fn split(&self, at: &Placed, folio: &LockedFolio<'_>) -> Result<(), SplitError>;
}

impl<F: Format> Entries for PageTable<F> {
    fn space(&self) -> Space {
        self.space()
    }

    fn block(&self, at: &Placed, physical: &Physical, folios: &[Migration], debt: &mut FlushDebt<'_>) {
        // Entries of one folio mostly come together, and are uncounted together.
        let mut run = (Pfn::default(), 0);
        for_each_slot(self, at, folios, |folio, found| {
            if folio.is_blocked && block_slot(physical, folio.src, self, &found, debt) {
                if run.0 != folio.src {
                    uncount(physical, run);
                    run = (folio.src, 0);
                }
                run.1 += 1;
            }
        });
        uncount(physical, run);
    }

    fn rebind(&self, at: &Placed, physical: &Physical, folios: &[Migration]) {
        for_each_slot(self, at, folios, |folio, Found { slot, number, .. }| {
            let (from, to) = (folio.src.up(number), folio.target().up(number));
            let mut entry = slot.load();
            // Others may change a migration entry (mprotect, fork) or take it out meanwhile, so retry.
            while entry.is_migration() && entry.pfn() == from {
                physical.frames().map_again(to, slot.order());
                match slot.swap_if(entry, entry.unblocked(to)) {
                    Ok(()) => break,
                    Err(now) => {
                        physical.frames().unmap_with_reference(to, slot.order());
                        entry = now;
                    }
                }
            }
        });
    }

    fn unmap(&self, at: &Placed, folio: &LockedFolio<'_>, debt: &mut FlushDebt<'_>) {
        let (physical, pfn) = (folio.physical(), folio.pfn());
        // A process of another engine can't map this file.
        if !Arc::ptr_eq(self.physical(), physical) {
            return;
        }
        debt.announce(self.root_of());
        for_each_slot(self, at, &[in_place(folio)], |_, Found { slot, address, number }| {
            let is_ours = |entry: Entry| entry.is_present() && entry.pfn() == pfn.up(number);
            if let Some(entry) = slot.update(|entry| is_ours(entry).then_some(Entry::NONE)) {
                entry_removed(physical, entry, self.root_of(), address, slot.order(), debt);
            }
        });
    }

    fn split(&self, at: &Placed, folio: &LockedFolio<'_>) -> Result<(), SplitError> {
        let mut result = Ok(());
        for_each_slot(self, at, &[in_place(folio)], |_, Found { slot, address, .. }| {
            if result.is_ok() && slot.order() > Order::ZERO && slot.load().pfn() == folio.pfn() {
                result = split_entry(folio, self, slot, address);
            }
        });
        result
    }
}

/// Accounts for a present entry just taken out of its table: dirty mark, map count, flush; `debt` takes its reference.
pub(crate) fn entry_removed(
    physical: &Physical,
    entry: Entry,
    root: &Arc<Root>,
    address: VirtAddr,
    order: Order,
    debt: &mut FlushDebt<'_>,
) {
    if entry.has(Flags::DIRTY) {
        physical.frames().mark_dirty(entry.pfn());
    }
    if let Some(head) = physical.frames().unmap(entry.pfn(), order) {
        physical.mark_partly_mapped(head);
    }
    physical.update_class(entry.pfn());
    debt.owe(root, address, order);
    debt.keep_reference(physical, entry.pfn());
}

/// A folio that goes nowhere, for a walk to its entries.
pub(super) fn in_place(folio: &LockedFolio<'_>) -> Migration {
    Migration::new(folio.pfn(), folio.pfn(), folio.key(), folio.order())
}

/// Uncounts blocked entries of a folio, whose pages' own counts are uncounted.
fn uncount(physical: &Physical, (src, entries): (Pfn, u32)) {
    if entries > 0 {
        physical.frames().unmap_counted(src, entries);
    }
}

/// Blocks an entry, and uncounts it for its page; tells whether it was there.
fn block_slot<F: Format>(
    physical: &Physical,
    src: Pfn,
    table: &PageTable<F>,
    found: &Found<'_, F>,
    debt: &mut FlushDebt<'_>,
) -> bool {
    let from = src.up(found.number);
    let taken = found.slot.update(|entry| (entry.is_present() && entry.pfn() == from).then(|| entry.blocked()));
    let Some(entry) = taken else { return false };
    if entry.has(Flags::DIRTY) {
        physical.frames().mark_dirty(src);
    }
    physical.frames().uncount_page(src, from, found.slot.order());
    debt.owe(table.root_of(), found.address, found.slot.order());
    true
}

/// A leaf entry that may map a page of a folio.
struct Found<'t, F: Format> {
    slot: Slot<'t, F>,
    address: VirtAddr,
    /// Number of the page in the folio.
    number: u32,
}

/// Calls `see` with every leaf entry of the mapping that may map one of the folios, or a page of it.
fn for_each_slot<'t, F: Format>(
    table: &'t PageTable<F>,
    at: &Placed,
    folios: &[Migration],
    mut see: impl FnMut(&Migration, Found<'t, F>),
) {
    let mut inside = folios.iter().filter(|folio| !common(&at.pages, &pages_of(folio)).is_empty()).peekable();
    if inside.peek().is_none() {
        return;
    }
    let _kept = table.keep_tables();
    let mut cursor = Cursor::new(table);
    for folio in inside {
        let index = folio.key.index;
        if folio.order == Order::ZERO {
            let address = at.start.up(index - at.pages.start);
            if let Some(slot) = cursor.slot(address).filter(|slot| slot.order() == Order::ZERO) {
                see(folio, Found { slot, address, number: 0 });
            }
            continue;
        }
        let common = common(&at.pages, &pages_of(folio));
        let range = VirtRange::new(at.start.up(common.start - at.pages.start), common.end - common.start);
        let Some(range) = range else { continue };
        table.for_each_leaf(range, |address, slot| {
            // A 2 MiB entry maps the whole folio; its address may be below the range.
            let number = if slot.order() == Order::ZERO { common.start - index + range.offset_of(address) } else { 0 };
            if slot.order() == Order::ZERO || slot.order() == folio.order {
                see(folio, Found { slot, address, number });
            }
        });
    }
}

pub(super) fn pages_of(folio: &Migration) -> Range<u32> {
    let first = folio.key.index;
    first..first.saturating_add(folio.order.frames())
}

fn common(one: &Range<u32>, other: &Range<u32>) -> Range<u32> {
    one.start.max(other.start)..one.end.min(other.end)
}
