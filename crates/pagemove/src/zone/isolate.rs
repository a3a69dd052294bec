//! Isolation of a pageblock: no frame of it is allocated while it is being emptied.

use super::Physical;
use crate::units::Order;

/// An isolated pageblock; dropping this ends the isolation.
pub(crate) struct IsolatedBlock<'p> {
    physical: &'p Physical,
    number: u32,
}

impl Physical {
    /// Isolates pageblock `number`: after the return none of its frames is allocated or set aside, until the value is
    /// dropped. `None` if it is isolated already. Interrupts every CPU.
    pub(crate) fn isolate_block(&self, number: u32) -> Option<IsolatedBlock<'_>> {
        let at = self.blocks.zone(number)?;
        {
            let mut buddy = self.zones[at].buddy.lock();
            if self.blocks.is_isolated(number) {
                return None;
            }
            buddy.set_isolated(self.tables(), number, true);
        }
        let isolated = IsolatedBlock { physical: self, number };
        // A freeing thread checks the bit inside its CPU's lists: it sees the bit, or its frame is drained here.
        self.drain_zones(&self.zones[at..=at]);
        Some(isolated)
    }

    /// Tells whether a free block of at least `order` begins with pageblock `number`.
    pub(crate) fn is_free_block(&self, number: u32, order: Order) -> bool {
        let state = self.frames[self.blocks.range(number).start].state();
        state.is_free_head() && state.order() >= order
    }
}

impl Drop for IsolatedBlock<'_> {
    fn drop(&mut self) {
        let physical = self.physical;
        if let Some(zone) = physical.zone_of(physical.blocks.range(self.number).start) {
            zone.buddy.lock().set_isolated(physical.tables(), self.number, false);
        }
    }
}
