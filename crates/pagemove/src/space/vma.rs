//! A mapping (VMA): an address range, its source and protection, and its links to the reverse maps.

use alloc::{collections::BTreeMap, sync::Arc};
use core::ops::Range;

use bitflags::bitflags;

use super::{DeviceFrames, Mappable};
use crate::{
    paging::{Flags, Format, PageTable},
    rmap::{Mapping, RangeMap},
    units::{Orders, VirtAddr, VirtRange},
};

bitflags! {
    /// The accesses that a mapping allows. Empty: none, as `PROT_NONE`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct Protection: u8 {
        /// Loads.
        const READ = 1;
        /// Stores.
        const WRITE = 2;
        /// Instruction fetches.
        const EXECUTE = 4;
    }
}

/// The source of a mapping's pages.
#[derive(Clone)]
pub enum Source {
    /// Anonymous memory, zeroed.
    Anonymous {
        /// The orders of folios that a fault may allocate, where one fits and is free.
        orders: Orders,
    },
    /// A file's pages from page offset `first` on, shared with all its mappings.
    Shared {
        /// The file.
        file: Arc<dyn Mappable>,
        /// Page offset of the first page.
        first: u32,
    },
    /// A file's pages from page offset `first` on, copied on write.
    Private {
        /// The file.
        file: Arc<dyn Mappable>,
        /// Page offset of the first page.
        first: u32,
    },
    /// Frames that aren't the engine's memory, from number `first` on, shared with all their mappings.
    Device {
        /// The frames.
        frames: DeviceFrames,
        /// Number of the first frame.
        first: u32,
    },
}

/// The arguments of `mmap`.
#[derive(Clone)]
pub struct Map {
    /// The address; `None`: chosen by the address space.
    pub at: Option<VirtAddr>,
    /// Number of pages.
    pub pages: u32,
    /// Allowed accesses.
    pub protection: Protection,
    /// The source of the pages.
    pub source: Source,
}

/// The mappings of an address space, by their first addresses.
pub(super) type Vmas = BTreeMap<VirtAddr, Vma>;

/// A mapping.
#[derive(Clone)]
pub struct Vma {
    /// The address range.
    pub range: VirtRange,
    /// Allowed accesses.
    pub protection: Protection,
    /// The first page's offset, in the file or in the anonymous memory.
    pub(super) first: u32,
    /// The file, if any.
    pub(super) file: Option<Arc<dyn Mappable>>,
    /// The file's reverse map, asked for once: the mapping leaves the map that it was put into.
    pub(super) file_map: Option<Arc<RangeMap>>,
    /// Stores go to the file.
    pub(super) shared: bool,
    /// The reverse map of its anonymous pages; shared with forks.
    pub(super) anonymous: Option<Arc<RangeMap>>,
    /// The orders of its anonymous folios, or of a shared file's.
    pub(super) orders: Orders,
    /// The frames, if they aren't memory: then its entries aren't counted.
    pub(super) device: Option<DeviceFrames>,
}

impl Vma {
    /// Tells whether stores go to the file.
    pub fn is_shared(&self) -> bool {
        self.shared
    }

    /// Gives the file's name, if any.
    pub fn file_name(&self) -> Option<&str> {
        self.file.as_deref().map(Mappable::name)
    }

    /// Gives the page offset of `address`.
    pub(super) fn index_of(&self, address: VirtAddr) -> u32 {
        self.first + self.range.offset_of(address)
    }

    fn pages(&self) -> Range<u32> {
        self.first..self.first + self.range.pages()
    }

    /// Gives the part of the mapping in `range`.
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

    /// Gives its reverse maps, the file's first: that is the lock order.
    pub(super) fn reverse_maps(&self) -> impl Iterator<Item = &Arc<RangeMap>> {
        self.file_map.iter().chain(&self.anonymous)
    }

    /// Adds the mapping to its reverse maps.
    pub(super) fn link<F: Format>(&self, table: &Arc<PageTable<F>>) {
        for rmap in self.reverse_maps() {
            rmap.write().insert(self.pages(), Mapping { table: table.clone(), start: self.range.start() });
        }
    }

    /// Removes the mapping from its reverse maps.
    pub(super) fn unlink<F: Format>(&self, table: &Arc<PageTable<F>>) {
        for rmap in self.reverse_maps() {
            rmap.write().remove(self.pages(), table.space(), self.range.start());
        }
    }

    /// Replaces the mapping in its reverse maps by `parts` of itself, atomically for walks.
    pub(super) fn relink<'a, F: Format>(
        &self,
        table: &Arc<PageTable<F>>,
        parts: impl Iterator<Item = &'a Vma> + Clone,
    ) {
        for rmap in self.reverse_maps() {
            let mut map = rmap.write();
            map.remove(self.pages(), table.space(), self.range.start());
            for part in parts.clone() {
                map.insert(part.pages(), Mapping { table: table.clone(), start: part.range.start() });
            }
        }
    }

    /// Gives the flags of an entry before any store: no `WRITE`, but `ACCESSED`.
    pub(super) fn read_flags(&self) -> Flags {
        let mut flags = Flags::ACCESSED;
        flags.set(Flags::USER, !self.protection.is_empty());
        flags.set(Flags::NO_EXECUTE, !self.protection.contains(Protection::EXECUTE));
        flags
    }
}
