//! Pins of user pages (Linux: `pin_user_pages`, GUP): long-term use by a device or the kernel. The pages can't move
//! until unpinned. Each pin has a name, so that the holder of a page that can't move is known.

use alloc::vec::Vec;

use super::{Access, AddressSpace, FaultError, find};
use crate::{
    folio::PinnedPage,
    frame::Kind,
    paging::Flags,
    units::{Pfn, VirtAddr, VirtRange},
};

/// Why pages were not pinned. After an error none of them is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PinError {
    /// A page could not be faulted in with the requested rights.
    #[error("pin: {0}")]
    Fault(#[from] FaultError),
    /// The range passes the address space's bounds.
    #[error("pin: the range passes the bounds of the address space")]
    BadRange,
}

impl AddressSpace {
    /// Pins all pages of `range` for `who`, for reading or also for writing, or none; faults them in first.
    pub fn pin(&self, range: VirtRange, write: bool, who: &str) -> Result<Vec<PinnedPage>, PinError> {
        self.might_wait();
        if !self.bounds.covers(range) {
            return Err(PinError::BadRange);
        }
        range.iter().map(|address| self.pin_page(address, write, who)).collect()
    }

    fn pin_page(&self, address: VirtAddr, write: bool, who: &str) -> Result<PinnedPage, PinError> {
        loop {
            match self.try_pin(address, write, who) {
                Ok(pin) => return Ok(pin),
                Err(Some(moving)) => {
                    self.physical().frames().wait_unlocked(moving);
                    continue;
                }
                Err(None) => {}
            }
            // Unshare a private page also for a read-only pin. Otherwise a later store would copy it, and the device
            // would keep the old page.
            let writable = {
                let vmas = self.vmas.read();
                find(&vmas, address).is_some_and(|vma| !vma.shared && vma.protection.contains(super::Protection::WRITE))
            };
            let access = if write || writable { Access::Write } else { Access::Read };
            self.fault_for(address, access, true)?;
        }
    }

    /// Pins the page if its entry allows it. Otherwise gives the frame to wait for, if it's moving.
    fn try_pin(&self, address: VirtAddr, write: bool, who: &str) -> Result<PinnedPage, Option<Pfn>> {
        // The shared lock excludes unmapping and fork, but not moves and other faults.
        let vmas = self.vmas.read();
        let vma = find(&vmas, address).ok_or(None)?;
        let needed = if write { super::Protection::WRITE } else { super::Protection::READ };
        if !vma.protection.contains(needed) {
            return Err(None);
        }
        let slot = self.table.slot(address).ok_or(None)?;
        let entry = slot.load();
        if !entry.has(Flags::PRESENT | Flags::USER) || (write && !entry.has(Flags::WRITE)) {
            return Err(None);
        }
        let physical = self.engine.physical();
        let pfn = slot.page_of(entry, address);
        let folio = physical.get(pfn).ok_or(Some(pfn))?;
        let kind = physical.frame(folio.pfn()).state().kind();
        let writable = vma.protection.contains(super::Protection::WRITE);
        let shared_anonymous = kind == Kind::Anon && !entry.has(Flags::EXCLUSIVE);
        let file_page = !vma.shared && kind != Kind::Anon;
        // Take the reference, then check the entry again. A move blocks the entry, then freezes the references. So
        // either we see the blocked entry, or the move sees our reference.
        let unchanged = {
            let now = slot.load();
            let marks = Flags::ACCESSED | Flags::DIRTY | Flags::SOFT_DIRTY;
            now.without(marks) == entry.without(marks)
        };
        let is_its_own = unchanged && !shared_anonymous && !(writable && file_page);
        if is_its_own { Ok(folio.pin_page(pfn, write, who)) } else { Err(None) }
    }
}
