//! A mover: the order of a batch's steps, and the buffers, which it reuses for each batch.

use alloc::{sync::Arc, vec::Vec};
use core::ops::Range;

use super::{
    AnyFree, Batch, Destination, Options, Outcome,
    times::{StepTimes, Stopwatch},
};
use crate::{
    engine::Engine,
    folio::Migration,
    movable::{CallbackGuard, Context, Mode, Owner},
    paging::FlushDebt,
    port::might_wait,
    report::{Counter, Event},
    rmap::ReverseMap,
    units::{Order, Pfn},
    zone::Physical,
};

/// Moves the folios with the head frames `sources` to any free memory. To move more than once, keep a [`Mover`].
pub fn migrate(engine: &Engine, sources: &[Pfn], options: Options) -> Outcome {
    let mut destination = AnyFree::new(engine.physical(), sources.len().min(Options::MOST));
    Mover::new(engine).migrate(sources, &mut destination, options)
}

/// Moves folios. Reuses its buffers, so that a batch allocates nothing.
pub struct Mover<'e> {
    pub(super) engine: &'e Engine,
    pub(super) folios: Vec<Migration>,
    /// Runs of folios with the same owner.
    pub(super) owners: Vec<OwnerRun>,
    /// The owners that were looked up, the current one last.
    pub(super) known: Vec<(u32, Arc<Owner>)>,
    /// Runs of folios with the same reverse map. Each map is looked up once for a batch, so that the map that blocked
    /// entries also unblocks them, even if it leaves the registry meanwhile. These and `known` are kept until the
    /// batch's locks are released: dropping the last `Arc` of a closed one frees its folios, and waits for their locks.
    pub(super) maps: Vec<MapRun>,
    /// The orders and bounds for which the destination had no folio.
    pub(super) exhausted: Vec<(Order, Option<Pfn>)>,
    pub(super) debt: FlushDebt<'e>,
    /// Page tables among the sources, which move by calls of their own.
    pub(super) tables: Vec<Pfn>,
    times: Option<StepTimes>,
}

/// Consecutive folios of a batch with the same owner.
pub(super) struct OwnerRun {
    pub(super) folios: Range<usize>,
    pub(super) number: u32,
    pub(super) owner: Arc<Owner>,
    /// The use of its callbacks, from `isolate` to `putback`.
    pub(super) used: Option<CallbackGuard>,
}

/// Consecutive folios of a batch with the same reverse map.
pub(super) struct MapRun {
    pub(super) folios: Range<usize>,
    pub(super) map: Arc<dyn ReverseMap>,
}

impl AsRef<Range<usize>> for OwnerRun {
    fn as_ref(&self) -> &Range<usize> {
        &self.folios
    }
}

impl AsRef<Range<usize>> for MapRun {
    fn as_ref(&self) -> &Range<usize> {
        &self.folios
    }
}

impl<'e> Mover<'e> {
    /// Makes a mover with buffers for the largest batch.
    pub fn new(engine: &'e Engine) -> Self {
        let mut debt = FlushDebt::new(engine.physical());
        debt.reserve(Options::MOST);
        Self {
            engine,
            folios: Vec::with_capacity(Options::MOST),
            owners: Vec::with_capacity(Options::MOST),
            known: Vec::with_capacity(Options::MOST),
            maps: Vec::with_capacity(Options::MOST),
            exhausted: Vec::with_capacity(Options::MOST),
            debt,
            tables: Vec::new(),
            times: None,
        }
    }

    /// Measures the steps from now on, which reads the clock after each step of a batch.
    pub fn measure_steps(&mut self) {
        self.times = Some(StepTimes::default());
    }

    /// Gives the time of each step since [`Self::measure_steps`].
    pub fn step_times(&self) -> Option<StepTimes> {
        self.times
    }

    pub(super) fn physical(&self) -> &'e Arc<Physical> {
        self.engine.physical()
    }

    /// Moves the folios with the head frames `sources` to folios of `destination`, while programs use them; also page tables of
    /// address spaces. A folio freed meanwhile counts as neither moved nor stayed.
    pub fn migrate(&mut self, sources: &[Pfn], destination: &mut dyn Destination<'e>, options: Options) -> Outcome {
        might_wait(self.physical().machine());
        let mut outcome = Outcome::default();
        self.try_all(sources, destination, options, &mut outcome);
        let pages = self.split_stayed(options, &mut outcome);
        if !pages.is_empty() {
            self.try_all(&pages, destination, options, &mut outcome);
        }
        self.move_tables(destination, options, &mut outcome);
        let counters = self.physical().counters();
        counters.add(Counter::PgmigrateSuccess, outcome.moved);
        outcome.stayed.iter().for_each(|&(_, reason)| counters.stayed(reason));
        self.physical().events().push(outcome.stayed.iter().map(|&(pfn, reason)| Event::Stayed { pfn, reason }));
        outcome
    }

    /// Moves `sources`; tries again those that stay for a transient reason.
    fn try_all(
        &mut self,
        sources: &[Pfn],
        destination: &mut dyn Destination<'e>,
        options: Options,
        outcome: &mut Outcome,
    ) {
        // What stayed before is not tried again.
        let before = core::mem::take(&mut outcome.stayed);
        self.run_all(sources, destination, options, false, outcome);
        for attempt in 1..options.tries() {
            if !outcome.stayed.iter().any(|(_, reason)| reason.is_transient()) {
                break;
            }
            self.physical().machine().pause();
            let stayed = core::mem::take(&mut outcome.stayed);
            let (again, settled): (Vec<_>, _) = stayed.into_iter().partition(|(_, reason)| reason.is_transient());
            outcome.stayed = settled;
            let again: Vec<Pfn> = again.into_iter().map(|(pfn, _)| pfn).collect();
            // A folio alone may wait for locks: we hold nothing that others wait for.
            let alone = options.mode > Mode::Async && attempt > 1;
            self.run_all(&again, destination, options, alone, outcome);
        }
        outcome.stayed.extend(before);
    }

    /// Moves all of `sources`, in batches or each alone.
    fn run_all(
        &mut self,
        mut sources: &[Pfn],
        destination: &mut dyn Destination<'e>,
        options: Options,
        alone: bool,
        outcome: &mut Outcome,
    ) {
        while !sources.is_empty() {
            let size = if alone { 1 } else { self.batch_of(sources, options.batch) };
            let (batch, rest) = sources.split_at(size);
            self.run(batch, destination, options, alone, outcome);
            sources = rest;
        }
    }

    fn run(
        &mut self,
        batch: &[Pfn],
        destination: &mut dyn Destination<'e>,
        options: Options,
        wait: bool,
        outcome: &mut Outcome,
    ) {
        let physical = self.physical();
        assert!(self.folios.is_empty(), "a callback panicked in an earlier batch of this mover, which is half done");
        let context = Context { physical, mode: options.mode, purpose: options.purpose };
        let mut watch = Stopwatch::new(physical, self.times.is_some());
        let mut times = StepTimes::default();
        // Look-ups wait for the folio's lock from claim on, accesses through mappings from block on.
        let since = matches!(options.batch, Batch::Micros(_)).then(|| physical.machine().now_ns());
        self.exhausted.clear();
        for &pfn in batch {
            if let Err(Some(reason)) = self.claim(pfn, destination, options, wait) {
                outcome.stayed.push((pfn, reason));
            }
        }
        self.isolate(context);
        times.claim = watch.lap();
        self.block(options.mode > Mode::Async);
        times.block = watch.lap();
        self.debt.pay();
        times.flush = watch.lap();
        while let Some(part) = self.next_part(options.batch) {
            self.freeze(&part);
            times.freeze += watch.lap();
            self.copy(&part, context);
            self.commit(&part, context);
            times.copy += watch.lap();
            self.rebind(&part);
            times.rebind += watch.lap();
            self.release(&part, destination, context, outcome);
            times.release += watch.lap();
        }
        if let Some(since) = since {
            self.measure(physical.machine().now_ns().saturating_sub(since));
        }
        self.finish();
        times.release += watch.lap();
        if let Some(sum) = &mut self.times {
            sum.add(times);
        }
    }
}
