//! Retries of a failed allocation: for a base page after a recall of destinations, for a larger folio after compaction.
//!
//! `zone` is below `compact`, which registers itself by [`Physical::set_compactor`].

use alloc::sync::Arc;

use super::{AllocError, Compactor, Effort, Physical, Request};
use crate::{
    frame::Kind,
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
            // For a base page compaction only splits: it frees no frame, it joins free ones.
            let is_base = request.order() == Order::ZERO;
            let has_room = is_base && self.recall_destinations() || compact(request);
            if !has_room {
                break;
            }
            result = self.take_frames(request);
        }
        result
    }

    /// As [`Self::take_compacting`], with the compactor that was set.
    pub(crate) fn take_with(&self, request: &Request) -> Result<Pfn, AllocError> {
        self.take_compacting(request, |request| self.compact(request))
    }

    /// Makes a base page free for an allocation that failed; tells whether to try again. Waits, and the caller holds no
    /// lock.
    pub(crate) fn make_room(&self) -> bool {
        self.recall_destinations() || self.compact(&Request::new(Order::ZERO, Kind::Anon))
    }

    fn compact(&self, request: &Request) -> bool {
        // Called without the lock.
        let compactor = self.pressure.compactor.read().clone();
        compactor.is_some_and(|compact| compact(request))
    }
}
