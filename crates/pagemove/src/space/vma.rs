//! A mapping (VMA): a range of addresses, what it maps, with which rights; and its place in the reverse maps.

use alloc::sync::Arc;
use core::ops::Range;

use bitflags::bitflags;

use super::Mappable;
use crate::{
    paging::{Flags, PageTable},
    rmap::{Mapping, RangeMap},
    units::{VirtAddr, VirtRange},
};

bitflags! {
    /// What a process may do with a mapping's pages. Nothing set: it may do nothing, as `PROT_NONE`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct Protection: u8 {
        /// Loads.
        const READ = 1;
        /// Stores.
        const WRITE = 2;
        /// Fetching instructions.
        const EXECUTE = 4;
    }
}

/// What a mapping maps.
#[derive(Clone)]
pub enum Source {
    /// Memory of the process's own, zero at first.
    Anonymous {
        /// Maps 2 MiB at once where that fits.
        huge: bool,
    },
    /// A file's pages from page offset `first` on, seen by all who map it.
    Shared {
        /// The file.
        file: Arc<dyn Mappable>,
        /// Page offset of the first page.
        first: u32,
    },
    /// A file's pages from page offset `first` on, copied when written to.
    Private {
        /// The file.
        file: Arc<dyn Mappable>,
        /// Page offset of the first page.
        first: u32,
    },
}

/// What to map, and where.
#[derive(Clone)]
pub struct Map {
    /// The address; `None` lets the address space choose.
    pub at: Option<VirtAddr>,
    /// Number of pages.
    pub pages: u32,
    /// Rights.
    pub protection: Protection,
    /// What.
    pub source: Source,
}

/// A mapping.
#[derive(Clone)]
pub struct Vma {
    /// Where.
    pub range: VirtRange,
    /// Rights.
    pub protection: Protection,
    /// Page offset, in the file or in its anonymous memory, of the first page.
    pub(super) first: u32,
    /// The file, if there is one.
    pub(super) file: Option<Arc<dyn Mappable>>,
    /// Stores go to the file.
    pub(super) shared: bool,
    /// Where the pages that are the process's own find their mappings; shared with forks.
    pub(super) anonymous: Option<Arc<RangeMap>>,
    /// 2 MiB at once where that fits.
    pub(super) huge: bool,
}

impl Vma {
    /// Tells whether stores go to the file.
    pub fn is_shared(&self) -> bool {
        self.shared
    }

    /// Gives the file's name, if it maps a file.
    pub fn file_name(&self) -> Option<&str> {
        self.file.as_deref().map(Mappable::name)
    }

    /// Gives the page offset that `address` maps.
    pub(super) fn index_of(&self, address: VirtAddr) -> u32 {
        self.first + self.range.offset_of(address)
    }

    fn pages(&self) -> Range<u32> {
        self.first..self.first + self.range.pages()
    }

    /// Gives the part of the mapping that lies in `range`.
    pub(super) fn part(&self, range: VirtRange) -> Option<Vma> {
        let range = self.range.intersect(range)?;
        Some(Vma { range, first: self.index_of(range.start()), ..self.clone() })
    }

    /// Gives the parts below and above `range`.
    pub(super) fn outside(&self, range: VirtRange) -> [Option<Vma>; 2] {
        let below = (self.range.start() < range.start())
            .then(|| VirtRange::new(self.range.start(), self.range.offset_of(range.start())))
            .flatten();
        let above = (range.end() < self.range.end())
            .then(|| VirtRange::new(range.end(), self.range.pages() - self.range.offset_of(range.end())))
            .flatten();
        [below, above].map(|range| self.part(range?))
    }

    /// Gives the reverse maps that it stands in: the file's first, which is the order of their locks.
    pub(super) fn reverse_maps(&self) -> impl Iterator<Item = &Arc<RangeMap>> {
        self.file.as_deref().map(Mappable::reverse_map).into_iter().chain(&self.anonymous)
    }

    /// Puts the mapping into its reverse maps.
    pub(super) fn link(&self, table: &Arc<PageTable>) {
        for rmap in self.reverse_maps() {
            rmap.write().insert(self.pages(), Mapping { table: table.clone(), start: self.range.start() });
        }
    }

    /// Takes the mapping out of its reverse maps.
    pub(super) fn unlink(&self, table: &Arc<PageTable>) {
        for rmap in self.reverse_maps() {
            rmap.write().remove(self.pages(), table.space(), self.range.start());
        }
    }

    /// Replaces the mapping in its reverse maps by `parts` of itself, in one step for who walks there.
    pub(super) fn relink<'a>(&self, table: &Arc<PageTable>, parts: impl Iterator<Item = &'a Vma> + Clone) {
        for rmap in self.reverse_maps() {
            let mut map = rmap.write();
            map.remove(self.pages(), table.space(), self.range.start());
            for part in parts.clone() {
                map.insert(part.pages(), Mapping { table: table.clone(), start: part.range.start() });
            }
        }
    }

    /// Gives the flags of an entry for a page, before any store: rights without `WRITE`, used.
    pub(super) fn read_flags(&self) -> Flags {
        let mut flags = Flags::ACCESSED;
        flags.set(Flags::USER, !self.protection.is_empty());
        flags.set(Flags::NO_EXECUTE, !self.protection.contains(Protection::EXECUTE));
        flags
    }
}
