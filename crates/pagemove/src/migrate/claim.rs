//! First step of a move: reference and lock of each folio, its destination, and its owner's consent.

use alloc::sync::Arc;

use super::{Destination, Mover, Options, Policy, expected, mover::OwnerRun};
use crate::{
    folio::Migration,
    frame::{Claim, Kind, Marks},
    movable::{Context, IsolationRun, Mode},
    report::Reason,
    units::{Order, Pfn},
    zone::Physical,
};

impl<'e> Mover<'e> {
    /// Claims a folio: reference, lock, destination. `Err(None)`: it was freed meanwhile, or is a page table, which moves later.
    pub(super) fn claim(
        &mut self,
        pfn: Pfn,
        destination: &mut dyn Destination<'e>,
        options: Options,
        wait: bool,
    ) -> Result<(), Option<Reason>> {
        let physical = self.physical();
        if !physical.is_managed(pfn) {
            return Err(Some(Reason::CrossedZone));
        }
        // A tail stands for its folio.
        let pfn = physical.frames().head_of(pfn);
        let frame = physical.frame(pfn);
        match frame.state().kind() {
            kind if kind.is_movable() => {}
            Kind::PageTable if frame.state().is_space_table() => {
                // It has no references, and moves after the folios: `move_tables`.
                self.tables.push(pfn);
                return Err(None);
            }
            Kind::Free | Kind::PerCpu | Kind::Destination => return Err(None),
            _ => return Err(Some(Reason::Unmovable)),
        }
        // A thread that faulted on it would find it blocked again, and again.
        if wait {
            physical.frames().wait_for_waiters(pfn);
        } else if physical.frames().is_awaited(pfn) {
            return Err(Some(Reason::Awaited));
        }
        match frame.claim() {
            Claim::Claimed => {}
            Claim::Locked if wait && frame.try_get() => physical.frames().lock_raw(pfn),
            Claim::Locked => return Err(Some(Reason::Locked)),
            // Freed meanwhile.
            Claim::Free => return Err(None),
        }
        self.claim_locked(pfn, destination, options, wait).map_err(|reason| {
            physical.unlock_and_put(pfn);
            Some(reason)
        })
    }

    /// Continues with a locked folio: checks that it may move, takes a destination, and adds it to the batch.
    fn claim_locked(
        &mut self,
        pfn: Pfn,
        destination: &mut dyn Destination<'e>,
        options: Options,
        wait: bool,
    ) -> Result<(), Reason> {
        let physical = self.physical();
        let order = self.check(pfn, options, wait)?;
        let frame = physical.frame(pfn);
        let run = match frame.owner() {
            0 => None,
            number => Some(self.owner_run(number)?),
        };
        let owner = run.map(|run| &*self.owners[run].owner);
        if owner.is_some_and(|owner| !owner.purposes().include(options.purpose)) {
            return Err(Reason::Purpose);
        }
        // Before the owner is asked, so that it doesn't stop a device for a folio that others use. (A later reference
        // makes the freeze fail.)
        if !frame.counts().has_only_mappings_and(expected(run.is_some())) {
            return Err(Reason::Referenced);
        }
        let below = owner.and_then(|owner| owner.below());
        let reason = if order == Order::ZERO { Reason::NoDestination } else { Reason::Order };
        // Once for the batch, since looking for the last free frames interrupts all CPUs.
        if self.exhausted.contains(&(order, below)) {
            return Err(reason);
        }
        let Some(dst) = take_destination(physical, destination, order, below) else {
            self.exhausted.push((order, below));
            return Err(reason);
        };
        // Locked before its kind is set, so that a fault that finds it by an entry waits for us.
        physical.frames().lock_exclusive(dst);
        self.folios.push(Migration::new(pfn, dst, frame.key(), order));
        if let Some(run) = run {
            self.owners[run].folios.end = self.folios.len();
        }
        Ok(())
    }

    /// Gives the order of a locked folio that may move, or the reason why it may not.
    fn check(&self, pfn: Pfn, options: Options, wait: bool) -> Result<Order, Reason> {
        let frame = self.physical().frame(pfn);
        let state = frame.state();
        if !state.kind().is_movable() {
            return Err(Reason::Unmovable);
        }
        if frame.pins() > 0 {
            return Err(Reason::Pinned);
        }
        if state.marks().contains(Marks::WRITEBACK) {
            // Only for a folio alone: to end the writeback somebody may first need another folio of our batch.
            if options.mode < Mode::Sync || !wait {
                return Err(Reason::Writeback);
            }
            self.physical().frames().wait_writeback(pfn);
        }
        if state.kind() == Kind::Driver {
            match options.policy {
                Policy::Unmovable => return Err(Reason::Unmovable),
                Policy::Unmapped if frame.maps() > 0 => return Err(Reason::Mapped),
                _ => {}
            }
        }
        if state.kind() != Kind::Anon && frame.owner() == 0 {
            // Never owned, or taken out of its index while referenced: no owner could learn its new place.
            return Err(Reason::OwnerGone);
        }
        Ok(state.order())
    }

    /// Gives the position in `owners` of the run for the next folio, which owner `number` owns.
    fn owner_run(&mut self, number: u32) -> Result<usize, Reason> {
        let next = self.folios.len();
        if let Some(last) = self.owners.last()
            && last.number == number
            && last.folios.end == next
        {
            return Ok(self.owners.len() - 1);
        }
        if self.known.last().is_none_or(|(known, _)| *known != number) {
            self.known.push((number, self.engine.owners().get(number).ok_or(Reason::OwnerGone)?));
        }
        let (_, owner) = self.known.last().ok_or(Reason::OwnerGone)?;
        self.owners.push(OwnerRun { number, folios: next..next, owner: owner.clone(), used: None });
        Ok(self.owners.len() - 1)
    }

    /// Calls the owners' `isolate`.
    pub(super) fn isolate(&mut self, context: Context<'_>) {
        for run in &mut self.owners {
            let folios = &mut self.folios[run.folios.clone()];
            run.used = if folios.is_empty() { None } else { run.owner.begin() };
            let Some(used) = &run.used else {
                folios.iter_mut().for_each(|folio| folio.stay(Reason::OwnerGone));
                continue;
            };
            for folio in &mut *folios {
                // Checked again, since time passed while the rest of the batch was claimed.
                if !context.physical.frame(folio.src).counts().has_only_mappings_and(expected(true)) {
                    folio.stay(Reason::Referenced);
                }
            }
            if folios.iter().all(Migration::stays) {
                continue;
            }
            used.ops().isolate(&mut IsolationRun { context, folios });
            folios.iter_mut().for_each(|folio| folio.is_isolated = !folio.stays());
        }
    }
}

/// Takes a destination that fits, and marks it set aside if it isn't; `None` if there is none.
pub(super) fn take_destination<'p>(
    physical: &Arc<Physical>,
    destination: &mut dyn Destination<'p>,
    order: Order,
    below: Option<Pfn>,
) -> Option<Pfn> {
    let folio = destination.take(order, below)?;
    let end = folio.pfn().up(order.frames());
    let fits =
        Arc::ptr_eq(folio.physical(), physical) && folio.order() == order && below.is_none_or(|below| end <= below);
    // One that doesn't fit is freed here.
    let pfn = fits.then(|| folio.into_raw())?;
    physical.make_destination(pfn);
    Some(pfn)
}
