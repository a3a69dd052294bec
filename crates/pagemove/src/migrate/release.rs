//! Last step of a move: putback, unlock, and freeing sources or unused destinations.

use core::ops::Range;

use super::{Destination, Mover, Outcome, budget::runs_in};
use crate::{
    folio::FrozenFolio,
    frame::Marks,
    movable::{Context, PutbackRun},
    report::{Counter, Event},
    units::Order,
};

impl<'e> Mover<'e> {
    /// Releases a part of the batch.
    pub(super) fn release(
        &mut self,
        part: &Range<usize>,
        destination: &mut dyn Destination<'e>,
        context: Context<'_>,
        outcome: &mut Outcome,
    ) {
        let physical = self.physical();
        let frames = physical.frames();
        for (run, of_owner) in runs_in(&self.owners, part) {
            let folios = &self.folios[of_owner];
            if let Some(used) = &run.used
                && folios.iter().any(|folio| folio.is_isolated)
            {
                used.ops().putback(&PutbackRun { context, folios });
            }
        }
        for folio in &mut self.folios[part.clone()] {
            folio.is_released = true;
            physical.update_class_if_changed(folio.target());
            match folio.stay {
                None => {
                    outcome.moved += u64::from(folio.order.frames());
                    // Still frozen, so there are no references. Waiters re-read the entry or the index.
                    if frames.unlock_raw(folio.src) {
                        frames.let_waiters_go_first(folio.dst);
                    }
                    physical.unlock_and_put(folio.dst);
                    if folio.order > Order::ZERO {
                        physical.counters().add(Counter::ThpMigrationSuccess, 1);
                        // The mark and its count have moved along.
                        physical.frame(folio.src).unmark(Marks::PARTLY_MAPPED);
                        physical.free(folio.src);
                    }
                }
                Some(reason) => {
                    outcome.stayed.push((folio.src, reason));
                    frames.unlock_raw(folio.dst);
                    destination.give_back(FrozenFolio::from_exclusive(physical, folio.dst));
                    if physical.frame(folio.src).counts().has_waiters() {
                        frames.let_waiters_go_first(folio.src);
                    }
                    physical.unlock_and_put(folio.src);
                }
            }
        }
        let moved = self.folios[part.clone()].iter().filter(|folio| !folio.stays() && folio.order == Order::ZERO);
        physical.free_all(moved.map(|folio| folio.src));
    }

    /// Ends the batch after all its folios are released.
    pub(super) fn finish(&mut self) {
        let physical = self.physical();
        self.folios.retain(|folio| !folio.stays());
        physical.destinations_used(self.folios.len() as u32);
        physical.events().push(self.folios.iter().map(|folio| Event::Moved { from: folio.src, to: folio.dst }));
        self.folios.clear();
        // After all locks, since dropping the last `Arc` of an owner may free its folios. Nothing is kept between
        // batches.
        self.owners.clear();
        self.known.clear();
        self.maps.clear();
    }
}
