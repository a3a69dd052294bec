//! Address spaces: what a process maps where, and what its faults, unmappings, forks and pins do.
//!
//! # Protocol
//! The lock of an address space is held shared by faults and pins, exclusively by whatever changes mappings. It is the
//! outermost: a frame's lock, a reverse map's and an index's may be taken under it. A fault that meets a moving page lets
//! go of it before it waits. What a change of entries owes is paid before the lock is given back, so that nobody can use
//! the address for something else while an old translation is left.

mod change;
mod fault;
mod file;
mod fork;
mod pin;
mod remap;
mod split;
mod vma;

pub use fault::{Access, FaultError};
pub use file::{FileError, Mappable, PageCache, ReadPage};
pub use pin::PinError;
pub use vma::{Map, Protection, Source, Vma};

use alloc::{collections::BTreeMap, sync::Arc, vec::Vec};

use crate::{
    engine::Engine,
    frame::TooManyMappings,
    paging::{Entry, FlushDebt, PageTable},
    port::SpaceId,
    sync::RwLock,
    units::{VirtAddr, VirtRange},
    zone::{AllocError, Physical},
};

/// Why an address space did not do what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SpaceError {
    /// The range isn't aligned, is empty, or passes the address space's bounds.
    #[error("{stage}: the range is not page-aligned, is empty, or passes the bounds of the address space")]
    BadRange {
        /// Which call.
        stage: &'static str,
    },
    /// Something is mapped there.
    #[error("{stage}: something is mapped at {at}")]
    Overlap {
        /// Which call.
        stage: &'static str,
        /// The first mapped address.
        at: VirtAddr,
    },
    /// Part of the range isn't mapped.
    #[error("{stage}: nothing is mapped at {at}")]
    NotMapped {
        /// Which call.
        stage: &'static str,
        /// The first address without a mapping.
        at: VirtAddr,
    },
    /// No free range is long enough.
    #[error("{stage}: no free range of {pages} pages")]
    NoRoom {
        /// Which call.
        stage: &'static str,
        /// Pages asked for.
        pages: u32,
    },
    /// Page offsets would pass 2^32.
    #[error("{stage}: the mapping passes page offset 2^32 of its file")]
    TooFar {
        /// Which call.
        stage: &'static str,
    },
    /// No frame is left.
    #[error("{stage}: {cause}")]
    OutOfMemory {
        /// Which call.
        stage: &'static str,
        /// What could not be allocated.
        cause: AllocError,
    },
    /// A page has more mappings than can be counted.
    #[error("{stage}: {cause}")]
    TooManyMappings {
        /// Which call.
        stage: &'static str,
        /// The limit.
        cause: TooManyMappings,
    },
}

/// A process's address space.
pub struct AddressSpace {
    engine: Arc<Engine>,
    table: Arc<PageTable>,
    bounds: VirtRange,
    vmas: RwLock<Vmas>,
}

type Vmas = BTreeMap<VirtAddr, Vma>;

impl AddressSpace {
    /// Makes an empty address space, whose mappings lie within `bounds`.
    pub fn new(engine: &Arc<Engine>, bounds: VirtRange) -> Result<Self, AllocError> {
        let table = Arc::new(PageTable::new(engine.physical().clone(), engine.name_space())?);
        Ok(Self { engine: engine.clone(), table, bounds, vmas: RwLock::new(BTreeMap::new()) })
    }

    /// Names the address space in flushes.
    pub fn id(&self) -> SpaceId {
        self.table.space()
    }

    /// Gives the engine.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Gives the bounds of all mappings.
    pub fn bounds(&self) -> VirtRange {
        self.bounds
    }

    /// Gives the page table, for the machine's own walks.
    pub fn table(&self) -> &Arc<PageTable> {
        &self.table
    }

    fn physical(&self) -> &Physical {
        self.engine.physical()
    }

    fn debt(&self) -> FlushDebt<'_> {
        FlushDebt::new(self.physical())
    }

    /// Gives the mappings, rising.
    pub fn vmas(&self) -> Vec<Vma> {
        self.vmas.read().values().cloned().collect()
    }

    /// Reads the leaf entry that maps `address`; nothing if there is none.
    pub fn entry(&self, address: VirtAddr) -> Entry {
        // Held over the walk: no table is taken away.
        let _vmas = self.vmas.read();
        self.table.slot(address).map_or(Entry::NONE, |slot| slot.load())
    }

    /// Calls `see` with the address and entry of each leaf that isn't empty.
    pub fn for_each_entry(&self, mut see: impl FnMut(VirtAddr, Entry)) {
        let _vmas = self.vmas.read();
        self.table.for_each_leaf(self.bounds, |address, slot| see(address, slot.load()));
    }

    /// Unmaps everything, as the end of the process does.
    pub fn exit(&self) {
        let mut vmas = self.vmas.write();
        let mut debt = self.debt();
        for vma in core::mem::take(&mut *vmas).into_values() {
            self.zap(vma.range, &mut debt);
            vma.unlink(&self.table);
        }
        self.table.prune(0..u64::MAX, &mut debt);
        debt.pay();
    }
}

impl Drop for AddressSpace {
    fn drop(&mut self) {
        self.exit();
    }
}

/// Finds the mapping that holds `address`.
fn find(vmas: &Vmas, address: VirtAddr) -> Option<&Vma> {
    vmas.range(..=address).next_back().map(|(_, vma)| vma).filter(|vma| vma.range.contains(address))
}

/// Calls `see` with each mapping that has a part in `range`.
fn overlapping(vmas: &Vmas, range: VirtRange) -> impl Iterator<Item = &Vma> {
    let first = find(vmas, range.start()).map_or(range.start(), |vma| vma.range.start());
    vmas.range(first..).map(|(_, vma)| vma).take_while(move |vma| vma.range.start() < range.end())
}
