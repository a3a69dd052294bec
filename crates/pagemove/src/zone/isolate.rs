//! Isolation of a pageblock: nothing of it is handed out while it's being emptied.

use super::Physical;

/// A pageblock that is isolated until this is dropped.
pub(crate) struct IsolatedBlock<'p> {
    physical: &'p Physical,
    number: u32,
}

impl Physical {
    /// Isolates pageblock `number`: from the return on nothing of it is handed out, by allocation or as a destination, until
    /// what is given is dropped. `None` if somebody else has isolated it. Interrupts every CPU.
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
        // Frees look at the bit while they have their CPU's list. So each either sees it, or what it put on the list is drained here.
        self.drain_zones(&self.zones[at..=at]);
        Some(isolated)
    }

    /// Tells whether all frames of pageblock `number` are free in the buddy lists (and not on a CPU's list).
    pub(crate) fn is_block_free(&self, number: u32) -> bool {
        let start = self.blocks.range(number).start;
        let state = self.frames[start].state();
        state.is_free_head() && state.order() >= self.blocks.order()
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
