//! The top-level table of an address space, and its name: kept as long as the page table, or a flush that is owed for it.
//!
//! A move owes flushes for entries that it has blocked; the process may exit before these are paid.

use alloc::sync::Arc;

use crate::{
    frame::Kind,
    port::{Space, SpaceId},
    sync::Ordering,
    units::{Order, Pfn},
    zone::{AllocError, Physical},
};

/// A root; the machine is told when it's made and when it's freed.
pub struct Root {
    physical: Arc<Physical>,
    space: Space,
}

impl Root {
    /// Makes an empty root.
    pub(crate) fn new(physical: Arc<Physical>, id: SpaceId) -> Result<Arc<Self>, AllocError> {
        let root = physical.alloc(Order::ZERO, Kind::PageTable)?;
        // Relaxed: nobody has the table yet.
        root.words(0).iter().for_each(|word| word.store(0, Ordering::Relaxed));
        let root = root.into_raw();
        let word = physical.machine().root_made(id, root);
        Ok(Arc::new(Self { physical, space: Space { id, root, word } }))
    }

    /// The address space, as flushes name it.
    pub fn space(&self) -> Space {
        self.space
    }

    pub(super) fn pfn(&self) -> Pfn {
        self.space.root
    }

    pub(super) fn physical(&self) -> &Arc<Physical> {
        &self.physical
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        // The address space has unmapped and pruned everything, and no flush is owed any more.
        self.physical.machine().root_freed(self.space);
        self.physical.free_frozen(self.space.root);
    }
}
