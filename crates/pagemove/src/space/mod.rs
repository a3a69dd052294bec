//! Address spaces: a process's mappings, with faults, unmapping, fork and pins.
//!
//! # Protocol
//! Faults and pins hold an address space's lock shared; changes of mappings hold it exclusively. It is the outermost
//! lock: a frame's, a reverse map's and an index's lock nest inside. A fault releases it before it waits for a moving
//! page. Moves of page tables hold it exclusively too (`tables`). Flushes are paid before the lock is released, so that
//! addresses can't be reused while stale translations exist.

mod access;
mod change;
mod collapse;
mod device;
mod fault;
mod file;
mod fork;
mod pin;
mod remap;
mod split;
mod tables;
mod unmanaged;
mod vma;

pub use crate::units::Orders;
pub use access::CopyError;
pub use collapse::CollapseError;
pub use device::{Caching, DeviceFrames};
pub use fault::{Access, FaultError};
pub use file::{FileError, Mappable, PageCache, ReadPage};
pub use pin::PinError;
pub use vma::{Map, Protection, Source, Vma};

use tables::LockedVmas;
use vma::Vmas;

use alloc::{sync::Arc, vec::Vec};

use crate::{
    engine::Engine,
    frame::TooManyMappings,
    paging::{Entry, FlushDebt, Format, PageTable, Root, X86_64},
    port::{SpaceId, might_wait},
    units::{Pfn, VirtAddr, VirtRange},
    zone::{AllocError, Physical},
};

/// Why a call on an address space failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SpaceError {
    /// The range isn't aligned, is empty, or passes the address space's bounds.
    #[error("{stage}: the range is not page-aligned, is empty, or passes the bounds of the address space")]
    BadRange {
        /// The call.
        stage: &'static str,
    },
    /// Memory has frames that the format of page tables can't name.
    #[error("{stage}: memory ends at frame {end}; entries of the format {format} name frames below {limit:#x}")]
    FrameTooHigh {
        /// The call.
        stage: &'static str,
        /// The format's name.
        format: &'static str,
        /// The first frame after memory.
        end: Pfn,
        /// The first frame that no entry can name.
        limit: u64,
    },
    /// Something is mapped there.
    #[error("{stage}: something is mapped at {at}")]
    Overlap {
        /// The call.
        stage: &'static str,
        /// The first mapped address.
        at: VirtAddr,
    },
    /// Part of the range isn't mapped.
    #[error("{stage}: nothing is mapped at {at}")]
    NotMapped {
        /// The call.
        stage: &'static str,
        /// The first address without a mapping.
        at: VirtAddr,
    },
    /// No free range is long enough.
    #[error("{stage}: no free range of {pages} pages")]
    NoRoom {
        /// The call.
        stage: &'static str,
        /// The number of pages requested.
        pages: u32,
    },
    /// Page offsets would pass 2^32.
    #[error("{stage}: the mapping passes page offset 2^32 of its file")]
    TooFar {
        /// The call.
        stage: &'static str,
    },
    /// A frame of a device's mapping is the engine's memory.
    #[error(
        "{stage}: frame {pfn} is memory of the engine's; only frames outside of its zones, or reserved ones, can be mapped as a device's"
    )]
    Managed {
        /// The call.
        stage: &'static str,
        /// The first such frame.
        pfn: Pfn,
    },
    /// Out of memory.
    #[error("{stage}: {cause}")]
    OutOfMemory {
        /// The call.
        stage: &'static str,
        /// The failed allocation.
        cause: AllocError,
    },
    /// The file belongs to another engine.
    #[error("{stage}: the file belongs to another engine")]
    OtherEngine {
        /// The call.
        stage: &'static str,
    },
    /// A page's map count would overflow.
    #[error("{stage}: {cause}")]
    TooManyMappings {
        /// The call.
        stage: &'static str,
        /// The limit.
        cause: TooManyMappings,
    },
}

/// A process's address space.
pub struct AddressSpace<F: Format = X86_64> {
    engine: Arc<Engine>,
    table: Arc<PageTable<F>>,
    bounds: VirtRange,
    vmas: Arc<LockedVmas<F>>,
}

impl AddressSpace {
    /// Makes an empty address space with page tables of x86-64, whose mappings lie within `bounds`.
    pub fn new(engine: &Arc<Engine>, bounds: VirtRange) -> Result<Self, SpaceError> {
        Self::with_format(engine, bounds)
    }
}

impl<F: Format> AddressSpace<F> {
    /// As [`AddressSpace::new`], with page tables of format `F`, which may have fewer addresses than `bounds`
    /// ([`PageTable::LIMIT`]): that is [`SpaceError::BadRange`]. It may also name fewer frames than memory has:
    /// [`SpaceError::FrameTooHigh`].
    pub fn with_format(engine: &Arc<Engine>, bounds: VirtRange) -> Result<Self, SpaceError> {
        let stage = "a new address space";
        if bounds.end().get() > PageTable::<F>::LIMIT {
            return Err(SpaceError::BadRange { stage });
        }
        let (end, limit) = (engine.physical().frames().end(), F::FRAMES);
        if end.get() > limit {
            return Err(SpaceError::FrameTooHigh { stage, format: F::NAME, end, limit });
        }
        let root = Root::new(engine.physical().clone(), engine.name_space());
        let root = root.map_err(|cause| SpaceError::OutOfMemory { stage, cause })?;
        let vmas = LockedVmas::new(engine.table_holders(), root);
        Ok(Self { engine: engine.clone(), table: vmas.table().clone(), bounds, vmas })
    }

    /// The ID used in flushes.
    pub fn id(&self) -> SpaceId {
        self.table.space().id
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
    pub fn table(&self) -> &Arc<PageTable<F>> {
        &self.table
    }

    fn physical(&self) -> &Arc<Physical> {
        self.engine.physical()
    }

    fn might_wait(&self) {
        might_wait(self.physical().machine());
    }

    fn debt(&self) -> FlushDebt<'_> {
        FlushDebt::new(self.physical())
    }

    /// Gives all mappings, in address order.
    pub fn vmas(&self) -> Vec<Vma> {
        self.might_wait();
        self.vmas.read().values().cloned().collect()
    }

    /// Gives the number of mappings.
    pub fn mappings(&self) -> usize {
        self.might_wait();
        self.vmas.read().len()
    }

    /// Reads the leaf entry of `address`; the empty entry if there is none.
    pub fn entry(&self, address: VirtAddr) -> Entry {
        self.might_wait();
        // The lock keeps tables from being removed during the walk.
        let _vmas = self.vmas.read();
        self.table.slot(address).map_or(Entry::NONE, |slot| slot.load())
    }

    /// Gives the frame of the page that is mapped at `address`; `None` if none is, or if it's moving.
    pub fn frame(&self, address: VirtAddr) -> Option<Pfn> {
        self.might_wait();
        let _vmas = self.vmas.read();
        let slot = self.table.slot(address)?;
        let entry = slot.load();
        entry.is_present().then(|| slot.page_of(entry, address))
    }

    /// Gives the frame of the lowest-level page table of `address`, if there is one; it may move at any time.
    pub fn leaf_table(&self, address: VirtAddr) -> Option<Pfn> {
        self.might_wait();
        let _vmas = self.vmas.read();
        self.table.leaf_table(address)
    }

    /// Calls `see` with the address and entry of each non-empty leaf.
    pub fn for_each_entry(&self, mut see: impl FnMut(VirtAddr, Entry)) {
        self.might_wait();
        let _vmas = self.vmas.read();
        self.table.for_each_leaf(self.bounds, |address, slot| see(address, slot.load()));
    }

    /// Unmaps everything, as at the process's exit.
    pub fn exit(&self) {
        self.might_wait();
        let mut vmas = self.vmas.write();
        let mut debt = self.debt();
        let gone = core::mem::take(&mut *vmas);
        for vma in gone.values() {
            self.zap(vma, vma.range, &mut debt);
            vma.unlink(&self.table);
        }
        self.table.prune(0..u64::MAX, self.bounds, &mut debt);
        debt.pay();
        // Before `gone`, since dropping a file for the last time may sleep.
        drop(vmas);
    }
}

impl<F: Format> Drop for AddressSpace<F> {
    fn drop(&mut self) {
        self.exit();
    }
}

/// Finds the mapping of `address`.
fn find(vmas: &Vmas, address: VirtAddr) -> Option<&Vma> {
    vmas.range(..=address).next_back().map(|(_, vma)| vma).filter(|vma| vma.range.contains(address))
}

/// Gives the mappings that overlap `range`.
fn overlapping(vmas: &Vmas, range: VirtRange) -> impl Iterator<Item = &Vma> {
    let first = find(vmas, range.start()).map_or(range.start(), |vma| vma.range.start());
    vmas.range(first..).map(|(_, vma)| vma).take_while(move |vma| vma.range.start() < range.end())
}
