//! Pins of user pages (Linux: `pin_user_pages`, GUP): long-term use by a device or the kernel. The pages can't move
//! until unpinned. Each pin has a name, so that the holder of a page that can't move is known.

use alloc::vec::Vec;

use super::{Access, AddressSpace, FaultError, find};
use crate::{
    folio::PinnedPage,
    frame::Kind,
    paging::{Flags, Format},
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
    /// The heap has no room for a list of so many pins.
    #[error("pin: no memory for a list of {0} pages; pin fewer at a time")]
    TooMany(u32),
}

impl<F: Format> AddressSpace<F> {
    /// Pins all pages of `range` for `who`, for reading or also for writing, or none; faults them in first.
    pub fn pin(&self, range: VirtRange, write: bool, who: &str) -> Result<Vec<PinnedPage>, PinError> {
        self.might_wait();
        if !self.bounds.covers(range) {
            return Err(PinError::BadRange);
        }
        let mut pins = Vec::new();
        // All at once, so that a list that is too long for the heap is an error.
        pins.try_reserve_exact(range.pages() as usize).map_err(|_| PinError::TooMany(range.pages()))?;
        for address in range.iter() {
            pins.push(self.pin_page(address, write, who)?);
        }
        Ok(pins)
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
            self.fault_memory(address, access, true)?;
        }
    }

    /// Pins the page if its entry allows it. Otherwise gives the frame to wait for, if it's moving.
    fn try_pin(&self, address: VirtAddr, write: bool, who: &str) -> Result<PinnedPage, Option<Pfn>> {
        self.with_mapped(address, write, |page| {
            let kind = self.physical().frame(page.folio.pfn()).state().kind();
            let writable = page.vma.protection.contains(super::Protection::WRITE);
            let shared_anonymous = kind == Kind::Anon && !page.entry.has(Flags::EXCLUSIVE);
            let file_page = !page.vma.shared && kind != Kind::Anon;
            let is_anothers = shared_anonymous || writable && file_page;
            (!is_anothers).then(|| page.folio.clone().pin_page(page.pfn, write, who))
        })
    }
}
