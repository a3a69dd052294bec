//! Registering owners, and unregistering them while their folios may be isolated or moving.

use alloc::sync::Arc;

use super::{MovableOps, Purposes};
use crate::{
    port::{Machine, might_wait, wait},
    rmap::{Registered, Registry},
    sync::{AtomicU32, Ordering},
    units::Pfn,
    zone::Physical,
};

const CLOSING: u32 = 1 << 31;

/// A registered owner. `uses` counts the batches between `isolate` and `putback`; its bit CLOSING admits no new ones.
pub struct Owner {
    ops: Arc<dyn MovableOps>,
    purposes: Purposes,
    below: Option<Pfn>,
    splits: bool,
    uses: AtomicU32,
    physical: Arc<Physical>,
}

/// The owners of an engine.
pub struct Owners {
    registry: Arc<Registry<Owner>>,
    physical: Arc<Physical>,
}

impl Owners {
    pub(crate) fn new(physical: Arc<Physical>) -> Self {
        Self { registry: Arc::default(), physical }
    }

    /// Registers an owner: its folios can move until the registration ends.
    pub fn register(&self, ops: Arc<dyn MovableOps>) -> Registration {
        let (purposes, below, splits) = (ops.purposes(), ops.below(), ops.splits());
        let (uses, physical) = (AtomicU32::new(0), self.physical.clone());
        let owner = Arc::new(Owner { ops, purposes, below, splits, uses, physical });
        let registered = self.registry.add(Arc::downgrade(&owner));
        Registration { owner, registered }
    }

    /// Finds the owner by its number in frames.
    pub fn get(&self, number: u32) -> Option<Arc<Owner>> {
        self.registry.get(number)
    }
}

impl Owner {
    /// Gives the owner's name.
    pub fn name(&self) -> &str {
        self.ops.name()
    }

    /// Gives the purposes for which its folios may move.
    pub fn purposes(&self) -> Purposes {
        self.purposes
    }

    /// Gives the frame below which its folios must be.
    pub fn below(&self) -> Option<Pfn> {
        self.below
    }

    /// Tells whether its folios may be split.
    pub fn splits(&self) -> bool {
        self.splits
    }

    fn machine(&self) -> &dyn Machine {
        self.physical.machine()
    }

    /// Begins a use of the owner's callbacks; `None` once it unregisters.
    pub(crate) fn begin(self: &Arc<Self>) -> Option<CallbackGuard> {
        // Relaxed: the folios' locks order callbacks, and the registry's lock orders the start of the registration.
        self.uses
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |uses| (uses & CLOSING == 0).then_some(uses + 1))
            .ok()
            .map(|_| CallbackGuard { owner: self.clone() })
    }

    fn close(&self) -> u32 {
        // AcqRel: the unregistering driver sees what moves did before their Release in `drop`.
        self.uses.fetch_or(CLOSING, Ordering::AcqRel) & !CLOSING
    }
}

/// A use of an owner's callbacks, from `isolate` to `putback`.
pub struct CallbackGuard {
    owner: Arc<Owner>,
}

impl CallbackGuard {
    pub(crate) fn ops(&self) -> &dyn MovableOps {
        &*self.owner.ops
    }
}

impl Drop for CallbackGuard {
    fn drop(&mut self) {
        // Release pairs with `close`.
        if self.owner.uses.fetch_sub(1, Ordering::AcqRel) == CLOSING | 1 {
            self.owner.machine().wake(&self.owner.uses);
        }
    }
}

/// Some of the owner's folios are isolated or moving.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unregister: pages of the driver are isolated or moving, in {moving} batch(es)")]
pub struct StillMoving {
    /// The number of batches with such folios.
    pub moving: u32,
}

/// An owner's registration; dropping it unregisters, as [`Registration::unregister`].
pub struct Registration {
    owner: Arc<Owner>,
    registered: Registered<Owner>,
}

impl Registration {
    /// Gives the owner's number in frames.
    pub fn number(&self) -> u32 {
        self.registered.number()
    }

    /// Gives the memory of the owner's folios.
    pub fn physical(&self) -> &Arc<Physical> {
        &self.owner.physical
    }

    /// Gives the frame below which the owner's folios must be.
    pub fn below(&self) -> Option<Pfn> {
        self.owner.below
    }

    /// As [`Owner::begin`].
    pub(super) fn begin(&self) -> Option<CallbackGuard> {
        self.owner.begin()
    }

    pub(super) fn is_of(&self, physical: &Arc<Physical>) -> bool {
        Arc::ptr_eq(&self.owner.physical, physical)
    }

    /// Ends the registration if no folio is isolated or moving now; otherwise changes nothing.
    pub fn try_unregister(&self) -> Result<(), StillMoving> {
        match self.owner.uses.compare_exchange(0, CLOSING, Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) => Ok(()),
            Err(uses) if uses & !CLOSING == 0 => Ok(()),
            Err(uses) => Err(StillMoving { moving: uses & !CLOSING }),
        }
    }

    /// Ends the registration: admits no new use of the callbacks, and waits for running ones. Afterwards none runs.
    ///
    /// Must not be called in a callback, nor with a folio's lock or a lock that the owner's callbacks take.
    pub fn unregister(&self) {
        might_wait(self.owner.machine());
        let mut uses = self.owner.close();
        while uses != 0 {
            wait(self.owner.machine(), &self.owner.uses, uses | CLOSING);
            uses = self.owner.uses.load(Ordering::Acquire) & !CLOSING;
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.unregister();
    }
}
