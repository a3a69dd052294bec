//! An address space's mappings behind their lock, which moves of its page tables take as well.
//!
//! Shared with movers, which may come while the process ends.

use alloc::{collections::BTreeMap, sync::Arc};

use super::vma::Vmas;
use crate::{
    folio::Migration,
    paging::{Format, PageTable, Root, TableHolder},
    report::Reason,
    rmap::{Registered, Registry},
    sync::{RwLock, RwLockReadGuard, RwLockWriteGuard},
};

/// The mappings, and the tables that their lock protects.
pub(super) struct LockedVmas<F: Format> {
    vmas: RwLock<Vmas>,
    table: Arc<PageTable<F>>,
    _registered: Registered<dyn TableHolder>,
}

impl<F: Format> LockedVmas<F> {
    /// Makes an address space without mappings, whose page tables can move.
    pub(super) fn new(holders: &Arc<Registry<dyn TableHolder>>, root: Arc<Root>) -> Arc<Self> {
        Arc::new_cyclic(|this: &alloc::sync::Weak<Self>| {
            let registered = holders.add(this.clone());
            let table = Arc::new(PageTable::new(root, registered.number()));
            Self { vmas: RwLock::new(BTreeMap::new()), table, _registered: registered }
        })
    }

    pub(super) fn table(&self) -> &Arc<PageTable<F>> {
        &self.table
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, Vmas> {
        self.vmas.read()
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Vmas> {
        self.vmas.write()
    }
}

impl<F: Format> TableHolder for LockedVmas<F> {
    fn move_tables(&self, tables: &mut [Migration]) {
        // Not waited for in any mode: a waiting writer would keep all faults of the process waiting, for as long as the holder has
        // the lock, and the mover holds destinations.
        match self.vmas.try_write() {
            // Faults wait for this lock, so nobody takes a blocked entry for a missing table.
            Some(_exclusive) => self.table.move_tables(tables),
            None => tables.iter_mut().for_each(|table| table.stay(Reason::Locked)),
        }
    }
}
