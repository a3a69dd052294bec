//! The pages of all zspages, in cells that moves exchange without a lock, and the owner's part of a move.

use alloc::{string::String, sync::Arc};
use core::sync::atomic::{AtomicU32, Ordering};

use pagemove::{
    folio::{FolioRef, LockedFolio},
    movable::{MigrationRun, MovableOps, Refusal, Registration, TokenCell, TokenError},
};

use crate::chunks::{Chunks, NoRoom};

/// Cells of a slab, which belong to one class.
pub(super) const SLAB: u32 = 64;

/// The cells of some zspages of a class.
pub(super) struct Slab {
    /// Its number among its class's slabs.
    number: AtomicU32,
    cells: [TokenCell; SLAB as usize],
}

/// All cells. A cell's number is the index of its folio's key, so a move finds it.
pub(super) struct Pages {
    name: String,
    slabs: Chunks<Slab, 8>,
}

impl Pages {
    pub(super) fn new(name: String) -> Arc<Self> {
        Arc::new(Self { name, slabs: Chunks::new() })
    }

    /// Adds a class's `number`-th slab; gives the number of its first cell.
    pub(super) fn add_slab(&self, number: u32) -> Result<u32, NoRoom> {
        let slab = || Slab { number: AtomicU32::new(0), cells: core::array::from_fn(|_| TokenCell::new()) };
        let at = self.slabs.add(slab)?;
        // Relaxed, here and below: under the class's lock.
        self.slabs.get(at).ok_or(NoRoom)?.number.store(number, Ordering::Relaxed);
        at.checked_mul(SLAB).ok_or(NoRoom)
    }

    /// Gives the number of a cell's slab among its class's, and the cell's number in it.
    pub(super) fn place(&self, cell: u32) -> Option<(u32, u32)> {
        Some((self.slabs.get(cell / SLAB)?.number.load(Ordering::Relaxed), cell % SLAB))
    }

    #[inline]
    pub(super) fn cell(&self, number: u32) -> Option<&TokenCell> {
        Some(&self.slabs.get(number / SLAB)?.cells[(number % SLAB) as usize])
    }

    /// Takes a reference to a page, if it's not moving.
    #[inline]
    pub(super) fn get<'r>(&self, registration: &'r Registration, cell: u32) -> Result<FolioRef<'r>, TokenError> {
        registration.get_in(self.cell(cell).ok_or(TokenError::Empty)?)
    }

    /// Locks a page, if that needs no wait.
    pub(super) fn try_lock<'r>(&self, registration: &'r Registration, cell: u32) -> Option<LockedFolio<'r>> {
        self.get(registration, cell).ok()?.try_lock().ok()
    }

    /// Frees a locked page, once all references to it are given back.
    pub(super) fn release(&self, registration: &Registration, cell: u32, page: &LockedFolio<'_>) {
        self.cell(cell).into_iter().for_each(|cell| registration.release_in(cell, page));
    }

    pub(super) fn bytes(&self) -> usize {
        self.slabs.bytes()
    }
}

impl MovableOps for Pages {
    fn name(&self) -> &str {
        &self.name
    }

    fn migrate(&self, run: &mut MigrationRun<'_>) {
        run.for_each(|page| page.exchange_in(self.cell(page.index()).ok_or(Refusal::No)?));
    }
}
