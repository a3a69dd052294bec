//! The middle steps of a move: block, freeze, copy, commit, rebind.

use core::ops::Range;

use super::{Mover, budget::runs_in, expected, mover::MapRun};
use crate::{
    folio::Migration,
    frame::{Marks, State},
    movable::{Context, MigrationRun, copy_contents},
    report::Reason,
    units::Order,
    zone::{ClassRun, Physical},
};

impl Mover<'_> {
    /// Turns the mappings of each folio into migration entries.
    pub(super) fn block(&mut self, wait: bool) {
        let physical = self.physical();
        let Self { engine, folios, debt, maps, .. } = self;
        let mut start = 0;
        for run in folios.chunk_by_mut(|one, next| one.key.rmap == next.key.rmap) {
            let (first, number) = (start, run[0].key.rmap);
            start += run.len();
            // A map that is not registered any more has no mappings.
            if number != 0
                && let Some(map) = engine.reverse_maps().get(number)
            {
                map.block(physical, run, wait, debt);
                maps.push(MapRun { folios: first..start, map });
            }
        }
    }

    /// Freezes each folio, and prepares its destination, which stays frozen until `commit`.
    pub(super) fn freeze(&mut self, part: &Range<usize>) {
        let physical = self.physical();
        let mut classes = ClassRun::default();
        for folio in self.folios[part.clone()].iter_mut().filter(|folio| !folio.stays()) {
            let src = physical.frame(folio.src);
            if src.freeze(expected(folio.is_isolated)) {
                prepare_destination(physical, folio, &mut classes);
                continue;
            }
            folio.stay(match src {
                src if src.pins() > 0 => Reason::Pinned,
                // A mapping was being added or removed meanwhile.
                src if src.maps() > 0 => Reason::Raced,
                _ => Reason::Referenced,
            });
        }
        classes.finish(physical.blocks());
    }

    /// Copies the contents of all folios, owners' folios by their callbacks.
    pub(super) fn copy(&mut self, part: &Range<usize>, context: Context<'_>) {
        let Self { folios, owners, .. } = self;
        let mut copied = part.start;
        for (run, of_owner) in runs_in(owners, part) {
            let Some(used) = &run.used else { continue };
            // Anonymous folios, which are between the owners' runs.
            copy_contents(context.physical, &folios[copied..of_owner.start]);
            copied = of_owner.end;
            call(context, &mut folios[of_owner], |folios| used.ops().copy(folios));
        }
        copy_contents(context.physical, &folios[copied..part.end]);
        context.physical.ram().order_copies();
    }

    /// Calls the owners' `migrate`, which points their tables to the copies. A folio whose token was exchanged can't be
    /// refused any more, so its destination's counts are published. A look-up meanwhile waits for the source's or the
    /// destination's lock.
    pub(super) fn commit(&mut self, part: &Range<usize>, context: Context<'_>) {
        let Self { folios, owners, .. } = self;
        for (run, of_owner) in runs_in(owners, part) {
            let Some(used) = &run.used else { continue };
            let folios = &mut folios[of_owner];
            call(context, folios, |folios| used.ops().migrate(folios));
            for folio in folios.iter_mut().filter(|folio| !folio.stays() && !folio.is_exchanged) {
                undo_freeze(context.physical, folio);
                folio.stay(Reason::Refused);
            }
        }
        for folio in folios[part.clone()].iter().filter(|folio| !folio.stays()) {
            context.physical.frame(folio.dst).thaw(expected(folio.is_isolated), 0);
        }
    }

    /// Rebinds blocked mappings: to the destination, or to the source if the folio stays.
    pub(super) fn rebind(&mut self, part: &Range<usize>) {
        let physical = self.physical();
        for (run, of_map) in runs_in(&self.maps, part) {
            let folios = &self.folios[of_map];
            // If nothing was blocked, don't wait for the map's lock, which may be what kept us from blocking.
            if folios.iter().any(Migration::is_blocked) {
                run.map.rebind(physical, folios);
            }
        }
    }
}

/// Calls an owner's callback for frozen folios, and thaws those that it refuses.
fn call(context: Context<'_>, folios: &mut [Migration], callback: impl FnOnce(&mut MigrationRun<'_>)) {
    if folios.iter().all(Migration::stays) {
        return;
    }
    callback(&mut MigrationRun { context, folios });
    for folio in folios.iter_mut().filter(|folio| folio.is_frozen && folio.stays()) {
        undo_freeze(context.physical, folio);
    }
}

/// Thaws the source, and resets the destination.
fn undo_freeze(physical: &Physical, folio: &mut Migration) {
    folio.is_frozen = false;
    physical.reset_destination(folio.dst);
    physical.frame(folio.src).thaw(expected(true), 0);
}

/// Gives the destination the source's kind, order, owner, key and dirty mark. Its counts stay zero, so a thread that
/// finds it meanwhile gets no reference, and waits for its lock.
fn prepare_destination(physical: &Physical, folio: &mut Migration, classes: &mut ClassRun) {
    folio.is_frozen = true;
    let (src, dst) = (physical.frame(folio.src), physical.frame(folio.dst));
    let state = src.state();
    // The class will be the same, since the mappings will.
    let class = state.class();
    if folio.order == Order::ZERO {
        classes.add(physical.blocks(), folio.dst, dst.state().class(), class);
    } else {
        physical.count(folio.dst, folio.order, dst.state().class(), class);
    }
    dst.set_owner(src.owner(), folio.key);
    dst.set_state(
        State::new(state.kind(), class, folio.order).with(state.marks() & (Marks::DIRTY | Marks::PARTLY_MAPPED)),
    );
}
