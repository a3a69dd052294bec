//! Accesses of the kernel to a process's memory, with faults handled (Linux: `copy_from_user`, `copy_to_user`; GUP).

use core::ops::Range;

use super::{Access, AddressSpace, FaultError, Protection, Vma, find};
use crate::{
    folio::FolioRef,
    paging::{Entry, Flags, Format, Slot},
    units::{PAGE_SHIFT, PAGE_SIZE, Pfn, VirtAddr},
};

/// Why bytes were not copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{cause} (after {done} bytes)")]
pub struct CopyError {
    /// The bytes copied before.
    pub done: usize,
    /// The fault that could not be handled.
    pub cause: FaultError,
}

/// A page that an entry maps, with a reference to its folio. The address space is locked shared.
pub(super) struct Mapped<'a, F: Format> {
    pub(super) vma: &'a Vma,
    pub(super) slot: Slot<'a, F>,
    pub(super) entry: Entry,
    pub(super) folio: FolioRef<'a>,
    pub(super) pfn: Pfn,
}

impl<F: Format> Mapped<'_, F> {
    /// Marks the entry as a CPU does; `None` if it has changed, or has lost `rights`.
    fn mark(&self, rights: Flags, marks: Flags) -> Option<()> {
        let same = |now: Entry| now.has(rights) && now.pfn() == self.entry.pfn();
        if self.entry.has(marks) {
            return Some(());
        }
        self.slot.update(|now| same(now).then(|| now.with(marks))).map(drop)
    }
}

impl<F: Format> AddressSpace<F> {
    /// Reads memory from `address` on, as loads of the process: faults pages in, and marks entries accessed. Sleeps.
    pub fn read(&self, address: VirtAddr, out: &mut [u8]) -> Result<(), CopyError> {
        self.for_each_piece(address, out.len(), Access::Read, |page, offset, bytes| {
            page.mark(Flags::PRESENT, Flags::ACCESSED)?;
            page.folio.read(offset, &mut out[bytes]);
            Some(())
        })
    }

    /// Writes memory from `address` on, as stores of the process: copies shared pages first, and marks entries dirty. Sleeps.
    pub fn write(&self, address: VirtAddr, data: &[u8]) -> Result<(), CopyError> {
        self.for_each_piece(address, data.len(), Access::Write, |page, offset, bytes| {
            // The mark first, as a CPU does: who takes the entry out afterwards knows of the store, and our reference shows
            // that it may not be over.
            page.mark(Flags::PRESENT | Flags::WRITE, Flags::ACCESSED | Flags::DIRTY)?;
            page.folio.write(offset, &data[bytes]);
            Some(())
        })
    }

    /// Calls `copy` with each page of a range of bytes, the offset in its folio, and the numbers of the bytes that are in it. If it
    /// gives `None`, the page is looked up again.
    fn for_each_piece(
        &self,
        address: VirtAddr,
        bytes: usize,
        access: Access,
        mut copy: impl FnMut(&Mapped<'_, F>, usize, Range<usize>) -> Option<()>,
    ) -> Result<(), CopyError> {
        self.might_wait();
        let mut done = 0;
        while done < bytes {
            let beyond = CopyError { done, cause: FaultError::NotMapped(address) };
            let at = address.get().checked_add(done as u64).and_then(VirtAddr::new).ok_or(beyond)?;
            let within = at.get() as usize % PAGE_SIZE;
            let piece = (bytes - done).min(PAGE_SIZE - within);
            let result = self.with_mapped(at, access == Access::Write, |page| {
                let frame = page.pfn.get() - page.folio.pfn().get();
                copy(page, ((frame as usize) << PAGE_SHIFT) + within, done..done + piece)
            });
            match result {
                Ok(()) => done += piece,
                Err(Some(moving)) => drop(self.physical().frames().wait_unlocked(moving)),
                Err(None) => self.fault_memory(at, access, false).map_err(|cause| CopyError { done, cause })?,
            }
        }
        Ok(())
    }

    /// Calls `deed` with the page at `address`, if its entry allows the access now. The shared lock excludes unmapping and fork
    /// meanwhile, and the reference moves, but not other faults. On failure gives the frame to wait for, if it's moving.
    pub(super) fn with_mapped<T>(
        &self,
        address: VirtAddr,
        write: bool,
        deed: impl FnOnce(&Mapped<'_, F>) -> Option<T>,
    ) -> Result<T, Option<Pfn>> {
        let vmas = self.vmas.read();
        let vma = find(&vmas, address).ok_or(None)?;
        let needed = if write { Protection::WRITE } else { Protection::READ };
        if !vma.protection.contains(needed) || vma.device.is_some() {
            return Err(None);
        }
        let slot = self.table.slot(address).ok_or(None)?;
        let entry = slot.load();
        if !entry.has(Flags::PRESENT | Flags::USER) || (write && !entry.has(Flags::WRITE)) {
            return Err(None);
        }
        let pfn = slot.page_of(entry, address);
        let folio = self.physical().get(pfn).ok_or(Some(pfn))?;
        // Take the reference, then check the entry again. A move blocks the entry, then freezes the references. So
        // either we see the blocked entry, or the move sees our reference.
        let marks = Flags::ACCESSED | Flags::DIRTY | Flags::SOFT_DIRTY;
        if slot.load().without(marks) != entry.without(marks) {
            return Err(None);
        }
        deed(&Mapped { vma, slot, entry, folio, pfn }).ok_or(None)
    }
}
