//! The engine: physical memory, and the registries of reverse maps, owners, and address spaces.

use alloc::{boxed::Box, string::String, sync::Arc};

use crate::{
    frame::Kind,
    movable::{Owners, PageIndex, ReadPage},
    paging::TableHolder,
    port::{Machine, SpaceId},
    rmap::{Registry, ReverseMap},
    zone::{BootError, Config, Physical},
};

/// Physical memory and its registries; a kernel boots one.
pub struct Engine {
    physical: Arc<Physical>,
    rmaps: Arc<Registry<dyn ReverseMap>>,
    table_holders: Arc<Registry<dyn TableHolder>>,
    owners: Owners,
    // A hint that orders nothing, so not an atomic of `sync`.
    move_cost: core::sync::atomic::AtomicU64,
}

impl Engine {
    /// Takes over the machine's RAM.
    pub fn boot(machine: Arc<dyn Machine>, config: &Config) -> Result<Arc<Self>, BootError> {
        let physical = Arc::new(Physical::boot(machine, config)?);
        Ok(Arc::new(Self {
            owners: Owners::new(physical.clone()),
            physical,
            rmaps: Arc::default(),
            table_holders: Arc::default(),
            move_cost: core::sync::atomic::AtomicU64::new(0),
        }))
    }

    /// Gives the physical memory.
    pub fn physical(&self) -> &Arc<Physical> {
        &self.physical
    }

    /// The average cost of moving a base page, in nanoseconds; 0 before the first move. Kept here, since movers are
    /// short-lived.
    pub(crate) fn move_cost(&self) -> &core::sync::atomic::AtomicU64 {
        &self.move_cost
    }

    /// Gives the reverse maps by number.
    pub fn reverse_maps(&self) -> &Arc<Registry<dyn ReverseMap>> {
        &self.rmaps
    }

    /// Gives the address spaces by the number that their page tables name.
    pub(crate) fn table_holders(&self) -> &Arc<Registry<dyn TableHolder>> {
        &self.table_holders
    }

    /// Gives the owners by number.
    pub fn owners(&self) -> &Owners {
        &self.owners
    }

    /// Makes an empty index of pages of `kind` ([`Kind::Driver`] or [`Kind::File`]), for a driver or a file.
    ///
    /// Its pages can move once its owner is registered and set by [`PageIndex::set_owner`].
    pub fn new_index(&self, kind: Kind, name: impl Into<String>) -> Arc<PageIndex> {
        self.new_index_with_store(kind, name, None)
    }

    /// As [`Self::new_index`]; `read` fills each page when it is allocated.
    pub fn new_index_with_store(
        &self,
        kind: Kind,
        name: impl Into<String>,
        read: Option<Box<ReadPage>>,
    ) -> Arc<PageIndex> {
        assert!(matches!(kind, Kind::Driver | Kind::File), "an index has pages of drivers or files, not {kind:?}");
        PageIndex::new(&self.physical, &self.rmaps, kind, name.into(), read)
    }

    /// Gives the number of a new address space, unique in the program: a machine may serve several engines.
    pub(crate) fn name_space(&self) -> SpaceId {
        // Not of `sync`: it orders nothing.
        use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
        static NEXT: AtomicU64 = AtomicU64::new(1);
        SpaceId(NEXT.fetch_add(1, Relaxed))
    }
}
