//! The reverse map of a file, or of anonymous memory with all its forks: the mappings of ranges of its pages.
//!
//! # Protocol
//! Walks from a page to its entries (moves, truncation) hold the lock shared. Changes of the set of mappings hold it
//! exclusively: mmap, munmap, and fork and mremap while they copy or move entries. So a walk sees each entry in its old
//! or its new place, and never misses a copy.
#![allow(unsafe_code, reason = "`ReverseMap` is an unsafe trait")]

use alloc::sync::{Arc, Weak};
use core::ops::Range;

use super::{
    Registered, Registry, ReverseMap, SplitError,
    entries::{Entries, Placed, in_place, pages_of},
    intervals::Intervals,
};
use crate::{
    folio::{LockedFolio, Migration},
    paging::FlushDebt,
    port::Space,
    report::Reason,
    sync::{RwLock, RwLockWriteGuard},
    units::VirtAddr,
    zone::Physical,
};

/// The mapping of a range of an object's pages at consecutive addresses.
#[derive(Clone)]
pub(crate) struct Mapping {
    /// The table with the entries.
    pub(crate) table: Arc<dyn Entries>,
    /// Address of the range's first page.
    pub(crate) start: VirtAddr,
}

type Tree = Intervals<Mapping>;

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
            tree: RwLock::new(Tree::new()),
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

/// A map's set of mappings, locked exclusively.
pub(crate) struct Changing<'a> {
    tree: RwLockWriteGuard<'a, Tree>,
}

impl Changing<'_> {
    pub(crate) fn insert(&mut self, pages: Range<u32>, mapping: Mapping) {
        let name = (mapping.table.space().id.0, mapping.start.get());
        self.tree.insert(pages, name, mapping);
    }

    pub(crate) fn remove(&mut self, pages: Range<u32>, space: Space, start: VirtAddr) {
        let was_there = self.tree.remove(pages, (space.id.0, start.get()));
        debug_assert!(was_there, "a mapping was missing from its reverse map");
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
        for_each_mapping(&tree, pages, |table, at, folios| table.block(at, physical, folios, debt));
    }

    fn rebind(&self, physical: &Physical, pages: &[Migration]) {
        for_each_mapping(&self.tree.read(), pages, |table, at, folios| table.rebind(at, physical, folios));
    }

    fn unmap(&self, folio: &LockedFolio<'_>, debt: &mut FlushDebt<'_>) {
        for_each_mapping(&self.tree.read(), &[in_place(folio)], |table, at, _| table.unmap(at, folio, debt));
    }

    fn split(&self, folio: &LockedFolio<'_>) -> Result<(), SplitError> {
        let mut result = Ok(());
        for_each_mapping(&self.tree.read(), &[in_place(folio)], |table, at, _| {
            if result.is_ok() {
                result = table.split(at, folio);
            }
        });
        result
    }
}

/// Calls `see` with each mapping that may have pages of the folios, and these folios.
fn for_each_mapping(tree: &Tree, folios: &[Migration], mut see: impl FnMut(&dyn Entries, &Placed, &[Migration])) {
    let mut visit = |pages: Range<u32>, mapping: &Mapping, folios: &[Migration]| {
        see(&*mapping.table, &Placed { pages, start: mapping.start }, folios);
    };
    if tree.len() <= MAX_SCANNED_MAPPINGS {
        tree.iter().for_each(|(pages, mapping)| visit(pages, mapping, folios));
        return;
    }
    for folio in folios {
        let mut visit = |(pages, mapping)| visit(pages, mapping, core::slice::from_ref(folio));
        tree.overlapping(pages_of(folio)).for_each(&mut visit);
    }
}
