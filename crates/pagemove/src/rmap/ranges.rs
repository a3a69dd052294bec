//! The reverse map of a file, or of anonymous memory with all its forks: an interval tree of mappings over page offsets.
//!
//! # Protocol
//! Walks from a page to its entries (moves, truncation) hold the lock shared. Changes of the set of mappings hold it
//! exclusively: mmap, munmap, and fork and mremap while they copy or move entries. So a walk sees each entry in its old
//! or its new place, and never misses a copy.
#![allow(unsafe_code, reason = "`ReverseMap` is an unsafe trait")]

use alloc::sync::{Arc, Weak};
use core::ops::Range;

use iset::IntervalMap;

use super::{Registered, Registry, ReverseMap, SplitError, split_entry};
use crate::{
    folio::{LockedFolio, Migration},
    paging::{Cursor, Entry, Flags, FlushDebt, PageTable, Root, Slot},
    port::Space,
    report::Reason,
    sync::{RwLock, RwLockWriteGuard},
    units::{Order, Pfn, VirtAddr, VirtRange},
    zone::Physical,
};

/// The mapping of a range of an object's pages at consecutive addresses.
#[derive(Clone)]
pub struct Mapping {
    /// The table with the entries.
    pub table: Arc<PageTable>,
    /// Address of the range's first page.
    pub start: VirtAddr,
}

type Tree = IntervalMap<u32, Mapping>;

/// Up to so many mappings, a walk scans them once for all pages of a batch, since an interval search for each page
/// costs more.
const MAX_SCANNED_MAPPINGS: usize = 8;

/// Mappings of one object.
pub struct RangeMap {
    registered: Registered<dyn ReverseMap>,
    tree: RwLock<Tree>,
}

impl RangeMap {
    /// Makes a map without mappings.
    pub fn new(registry: &Arc<Registry<dyn ReverseMap>>) -> Arc<Self> {
        Arc::new_cyclic(|this: &Weak<Self>| Self {
            registered: registry.add(this.clone()),
            tree: RwLock::new(IntervalMap::new()),
        })
    }

    /// Tells whether it's registered in `registry`.
    pub(crate) fn is_of(&self, registry: &Arc<Registry<dyn ReverseMap>>) -> bool {
        Arc::ptr_eq(self.registered.registry(), registry)
    }

    /// Gives its number, for [`Key::rmap`](crate::frame::Key::rmap).
    pub fn id(&self) -> u32 {
        self.registered.number()
    }

    /// Gives the number of mappings.
    pub fn mappings(&self) -> usize {
        self.tree.read().len()
    }

    /// Locks the set of mappings exclusively, to change it or to copy entries.
    pub(crate) fn write(&self) -> Changing<'_> {
        Changing { tree: self.tree.write() }
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

/// A map's set of mappings, locked exclusively.
pub(crate) struct Changing<'a> {
    tree: RwLockWriteGuard<'a, Tree>,
}

impl Changing<'_> {
    pub(crate) fn insert(&mut self, pages: Range<u32>, mapping: Mapping) {
        self.tree.force_insert(pages, mapping);
    }

    pub(crate) fn remove(&mut self, pages: Range<u32>, space: Space, start: VirtAddr) {
        let removed =
            self.tree.remove_where(pages, |mapping| mapping.table.space().id == space.id && mapping.start == start);
        debug_assert!(removed.is_some(), "a mapping was missing from its reverse map");
    }
}

// SAFETY: entries are changed by swaps only, counted before they are put in and uncounted after they are taken out;
// `debt` flushes those taken out.
unsafe impl ReverseMap for RangeMap {
    fn block(&self, physical: &Physical, pages: &mut [Migration], wait: bool, debt: &mut FlushDebt<'_>) {
        let tree = if wait { Some(self.tree.read()) } else { self.tree.try_read() };
        let Some(tree) = tree else {
            pages.iter_mut().for_each(|page| page.stay(Reason::Locked));
            return;
        };
        pages.iter_mut().for_each(|page| page.is_blocked = !page.stays());
        // Entries of one folio mostly come together, and are uncounted together.
        let mut run = (Pfn::default(), 0);
        for_each_slot(&tree, pages, |page, at| {
            if page.is_blocked && block_slot(physical, page.src, &at, debt) {
                if run.0 != page.src {
                    uncount(physical, run);
                    run = (page.src, 0);
                }
                run.1 += 1;
            }
        });
        uncount(physical, run);
    }

    fn rebind(&self, physical: &Physical, pages: &[Migration]) {
        for_each_slot(&self.tree.read(), pages, |page, Place { slot, number, .. }| {
            let (from, to) = (page.src.up(number), page.target().up(number));
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

    fn unmap(&self, folio: &LockedFolio<'_>, debt: &mut FlushDebt<'_>) {
        let (physical, pfn) = (folio.physical(), folio.pfn());
        for_each_slot(&self.tree.read(), &[in_place(folio)], |_, Place { table, slot, address, number }| {
            // A process of another engine can't map this file.
            if !Arc::ptr_eq(table.physical(), physical) {
                return;
            }
            let is_ours = |entry: Entry| entry.is_present() && entry.pfn() == pfn.up(number);
            if let Some(entry) = slot.update(|entry| is_ours(entry).then_some(Entry::NONE)) {
                entry_removed(physical, entry, table.root_of(), address, slot.order(), debt);
            }
        });
    }

    fn split(&self, folio: &LockedFolio<'_>) -> Result<(), SplitError> {
        let mut result = Ok(());
        for_each_slot(&self.tree.read(), &[in_place(folio)], |_, Place { table, slot, address, .. }| {
            if result.is_ok() && slot.order() > Order::ZERO && slot.load().pfn() == folio.pfn() {
                result = split_entry(folio, table, slot, address);
            }
        });
        result
    }
}

/// A folio that goes nowhere, for a walk to its entries.
fn in_place(folio: &LockedFolio<'_>) -> Migration {
    Migration::new(folio.pfn(), folio.pfn(), folio.key(), folio.order())
}

/// Uncounts blocked entries of a folio, whose pages' own counts are uncounted.
fn uncount(physical: &Physical, (src, entries): (Pfn, u32)) {
    if entries > 0 {
        physical.frames().unmap_counted(src, entries);
    }
}

/// Blocks an entry, and uncounts it for its page; tells whether it was there.
fn block_slot(physical: &Physical, src: Pfn, at: &Place<'_>, debt: &mut FlushDebt<'_>) -> bool {
    let from = src.up(at.number);
    let taken = at.slot.update(|entry| (entry.is_present() && entry.pfn() == from).then(|| entry.blocked()));
    let Some(entry) = taken else { return false };
    if entry.has(Flags::DIRTY) {
        physical.frames().mark_dirty(src);
    }
    physical.frames().uncount_page(src, from, at.slot.order());
    debt.owe(at.table.root_of(), at.address, at.slot.order());
    true
}

/// A leaf entry that may map a page of a folio.
struct Place<'t> {
    table: &'t Arc<PageTable>,
    slot: Slot<'t>,
    address: VirtAddr,
    /// Number of the page in the folio.
    number: u32,
}

/// Calls `see` with every leaf entry that may map one of the folios, or a page of it.
fn for_each_slot(tree: &Tree, folios: &[Migration], mut see: impl FnMut(&Migration, Place<'_>)) {
    // The caller keeps the mapping's tables where they are.
    let mut visit = |folio: &Migration, range: &Range<u32>, mapping: &Mapping, cursor: &mut Cursor<'_>| {
        let Mapping { table, start } = mapping;
        let index = folio.key.index;
        if folio.order == Order::ZERO {
            let address = start.up(index - range.start);
            if let Some(slot) = cursor.slot(address).filter(|slot| slot.order() == Order::ZERO) {
                see(folio, Place { table, slot, address, number: 0 });
            }
            return;
        }
        let common = common(range, &pages_of(folio));
        let Some(at) = VirtRange::new(start.up(common.start - range.start), common.end - common.start) else { return };
        table.for_each_leaf(at, |address, slot| {
            // A 2 MiB entry maps the whole folio; its address may be below the range.
            let number = if slot.order() == Order::ZERO { common.start - index + at.offset_of(address) } else { 0 };
            if slot.order() == Order::ZERO || slot.order() == folio.order {
                see(folio, Place { table, slot, address, number });
            }
        });
    };
    if tree.len() <= MAX_SCANNED_MAPPINGS {
        for (range, mapping) in tree.unsorted_iter() {
            let mut inside = folios.iter().filter(|folio| !common(&range, &pages_of(folio)).is_empty()).peekable();
            if inside.peek().is_none() {
                continue;
            }
            let _kept = mapping.table.keep_tables();
            let mut cursor = Cursor::new(&mapping.table);
            for folio in inside {
                visit(folio, &range, mapping, &mut cursor);
            }
        }
    } else {
        let mut visit_once = |folio: &Migration, range: Range<u32>, mapping: &Mapping| {
            let _kept = mapping.table.keep_tables();
            visit(folio, &range, mapping, &mut Cursor::new(&mapping.table));
        };
        for folio in folios {
            if folio.order == Order::ZERO {
                tree.overlap(folio.key.index).for_each(|(range, mapping)| visit_once(folio, range, mapping));
            } else {
                tree.iter(pages_of(folio)).for_each(|(range, mapping)| visit_once(folio, range, mapping));
            }
        }
    }
}

fn pages_of(folio: &Migration) -> Range<u32> {
    let first = folio.key.index;
    first..first.saturating_add(folio.order.frames())
}

fn common(one: &Range<u32>, other: &Range<u32>) -> Range<u32> {
    one.start.max(other.start)..one.end.min(other.end)
}
