//! Frames set aside as destinations of moves: neither free nor in use, each reserved for one mover.
//!
//! A mover sets several aside at once, so that it takes the zone's lock rarely. A failing allocation recalls them:
//! movers then return theirs, and take one at a time.

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use super::{
    AllocError, Physical, Request,
    pageblock::{ClassRun, Migratetype},
};
use crate::{
    frame::{Class, Key, Kind, State},
    units::{Order, Pfn},
};

const DESTINATION: State = State::new(Kind::Destination, Class::Free, Order::ZERO);

/// How often a recall checks for returned frames before it gives up: a mover with frames set aside may be idle.
const MAX_POLLS: u32 = 64;

impl Physical {
    /// Sets aside free base frames as destinations, from any zone, this CPU's list first, until `out` has `most`.
    pub(crate) fn set_aside(&self, most: usize, out: &mut Vec<Pfn>) {
        let before = out.len();
        for zone in self.zones.iter().rev() {
            self.with_own_lists(zone, |lists| {
                if let Some(list) = lists.map(|lists| lists.list(Migratetype::Movable)) {
                    let from = list.len().saturating_sub(most.saturating_sub(out.len()));
                    out.extend(list.drain(from..));
                }
            });
            self.refill(zone, Migratetype::Movable, out, most);
        }
        for &pfn in &out[before..] {
            let frame = &self.frames[pfn];
            frame.set_state(DESTINATION.with_class(frame.state().class()));
        }
        self.count_set_aside(out.len() - before);
    }

    /// Sets aside up to `most` free base frames of pageblock `number`, none if it is isolated; calls `out` with each.
    pub(crate) fn set_aside_from_block(&self, number: u32, most: usize, mut out: impl FnMut(Pfn)) -> usize {
        let Some(zone) = self.zone_of(self.blocks.range(number).start) else { return 0 };
        let mut buddy = zone.buddy.lock();
        if self.blocks.is_isolated(number) {
            return 0;
        }
        let taken = buddy.take_from(self.tables(), number, most, |pfn| {
            self.frames[pfn].set_state(DESTINATION);
            out(pfn);
        });
        self.count_set_aside(taken);
        taken
    }

    /// Sets aside a folio of `order` from pageblock `number`, unless it is isolated.
    pub(crate) fn set_aside_folio_from_block(&self, number: u32, order: Order) -> Option<Pfn> {
        let zone = self.zone_of(self.blocks.range(number).start)?;
        let mut buddy = zone.buddy.lock();
        if self.blocks.is_isolated(number) || order > self.blocks.order() {
            return None;
        }
        let pfn = buddy.take_block_from(self.tables(), number, order)?;
        drop(buddy);
        self.prepare_allocation(pfn, order, Kind::Anon);
        self.make_destination(pfn);
        Some(pfn)
    }

    /// Sets aside a folio that `request` allows.
    pub(crate) fn set_aside_folio(&self, request: &Request) -> Result<Pfn, AllocError> {
        let pfn = self.take_frames(request)?;
        self.make_destination(pfn);
        Ok(pfn)
    }

    /// Makes a frozen folio of any kind a destination, if it isn't one.
    pub(crate) fn make_destination(&self, pfn: Pfn) {
        if self.frames[pfn].state().kind() != Kind::Destination {
            self.reset_destination(pfn);
            self.count_set_aside(1);
        }
    }

    fn count_set_aside(&self, destinations: usize) {
        self.pressure.set_aside.fetch_add(destinations as u32, Ordering::Relaxed);
    }

    /// Resets a destination that a move took but did not use.
    pub(crate) fn reset_destination(&self, pfn: Pfn) {
        let frame = &self.frames[pfn];
        let state = frame.state();
        frame.set_owner(0, Key::default());
        frame.set_state(State::new(Kind::Destination, state.class(), state.order()));
    }

    /// Frees unused destinations.
    pub(crate) fn return_destinations(&self, pfns: impl Iterator<Item = Pfn>) {
        let mut run = ClassRun::default();
        let mut returned = 0;
        for pfn in pfns {
            returned += 1;
            if self.frames[pfn].state().order() > Order::ZERO {
                self.return_large(pfn);
            } else if let Some(zone) = self.zone_of(pfn) {
                self.give_base(&mut zone.buddy.lock(), pfn, &mut run);
            }
        }
        run.finish(&self.blocks);
        self.destinations_used(returned);
    }

    fn return_large(&self, pfn: Pfn) {
        let frame = &self.frames[pfn];
        let state = frame.state();
        // `free` takes allocations only.
        frame.set_state(State::new(Kind::Anon, state.class(), state.order()));
        self.free(pfn);
    }

    /// Uncounts destinations that folios have moved to.
    pub(crate) fn destinations_used(&self, destinations: u32) {
        self.pressure.set_aside.fetch_sub(destinations, Ordering::Relaxed);
    }

    /// Tells whether an allocation is about to fail, so that movers must return destinations.
    pub(crate) fn are_destinations_recalled(&self) -> bool {
        self.pressure.recalls.load(Ordering::Relaxed) > 0
    }

    /// Makes movers return destinations, for an allocation that failed; tells whether to try again. Waits, so the
    /// caller holds no lock that a mover may need.
    pub(crate) fn recall_destinations(&self) -> bool {
        let before = self.pressure.set_aside.load(Ordering::Relaxed);
        if before == 0 {
            return false;
        }
        self.pressure.recalls.fetch_add(1, Ordering::Relaxed);
        for _ in 0..MAX_POLLS {
            self.machine().pause();
            if self.pressure.set_aside.load(Ordering::Relaxed) < before {
                break;
            }
        }
        self.pressure.recalls.fetch_sub(1, Ordering::Relaxed);
        true
    }
}
