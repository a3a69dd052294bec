//! Retries of a failed allocation: for a base page after a recall of destinations, for a larger folio after compaction.
//!
//! `zone` is below `compact`, which registers itself by [`Physical::set_compactor`].

use alloc::sync::Arc;

use super::{AllocError, Compactor, Effort, Physical, Request};
use crate::{
    port::might_wait,
    units::{Order, Pfn},
};

impl Physical {
    /// How often an allocation that may sleep tries again.
    pub(crate) const MOST_TRIES: u32 = 8;

    /// Sets the compactor for allocations with [`Effort::Compact`]; replaces an earlier one.
    pub fn set_compactor(&self, compactor: Arc<Compactor>) {
        *self.pressure.compactor.write() = Some(compactor);
    }

    /// Takes frames that `request` allows. With [`Effort::Compact`] it tries again, for a base page after a recall of
    /// destinations, for a larger folio after a call of `compact`. It then sleeps: see there for the locks.
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
            // Compaction frees no frame, it only joins free ones.
            let has_room = if request.order() == Order::ZERO { self.recall_destinations() } else { compact(request) };
            if !has_room {
                break;
            }
            result = self.take_frames(request);
        }
        result
    }

    /// As [`Self::take_compacting`], with the compactor that was set.
    pub(crate) fn take_with(&self, request: &Request) -> Result<Pfn, AllocError> {
        self.take_compacting(request, |request| {
            // Called without the lock.
            let compactor = self.pressure.compactor.read().clone();
            compactor.is_some_and(|compact| compact(request))
        })
    }
}
