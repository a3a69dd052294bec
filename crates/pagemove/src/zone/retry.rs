//! Trying again after an allocation that found nothing: for a base page destinations of moves are recalled, for a larger folio
//! memory is compacted.
//!
//! `zone` lies below compaction, so it's given what compacts ([`Physical::set_compactor`]).

use alloc::sync::Arc;

use super::{AllocError, Compactor, Effort, Physical, Request};
use crate::{
    port::might_wait,
    units::{Order, Pfn},
};

impl Physical {
    /// So often an allocation that may sleep makes room and tries again.
    pub(crate) const MOST_TRIES: u32 = 8;

    /// Sets what compacts memory for allocations with [`Effort::Compact`]; a later call replaces an earlier one's.
    pub fn set_compactor(&self, compactor: Arc<Compactor>) {
        *self.pressure.compactor.write() = Some(compactor);
    }

    /// Takes what `request` asks for. If it may compact, makes room and tries again: for a base page destinations are recalled, for
    /// a larger folio `compact` is called.
    ///
    /// With [`Effort::Compact`] it sleeps, so the caller holds no lock of the engine's: of an address space, a folio, a reverse map,
    /// an index.
    pub(crate) fn take_compacting(
        &self,
        request: &Request,
        mut compact: impl FnMut(&Request) -> bool,
    ) -> Result<Pfn, AllocError> {
        if request.effort() > Effort::Lists {
            might_wait(self.machine());
        }
        let mut result = self.take_frames(request);
        for _ in 0..Self::MOST_TRIES {
            if result.is_ok() || request.effort() < Effort::Compact {
                break;
            }
            // Compaction makes no single frames.
            let has_room = if request.order() == Order::ZERO { self.recall_destinations() } else { compact(request) };
            if !has_room {
                break;
            }
            result = self.take_frames(request);
        }
        result
    }

    /// Takes what `request` asks for as [`Self::take_compacting`] does, by the compactor that was set.
    pub(crate) fn take_with(&self, request: &Request) -> Result<Pfn, AllocError> {
        self.take_compacting(request, |request| {
            // Called without the lock.
            let compactor = self.pressure.compactor.read().clone();
            compactor.is_some_and(|compact| compact(request))
        })
    }
}
