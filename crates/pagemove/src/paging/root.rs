//! The top-level table of an address space, and its name: kept as long as the page table, or a flush that is owed for it.
//!
//! `unsafe`: the machine's calls for roots, which only the engine makes. A root is made here, and ended when it's dropped.
//!
//! A move owes flushes for entries that it has blocked; the process may exit before these are paid.
#![allow(unsafe_code)]

use alloc::sync::Arc;

use crate::{
    frame::Kind,
    port::{Space, SpaceId},
    sync::{AtomicU32, AtomicU64, Ordering},
    units::{Order, Pfn},
    zone::{AllocError, Physical},
};

/// A root; the machine is told when it's made and when it's freed.
pub struct Root {
    physical: Arc<Physical>,
    id: SpaceId,
    word: u64,
    pfn: AtomicU64,
    /// Debts for entries that others than the address space itself have taken out, or are about to.
    pending: AtomicU32,
}

impl Root {
    /// Makes an empty root.
    pub(crate) fn new(physical: Arc<Physical>, id: SpaceId) -> Result<Arc<Self>, AllocError> {
        let root = physical.alloc(Order::ZERO, Kind::PageTable)?;
        // Relaxed: nobody has the table yet.
        root.words(0).iter().for_each(|word| word.store(0, Ordering::Relaxed));
        let root = root.into_raw();
        // SAFETY: just allocated, for this space.
        let word = unsafe { physical.machine().root_made(id, root) };
        Ok(Arc::new(Self { physical, id, word, pfn: AtomicU64::new(root.get()), pending: AtomicU32::new(0) }))
    }

    /// The address space, as flushes name it.
    pub fn space(&self) -> Space {
        Space { id: self.id, root: self.pfn(), word: self.word }
    }

    pub(super) fn pfn(&self) -> Pfn {
        // Acquire pairs with the Release of `replace`: the copy's entries are seen.
        Pfn::new(self.pfn.load(Ordering::Acquire))
    }

    /// Makes the table at `to`, a copy, the root. When this returns no CPU uses the old one.
    pub(super) fn replace(&self, to: Pfn) {
        // SAFETY: the space has its root; the copy is the caller's, who gives it to us.
        unsafe {
            self.physical.machine().move_root(self.space(), to, &mut || {
                self.pfn.store(to.get(), Ordering::Release);
            });
        }
        assert_eq!(self.pfn(), to, "the machine moved a root without publishing it");
    }

    /// Counts a debt that takes entries out without the address space's lock; before it does.
    pub(super) fn announce(&self) {
        // Relaxed: whoever sees an entry gone, by Acquire, sees this, since the entry is taken out with Release.
        self.pending.fetch_add(1, Ordering::Relaxed);
    }

    /// Uncounts a debt that is paid.
    pub(super) fn paid(&self) {
        // Release pairs with `is_pending`: whoever sees none left may rely on the flush.
        self.pending.fetch_sub(1, Ordering::Release);
    }

    /// Tells whether entries that the caller has seen empty may still be in TLBs (Linux: `mm_tlb_flush_pending`).
    pub(crate) fn is_pending(&self) -> bool {
        self.pending.load(Ordering::Acquire) > 0
    }

    pub(super) fn physical(&self) -> &Arc<Physical> {
        &self.physical
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        // The address space has unmapped and pruned everything, and no flush is owed any more.
        // SAFETY: nobody has the space any more, and this was its only root.
        unsafe { self.physical.machine().root_freed(self.space()) };
        self.physical.free_frozen(self.pfn());
    }
}
