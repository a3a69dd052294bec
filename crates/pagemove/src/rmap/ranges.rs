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

use super::{Registered, Registry, ReverseMap, mapping_rebound, mapping_removed};
use crate::{
    folio::{LockedFolio, Migration},
    frame::Marks,
    paging::{Entry, Flags, FlushDebt, PageTable, Root, Slot},
    port::Space,
    report::Reason,
    sync::{RwLock, RwLockWriteGuard},
    units::{Order, Pfn, VirtAddr},
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

/// Marks the frame of a dirty entry, whatever owns it. (Trap 2 of 2016 was to look for a page cache here.)
fn mark_dirty(physical: &Physical, pfn: Pfn) {
    let frame = physical.frame(pfn);
    // Read first: the mark is mostly set already, and a read costs little compared with an atomic change.
    if !frame.state().marks().contains(Marks::DIRTY) {
        frame.mark(Marks::DIRTY);
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
    let frame = physical.frame(entry.pfn());
    if entry.has(Flags::DIRTY) {
        mark_dirty(physical, entry.pfn());
    }
    frame.unmap();
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
        for_each_slot(&tree, pages, |page, slot, root, address| {
            if page.is_blocked {
                block_slot(physical, page, slot, root, address, debt);
            }
        });
    }

    fn rebind(&self, physical: &Physical, pages: &[Migration]) {
        for_each_slot(&self.tree.read(), pages, |page, slot, _, _| {
            let (from, to) = (page.src, page.target());
            let mut entry = slot.load();
            // Others may change a migration entry (mprotect, fork) or take it out meanwhile, so retry.
            while entry.is_migration() && entry.pfn() == from {
                // SAFETY: counts the entry that is put in next.
                unsafe { mapping_rebound(physical, to) };
                match slot.swap_if(entry, entry.unblocked(to)) {
                    Ok(()) => break,
                    Err(now) => {
                        // SAFETY: the entry wasn't put in.
                        unsafe { mapping_removed(physical, to) };
                        entry = now;
                    }
                }
            }
        });
    }

    fn unmap(&self, index: u32, folio: &LockedFolio<'_>, debt: &mut FlushDebt<'_>) {
        let (physical, pfn) = (folio.physical(), folio.pfn());
        for (range, mapping) in self.tree.read().overlap(index) {
            // A process of another engine can't map this file.
            if !Arc::ptr_eq(mapping.table.physical(), physical) {
                continue;
            }
            let address = mapping.start.up(index - range.start);
            let Some(slot) = mapping.table.slot(address) else { continue };
            let taken = slot.update(|entry| (entry.is_present() && entry.pfn() == pfn).then_some(Entry::NONE));
            if let Some(entry) = taken {
                entry_removed(physical, entry, mapping.table.root_of(), address, slot.order(), debt);
            }
        }
    }
}

fn block_slot(
    physical: &Physical,
    page: &Migration,
    slot: Slot<'_>,
    root: &Arc<Root>,
    address: VirtAddr,
    debt: &mut FlushDebt<'_>,
) {
    let taken = slot.update(|entry| (entry.is_present() && entry.pfn() == page.src).then(|| entry.blocked()));
    if let Some(entry) = taken {
        if entry.has(Flags::DIRTY) {
            mark_dirty(physical, page.src);
        }
        // SAFETY: uncounts the entry that was just blocked.
        unsafe { mapping_removed(physical, page.src) };
        debt.owe(root, address, slot.order());
    }
}

/// Calls `see` with every leaf entry that may map one of the pages.
fn for_each_slot(tree: &Tree, pages: &[Migration], mut see: impl FnMut(&Migration, Slot<'_>, &Arc<Root>, VirtAddr)) {
    let mut visit = |page: &Migration, range: &Range<u32>, mapping: &Mapping| {
        let address = mapping.start.up(page.key.index - range.start);
        if let Some(slot) = mapping.table.slot(address)
            && slot.order() == page.order
        {
            see(page, slot, mapping.table.root_of(), address);
        }
    };
    if tree.len() <= MAX_SCANNED_MAPPINGS {
        for (range, mapping) in tree.unsorted_iter() {
            for page in pages.iter().filter(|page| range.contains(&page.key.index)) {
                visit(page, &range, mapping);
            }
        }
    } else {
        for page in pages {
            for (range, mapping) in tree.overlap(page.key.index) {
                visit(page, &range, mapping);
            }
        }
    }
}
