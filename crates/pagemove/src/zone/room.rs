//! Making room for an allocation that found none: for a base page destinations of moves are
//! recalled, for a larger folio memory is compacted.
//!
//! `zone` lies below compaction, which therefore hangs in here at boot.

use alloc::sync::Arc;

use super::{Compactor, Physical, Request};
use crate::{port::might_wait, units::Order};

impl Physical {
    /// So often an allocation that may sleep makes room and tries again.
    pub(crate) const MOST_TRIES: u32 = 8;

    /// Sets what compacts memory for allocations with [`super::Effort::Compact`]; a later call replaces an earlier one's.
    pub fn set_compactor(&self, compactor: Arc<Compactor>) {
        *self.pressure.compactor.write() = Some(compactor);
    }

    /// Makes room for a request that failed; tells whether it's worth another try.
    ///
    /// Sleeps, so the caller holds no lock of the engine's: of an address space, a folio, a reverse map, an index.
    pub(crate) fn make_room(&self, request: &Request) -> bool {
        might_wait(self.machine());
        if request.order() == Order::ZERO {
            // Compaction makes no single frames.
            return self.recall_destinations();
        }
        // Called without the lock.
        let compactor = self.pressure.compactor.read().clone();
        compactor.is_some_and(|compact| compact(request))
    }
}
