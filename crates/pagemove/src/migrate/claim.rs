//! First step of a move: reference and lock of each folio, a destination for it, and its owner's consent.

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
    /// Claims a folio: reference, lock, destination. An error without reason: it was freed meanwhile.
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
        let frame = physical.frame(pfn);
        match frame.state().kind() {
            kind if kind.is_movable() => {}
            Kind::Free | Kind::PerCpu | Kind::Destination => return Err(None),
            _ => return Err(Some(Reason::Unmovable)),
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

    /// Goes on with a folio that is locked: checks that it may move, takes a destination, and adds it to the batch.
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
        // Before the owner is asked: if it stops a device for the folio it may rely on nobody else using it. (A reference that comes
        // later fails the freeze.)
        if !frame.counts().has_only_mappings_and(expected(run.is_some())) {
            return Err(Reason::Referenced);
        }
        let below = owner.and_then(|owner| owner.below());
        let reason = if order == Order::ZERO { Reason::NoDestination } else { Reason::Order };
        // Once for the batch: looking for the last free frames interrupts all CPUs.
        if self.exhausted.contains(&(order, below)) {
            return Err(reason);
        }
        let Some(dst) = take_destination(physical, destination, order, below) else {
            self.exhausted.push((order, below));
            return Err(reason);
        };
        // Locked before its kind says that it can be used: a fault that finds it by an entry waits for us.
        physical.frames().lock_exclusive(dst);
        self.folios.push(Migration::new(pfn, dst, frame.key(), order));
        if let Some(run) = run {
            self.owners[run].folios.end = self.folios.len();
        }
        Ok(())
    }

    /// Tells the order of a locked folio that may move, or why it may not.
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
            // Alone only: what ends the writing may need a folio of our batch first.
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
            // Never registered, or taken out of its index while somebody holds it: nobody could be told of a new place.
            return Err(Reason::OwnerGone);
        }
        Ok(state.order())
    }

    /// Gives the place in `owners` of the run that the next folio of owner `number` belongs to.
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

    /// Asks the owners for their folios.
    pub(super) fn isolate(&mut self, context: Context<'_>) {
        for run in &mut self.owners {
            let folios = &mut self.folios[run.folios.clone()];
            run.used = if folios.is_empty() { None } else { run.owner.begin() };
            let Some(used) = &run.used else {
                folios.iter_mut().for_each(|folio| folio.stay(Reason::OwnerGone));
                continue;
            };
            for folio in &mut *folios {
                // Once more, since others of the batch were claimed meanwhile.
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

/// Takes a destination that fits, and sets it aside if it isn't; `None` if there is none.
fn take_destination<'p>(
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
