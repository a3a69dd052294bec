//! How fast mapped pages move, beside how fast the same frames are copied.
//!
//! A machine of its own, with nothing else on it. Both are timed by turns, over the same pairs of frames in the same
//! order, so that neither has the warmer caches; the medians count.

use std::time::Instant;

use pagemove::{
    migrate::{AnyFree, Mode, Mover, Options},
    space::{Access, Source},
    units::{Order, Pfn},
};
use pagemove_hosted::TlbKind;

use super::{
    cancel::Stop,
    error::{EngineError, RunError},
    region::View,
    words::Words,
    world::{Shape, World},
};
use crate::results::Throughput;

/// Pages moved each time: 64 MiB, more than a core's caches.
const PAGES: u32 = 16 << 10;
/// Frames of the machine.
const FRAMES: u32 = PAGES * 3;
/// Measurements; the first one warms up.
const TIMES: usize = 9;

/// Measures.
pub(crate) fn measure(seed: u64, stop: &Stop) -> Result<Throughput, RunError> {
    let order = Order::new(9).unwrap_or_default();
    let shape = Shape { frames: FRAMES, pageblock_order: order, writers: 1, tlb: TlbKind::Soft };
    let mut world = World::new(shape, Words::new(seed, u64::MAX))?;
    world.start_processes()?;
    let measured = timed(&mut world, stop).map_err(|error| error.with_seed(seed))?;
    stop.check()?;
    let rate = |mut seconds: Vec<f64>| {
        seconds.sort_unstable_by(f64::total_cmp);
        let median = seconds.get(seconds.len() / 2).copied().unwrap_or(f64::INFINITY);
        f64::from(PAGES) * pagemove::units::PAGE_SIZE as f64 / 1e9 / median
    };
    let (moved, copied) = measured.into_iter().skip(1).unzip();
    Ok(Throughput { moved_gb_per_s: rate(moved), memcpy_gb_per_s: rate(copied) })
}

/// Gives the seconds of moving and of copying, each time.
fn timed(world: &mut World, stop: &Stop) -> Result<Vec<(f64, f64)>, EngineError> {
    let view = world.host.map(0, PAGES, true, Source::Anonymous { huge: false })?;
    for page in 0..PAGES {
        world.host.processes[0].space().fault(view.start.up(page), Access::Write)?;
    }
    let engine = &world.host.engine;
    let (physical, ram) = (engine.physical(), engine.physical().ram());
    let mut times = Vec::with_capacity(TIMES);
    let mut sources = frames(world, &view)?;
    while times.len() < TIMES && !stop.is_set() {
        let mut destination = AnyFree::new(physical, Options::MOST);
        let mut mover = Mover::new(engine);
        let start = Instant::now();
        let outcome = mover.migrate(&sources, &mut destination, Options::new(Mode::Async));
        let moving = start.elapsed().as_secs_f64();
        if outcome.moved != u64::from(PAGES) {
            return Err(EngineError::Lost(format!(
                "only {} of {PAGES} pages moved, though nothing uses them",
                outcome.moved
            )));
        }
        drop(destination);
        let moved = frames(world, &view)?;
        // The sources are free now and still hold the same bytes, so this changes nothing.
        let start = Instant::now();
        for (&from, &to) in sources.iter().zip(&moved) {
            ram.copy(from, to, Order::ZERO);
        }
        times.push((moving, start.elapsed().as_secs_f64()));
        sources = moved;
    }
    Ok(times)
}

fn frames(world: &World, view: &View) -> Result<Vec<Pfn>, EngineError> {
    (0..PAGES).map(|page| world.host.frame(view, page)).collect()
}
