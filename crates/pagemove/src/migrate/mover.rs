//! A mover: the room that a batch needs, kept from batch to batch, and the steps of a move.

use alloc::{sync::Arc, vec::Vec};
use core::ops::Range;

use super::{Destination, Options, Outcome, Policy};
use crate::{
    engine::Engine,
    frame::{Claim, Kind, Marks, State},
    movable::{Mode, OwnedMove, OwnedPage, Owner, OwnerUse, Refusal},
    paging::FlushDebt,
    port::might_wait,
    report::{Counter, Event, Reason},
    rmap::{MovingPage, ReverseMap},
    units::{Order, Pfn},
    zone::{ClassRun, Physical},
};

/// Where the time of moves went, in nanoseconds, by step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StepTimes {
    /// References, locks, owners, destinations.
    pub claim: u64,
    /// Migration entries.
    pub block: u64,
    /// TLB flushes.
    pub flush: u64,
    /// Freezing, and making the destination what the source is.
    pub freeze: u64,
    /// Contents, and owners' tables.
    pub copy: u64,
    /// Entries for the destination.
    pub rebind: u64,
    /// Waking, freeing, putting back.
    pub release: u64,
}

impl StepTimes {
    fn add(&mut self, other: Self) {
        self.claim += other.claim;
        self.block += other.block;
        self.flush += other.flush;
        self.freeze += other.freeze;
        self.copy += other.copy;
        self.rebind += other.rebind;
        self.release += other.release;
    }
}

/// A stopwatch that only looks at the clock if asked to.
struct Clock<'p> {
    physical: Option<&'p Physical>,
    last: u64,
}

impl<'p> Clock<'p> {
    fn new(physical: &'p Physical, on: bool) -> Self {
        Self { physical: on.then_some(physical), last: if on { physical.machine().now_ns() } else { 0 } }
    }

    fn lap(&mut self) -> u64 {
        let Some(physical) = self.physical else { return 0 };
        let now = physical.machine().now_ns();
        core::mem::replace(&mut self.last, now).abs_diff(now)
    }
}

/// Moves pages. Keeps its room and the last look-ups, so that a batch allocates nothing.
pub struct Mover<'e> {
    engine: &'e Engine,
    pages: Vec<MovingPage>,
    // For each page the place of its owner in `uses`, if it has one.
    owners: Vec<Option<usize>>,
    // One for all pages in a row that have the same owner, with its number.
    uses: Vec<(u32, OwnerUse)>,
    debt: FlushDebt<'e>,
    // Runs of pages with the same reverse map. Each is looked up once a batch: its entries are unblocked by the map that blocked
    // them, though it leave the registry meanwhile. These and `known` are kept until the batch's locks are gone: dropping
    // the last hold of one that is closed meanwhile frees its pages, and waits for their locks.
    maps: Vec<(Range<usize>, Arc<dyn ReverseMap>)>,
    known: Vec<(u32, Arc<Owner>)>,
    times: Option<StepTimes>,
}

impl<'e> Mover<'e> {
    /// Makes a mover with room for the largest batch.
    pub fn new(engine: &'e Engine) -> Self {
        let mut debt = FlushDebt::new(engine.physical());
        debt.reserve(Options::MOST);
        Self {
            engine,
            pages: Vec::with_capacity(Options::MOST),
            owners: Vec::with_capacity(Options::MOST),
            uses: Vec::with_capacity(Options::MOST),
            debt,
            maps: Vec::with_capacity(Options::MOST),
            known: Vec::with_capacity(Options::MOST),
            times: None,
        }
    }

    /// Measures the steps from now on; that costs two looks at the clock for each step of a batch.
    pub fn measure_steps(&mut self) {
        self.times = Some(StepTimes::default());
    }

    /// Gives where the time went since [`Self::measure_steps`].
    pub fn step_times(&self) -> Option<StepTimes> {
        self.times
    }

    fn physical(&self) -> &'e Physical {
        self.engine.physical()
    }

    /// Moves the pages of `sources` to frames of `destination`. A page that was freed meanwhile counts as neither moved
    /// nor stayed. Programs may use the pages all along.
    pub fn migrate(&mut self, sources: &[Pfn], destination: &mut dyn Destination, options: Options) -> Outcome {
        might_wait(self.physical().machine());
        let mut outcome = Outcome::default();
        let size = options.batch.clamp(1, Options::MOST);
        for batch in sources.chunks(size) {
            self.run(batch, destination, options, false, &mut outcome);
        }
        for attempt in 1..options.tries() {
            if !outcome.stayed.iter().any(|(_, reason)| reason.is_transient()) {
                break;
            }
            self.physical().machine().pause();
            let stayed = core::mem::take(&mut outcome.stayed);
            let (again, settled): (Vec<_>, _) = stayed.into_iter().partition(|(_, reason)| reason.is_transient());
            outcome.stayed = settled;
            let again: Vec<Pfn> = again.into_iter().map(|(pfn, _)| pfn).collect();
            // Alone a page may wait for locks: nobody waits for anything that we hold.
            let alone = options.mode > Mode::Async && attempt > 1;
            for batch in again.chunks(if alone { 1 } else { size }) {
                self.run(batch, destination, options, alone, &mut outcome);
            }
        }
        let counters = self.physical().counters();
        counters.add(Counter::PgmigrateSuccess, outcome.moved);
        outcome.stayed.iter().for_each(|&(_, reason)| counters.stayed(reason));
        self.physical().events().push(outcome.stayed.iter().map(|&(pfn, reason)| Event::Stayed { pfn, reason }));
        outcome
    }

    fn run(
        &mut self,
        batch: &[Pfn],
        destination: &mut dyn Destination,
        options: Options,
        wait: bool,
        outcome: &mut Outcome,
    ) {
        let mut clock = Clock::new(self.physical(), self.times.is_some());
        let mut times = StepTimes::default();
        for &pfn in batch {
            if let Err(Some(reason)) = self.claim(pfn, destination, options, wait) {
                outcome.stayed.push((pfn, reason));
            }
        }
        times.claim = clock.lap();
        self.block(options.mode > Mode::Async);
        times.block = clock.lap();
        self.debt.pay();
        times.flush = clock.lap();
        self.freeze();
        times.freeze = clock.lap();
        self.copy(options.mode);
        times.copy = clock.lap();
        self.rebind();
        times.rebind = clock.lap();
        self.release(destination, options.mode, outcome);
        times.release = clock.lap();
        if let Some(sum) = &mut self.times {
            sum.add(times);
        }
    }

    /// Claims a page: reference, lock, off its owner's lists, a destination, the mark. An error without
    /// reason: it was freed meanwhile.
    fn claim(
        &mut self,
        pfn: Pfn,
        destination: &mut dyn Destination,
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
        let claimed = self.claim_locked(pfn, options, wait).and_then(|order| {
            // Before the owner is asked: who is asked to stop for a page may rely on nobody else using it. (What comes later
            // fails at the freeze.)
            let expected = expected(frame.owner() != 0);
            if !frame.counts().has_only_mappings_and(expected) {
                return Err(Reason::Referenced);
            }
            let to = if order == Order::ZERO { destination.take() } else { destination.take_larger(order) };
            let reason = if order == Order::ZERO { Reason::NoDestination } else { Reason::Order };
            let to = to.ok_or(reason)?;
            check_destination(physical, to, order);
            let key = frame.key();
            let owner = match frame.owner() {
                0 => None,
                number => match self.isolate(number, pfn, key.index, options.mode) {
                    Ok(owner) => Some(owner),
                    Err(reason) => {
                        give_back(physical, destination, to, order);
                        return Err(reason);
                    }
                },
            };
            Ok((MovingPage { from: pfn, to, key, order, stay: None, blocked: false }, owner))
        });
        match claimed {
            Ok((page, owner)) => {
                // Locked before its kind says that it can be used: a fault that finds it by an entry waits for us.
                physical.frames().lock_exclusive(page.to);
                self.pages.push(page);
                self.owners.push(owner);
                Ok(())
            }
            Err(reason) => {
                physical.unlock_and_put(pfn);
                Err(Some(reason))
            }
        }
    }

    /// Tells the size of a locked page that may move, or why it may not.
    fn claim_locked(&self, pfn: Pfn, options: Options, wait: bool) -> Result<Order, Reason> {
        let frame = self.physical().frame(pfn);
        let state = frame.state();
        if !state.kind().is_movable() {
            return Err(Reason::Unmovable);
        }
        if frame.pins() > 0 {
            return Err(Reason::Pinned);
        }
        if state.marks().contains(Marks::WRITEBACK) {
            // Alone only: who ends the writing may want a page of our batch first.
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

    /// Asks the owner for the page; gives the place of the owner's use.
    fn isolate(&mut self, number: u32, pfn: Pfn, index: u32, mode: Mode) -> Result<usize, Reason> {
        if self.uses.last().is_none_or(|(known, _)| *known != number) {
            if self.known.last().is_none_or(|(known, _)| *known != number) {
                self.known.push((number, self.engine.owners().get(number).ok_or(Reason::OwnerGone)?));
            }
            let (_, owner) = self.known.last().ok_or(Reason::OwnerGone)?;
            self.uses.push((number, owner.begin().ok_or(Reason::OwnerGone)?));
        }
        let place = self.uses.len() - 1;
        self.uses[place].1.ops().isolate(OwnedPage { pfn, index, mode }).map_err(reason_of)?;
        Ok(place)
    }

    fn block(&mut self, wait: bool) {
        let physical = self.physical();
        let Self { engine, pages, debt, maps, .. } = self;
        let mut start = 0;
        for run in pages.chunk_by_mut(|one, next| one.key.rmap == next.key.rmap) {
            let (first, number) = (start, run[0].key.rmap);
            start += run.len();
            // A map that is gone has no mappings left.
            if number != 0
                && let Some(map) = engine.reverse_maps().get(number)
            {
                map.block(physical, run, wait, debt);
                maps.push((first..start, map));
            }
        }
    }

    /// Freezes each page, and makes its destination what it is. The destination stays frozen until `commit`.
    fn freeze(&mut self) {
        let physical = self.physical();
        let mut classes = ClassRun::default();
        for (page, owner) in self.pages.iter_mut().zip(&self.owners) {
            if page.stay.is_some() {
                continue;
            }
            let from = physical.frame(page.from);
            let expected = expected(owner.is_some());
            if !from.freeze(expected) {
                page.stay = Some(match from {
                    from if from.pins() > 0 => Reason::Pinned,
                    // A mapping was on its way in or out while we looked.
                    from if from.maps() > 0 => Reason::Raced,
                    _ => Reason::Referenced,
                });
                continue;
            }
            prepare_destination(physical, page, &mut classes);
        }
        classes.finish(physical.blocks());
    }

    /// Copies each frozen page, then points the owners to the copies; who looks for one meanwhile waits at the source's
    /// lock or the destination's.
    fn copy(&mut self, mode: Mode) {
        let physical = self.physical();
        let Self { pages, owners, uses, .. } = self;
        for (page, owner) in pages.iter_mut().zip(&*owners).filter(|(page, _)| page.stay.is_none()) {
            match *owner {
                None => physical.ram().copy_streaming(page.from, page.to, page.order),
                Some(place) => {
                    if let Err(refusal) = uses[place].1.ops().copy(&owned_move(physical, page, mode)) {
                        unfreeze(physical, page, refusal);
                    }
                }
            }
        }
        physical.ram().settle_copies();
        for (page, owner) in pages.iter_mut().zip(&*owners).filter(|(page, _)| page.stay.is_none()) {
            if let Some(place) = *owner
                && let Err(refusal) = uses[place].1.ops().migrate(&owned_move(physical, page, mode))
            {
                unfreeze(physical, page, refusal);
                continue;
            }
            // The commit: nobody can refuse any more, so the destination's counts are published, once.
            physical.frame(page.to).thaw(expected(owner.is_some()), 0);
        }
    }

    fn rebind(&mut self) {
        let physical = self.physical();
        for (run, map) in &self.maps {
            let pages = &self.pages[run.clone()];
            // Where nothing was blocked the map's lock may be held, as it was when we tried.
            if pages.iter().any(|page| page.blocked) {
                map.rebind(physical, pages);
            }
        }
    }

    fn release(&mut self, destination: &mut dyn Destination, mode: Mode, outcome: &mut Outcome) {
        let physical = self.physical();
        let frames = physical.frames();
        for (page, owner) in self.pages.iter().zip(&self.owners) {
            let kept = page.target();
            if let Some(place) = *owner {
                self.uses[place].1.ops().putback(OwnedPage { pfn: kept, index: page.key.index, mode });
            }
            physical.update_class_if_changed(kept);
            match page.stay {
                None => {
                    outcome.moved += u64::from(page.order.frames());
                    physical.unlock_and_put(page.to);
                    // Still frozen, so nobody has a reference. Waiters re-read the entry or the index.
                    frames.unlock_raw(page.from);
                    if page.order > Order::ZERO {
                        physical.free(page.from);
                    }
                }
                Some(reason) => {
                    outcome.stayed.push((page.from, reason));
                    frames.unlock_raw(page.to);
                    give_back(physical, destination, page.to, page.order);
                    physical.unlock_and_put(page.from);
                }
            }
        }
        let moved = self.pages.iter().filter(|page| page.stay.is_none() && page.order == Order::ZERO);
        physical.free_all(moved.map(|page| page.from));
        self.pages.retain(|page| page.stay.is_none());
        physical.destinations_used(self.pages.len() as u32);
        physical.events().push(self.pages.iter().map(|page| Event::Moved { from: page.from, to: page.to }));
        self.pages.clear();
        self.owners.clear();
        // After all locks: the last use of an owner that is gone may free its pages. Nothing is kept alive between batches.
        self.uses.clear();
        self.known.clear();
        self.maps.clear();
    }
}

/// References of a page that is claimed and blocked: ours, and its owner's.
fn expected(has_owner: bool) -> u32 {
    1 + u32::from(has_owner)
}

fn reason_of(refusal: Refusal) -> Reason {
    match refusal {
        Refusal::No => Reason::Refused,
        Refusal::Retry => Reason::Retry,
    }
}

fn give_back(physical: &Physical, destination: &mut dyn Destination, pfn: Pfn, order: Order) {
    if order == Order::ZERO {
        destination.give_back(pfn);
    } else {
        physical.return_destinations(core::iter::once(pfn));
    }
}

fn owned_move<'p>(physical: &'p Physical, page: &MovingPage, mode: Mode) -> OwnedMove<'p> {
    OwnedMove { physical, from: page.from, to: page.to, index: page.key.index, mode }
}

/// Undoes the freeze of a page that its owner refuses.
fn unfreeze(physical: &Physical, page: &mut MovingPage, refusal: Refusal) {
    page.stay = Some(reason_of(refusal));
    physical.reset_destination(page.to);
    physical.frame(page.from).thaw(expected(true), 0);
}

/// Checks that nobody can have a reference to what a destination gave, and that it's free to be used. Panics otherwise: a
/// destination that gives frames in use would have pages moved over their contents.
fn check_destination(physical: &Physical, pfn: Pfn, order: Order) {
    let frame = physical.frame(pfn);
    let state = frame.state();
    let fits = frame.is_unused() && state.kind() == Kind::Destination && state.order() == order;
    assert!(fits, "frame {pfn} was given as a destination, but is not set aside as one of order {}", order.get());
}

/// Makes the destination what the source is: kind, size, owner, place and marks. Its counts stay zero, so that whoever finds
/// it meanwhile gets no reference, and waits for its lock.
fn prepare_destination(physical: &Physical, page: &MovingPage, classes: &mut ClassRun) {
    let (from, to) = (physical.frame(page.from), physical.frame(page.to));
    let state = from.state();
    // Its mappings will be the same, too.
    let class = state.class();
    if page.order == Order::ZERO {
        classes.add(physical.blocks(), page.to, to.state().class(), class);
    } else {
        physical.count(page.to, page.order, to.state().class(), class);
    }
    to.set_owner(from.owner(), page.key);
    to.set_state(State::new(state.kind(), class, page.order).with(state.marks() & Marks::DIRTY));
}
