//! Executing a plan, and allocating a large block by compaction.

use alloc::{sync::Arc, vec::Vec};

use super::{Goal, Observation, Plan};
use crate::{
    engine::Engine,
    folio::FrozenFolio,
    frame::Class,
    migrate::{Mover, Options, TheseFrames, split_partly_mapped},
    report::{Counter, Reason},
    units::{FrameRange, Order, Pfn},
    zone::{AllocError, Effort, Physical, Request},
};

/// The outcome for a block to empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockOutcome {
    /// The block's number.
    pub block: u32,
    /// Base pages moved out.
    pub moved: u64,
    /// Pages not moved, and why.
    pub stayed: Vec<(Pfn, Reason)>,
    /// Whether the whole block is free now.
    pub free: bool,
}

/// A plan being executed block by block: the caller can show progress, and stop between blocks.
pub struct Compaction<'e> {
    physical: &'e Arc<Physical>,
    mover: Mover<'e>,
    destination: TheseFrames<'e>,
    plan: &'e Plan,
    options: Options,
    next: usize,
    sources: Vec<Pfn>,
}

impl<'e> Compaction<'e> {
    /// Starts to execute `plan`.
    pub fn new(engine: &'e Engine, plan: &'e Plan, options: Options) -> Self {
        let physical = engine.physical();
        Self {
            physical,
            mover: Mover::new(engine),
            destination: TheseFrames::new(physical, plan.fill.iter().copied()),
            plan,
            options,
            next: 0,
            sources: Vec::with_capacity(physical.blocks().order().frames() as usize),
        }
    }

    /// Isolates the block, which takes its frames off all CPUs' lists, moves its pages out, and ends the isolation. Gives up if a page stays.
    fn empty(&mut self, block: u32) -> BlockOutcome {
        let counters = self.physical.counters();
        counters.add(Counter::CompactBlocks, 1);
        let mut outcome = BlockOutcome { block, moved: 0, stayed: Vec::new(), free: false };
        let Some(isolated) = self.physical.isolate_block(block) else { return outcome };
        // At most twice: the second pass finds pages whose allocation was under way during the first.
        for attempt in 0..2 {
            movable_frames(self.physical, self.physical.blocks().range(block), &mut self.sources);
            if !self.sources.is_empty() {
                let now = self.mover.migrate(&self.sources, &mut self.destination, self.options);
                outcome.moved += now.moved;
                outcome.stayed = now.stayed;
            }
            outcome.free = self.physical.is_free_block(block, self.physical.blocks().order());
            if outcome.free || !outcome.stayed.is_empty() || attempt == 1 {
                break;
            }
        }
        drop(isolated);
        self.destination.return_all();
        counters.add(if outcome.free { Counter::CompactSuccess } else { Counter::CompactFail }, 1);
        outcome
    }
}

impl Iterator for Compaction<'_> {
    type Item = BlockOutcome;

    fn next(&mut self) -> Option<BlockOutcome> {
        let block = self.plan.empty.get(self.next)?.block;
        self.next += 1;
        Some(self.empty(block))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.plan.empty.len() - self.next;
        (left, Some(left))
    }
}

/// Lists the heads of movable allocations, upwards.
fn movable_frames(physical: &Physical, range: FrameRange, out: &mut Vec<Pfn>) {
    out.clear();
    let mut at = range.start;
    while at < range.end() {
        let state = physical.frame(at).state();
        if state.is_movable() {
            out.push(at);
        }
        let step = if !state.kind().is_allocation() && !state.is_free_head() { 1 } else { state.order().frames() };
        at = at.up(step);
    }
}

/// Observes, plans and acts once on `range`; gives the outcome for each block of the plan.
pub fn compact(engine: &Engine, range: FrameRange, goal: Goal, options: Options) -> Vec<BlockOutcome> {
    let plan = Plan::new(&Observation::of(engine.physical(), range, options.policy), goal);
    Compaction::new(engine, &plan, options).collect()
}

/// Lets allocations with [`Effort::Compact`](crate::zone::Effort::Compact) compact memory, with `options`; those of base
/// pages, and faults, split partly mapped folios before they fail.
pub fn compact_for_allocations(engine: &Arc<Engine>, options: Options) {
    // Weak, since the engine owns the closure.
    let engine_of_allocations = Arc::downgrade(engine);
    engine.physical().set_compactor(Arc::new(move |request| {
        engine_of_allocations.upgrade().is_some_and(|engine| make_free_block(&engine, request, options))
    }));
}

/// Empties blocks that `request` may use, the cheapest of any zone first, until one is free, or a run of as many as it needs;
/// tells whether one is.
fn make_free_block(engine: &Engine, request: &Request, options: Options) -> bool {
    let physical = engine.physical();
    if request.order() == Order::ZERO {
        return split_partly_mapped(engine);
    }
    physical.counters().add(Counter::CompactStall, 1);
    let is_allowed = |&(number, range): &(usize, FrameRange)| {
        request.allows_zone(number, physical.node_of_zone(number).unwrap_or(0), range.start)
    };
    let mut zones: Vec<FrameRange> = physical.zones().enumerate().filter(is_allowed).map(|(_, range)| range).collect();
    // As allocations try them.
    zones.reverse();
    if request.order() > physical.blocks().order() {
        return zones.into_iter().any(|range| make_free_run(engine, range, request.order(), options));
    }
    for blocks in [1, 8, u32::MAX] {
        for &range in &zones {
            let plan = Plan::new(&Observation::of(physical, range, options.policy), Goal::Blocks(blocks));
            if Compaction::new(engine, &plan, options).any(|outcome| outcome.free) {
                return true;
            }
        }
    }
    false
}

/// Runs that are tried for one allocation.
const MOST_RUNS: usize = 8;

/// Empties runs of blocks of `range`, the cheapest first, until one is a free block of `order`; tells whether one is.
fn make_free_run(engine: &Engine, range: FrameRange, order: Order, options: Options) -> bool {
    let physical = engine.physical();
    let blocks = order.frames() / physical.blocks().order().frames();
    let is_free = |block| {
        let frames = physical.blocks().range(block);
        range.contains(frames.start) && physical.blocks().summary(block).of(Class::Free) == frames.frames
    };
    let plans = Plan::for_runs(&Observation::of(physical, range, options.policy), blocks, is_free);
    plans.iter().take(MOST_RUNS).any(|plan| {
        let Some(first) = plan.empty.first().map(|empty| empty.block / blocks * blocks) else { return false };
        Compaction::new(engine, plan, options).all(|outcome| outcome.free) && physical.is_free_block(first, order)
    })
}

/// Allocates what `request` asks for with an effort of its own: if no such folio is free, compacts as `options` say.
///
/// For an order above a pageblock's a run of pageblocks is emptied. On failure the reasons are in the counters and events. Sleeps.
pub fn alloc_compacting<'e>(
    engine: &'e Engine,
    request: &Request,
    options: Options,
) -> Result<FrozenFolio<'e>, AllocError> {
    let physical = engine.physical();
    let request = request.with_effort(Effort::Compact);
    let pfn = physical.take_compacting(&request, |request| make_free_block(engine, request, options))?;
    Ok(FrozenFolio::from_exclusive(physical, pfn))
}
