//! How fast mapped pages move, beside how fast the same frames are copied.
//!
//! A machine of its own, with nothing else on it. Both are timed by turns, over the same pairs of frames in the same
//! order, so that neither has the warmer caches; the medians count.

use std::time::Instant;

use pagemove::{
    frame::Kind,
    migrate::{AnyFree, Mode, Mover, Options},
    space::{Orders, Source},
    units::{Order, Pfn},
};
use pagemove_hosted::TlbKind;
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::{
    error::{EngineError, RunError},
    words::Words,
    world::{Base, Shape, World},
};
use crate::{cancel::Stop, results::Throughput};

/// Pages moved each time: 128 MiB, more than most caches.
const PAGES: u32 = 32 << 10;
/// Frames of the machine: room to move all pages at once, and tables.
const FRAMES: u32 = PAGES * 3;
/// Measurements; the first one warms up.
const TIMES: usize = 10;

/// Measures.
pub(crate) fn measure(seed: u64, stop: &Stop) -> Result<Throughput, RunError> {
    let order = Order::new(9).unwrap_or_default();
    let shape = Shape { frames: FRAMES, pageblock_order: order, writers: 1, tlb: TlbKind::Soft };
    let base = Base::new(shape)?;
    let mut world = World::new(&base, Words::new(seed, u64::MAX))?;
    world.start_processes()?;
    let measured = timed(&mut world, seed, stop).map_err(|error| error.with_seed(seed))?;
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
fn timed(world: &mut World<'_>, seed: u64, stop: &Stop) -> Result<Vec<(f64, f64)>, EngineError> {
    let view = world.host.map(0, PAGES, true, Source::Anonymous { orders: Orders::BASE })?;
    let host = &world.host;
    let (physical, ram) = (host.engine.physical(), host.engine.physical().ram());
    // Now, since the host gives a page of RAM at its first use only: that would be measured instead.
    let mut all = Vec::with_capacity(FRAMES as usize);
    while let Ok(mut page) = physical.alloc(Order::ZERO, Kind::Kernel) {
        page.zero();
        all.push(page);
    }
    drop(all);
    let mut pages: Vec<u32> = (0..PAGES).collect();
    // In random order, so that frames and addresses have nothing to do with each other, as in a machine of some age.
    pages.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    for &page in &pages {
        host.fault(&view, page)?;
    }
    let mut times = Vec::with_capacity(TIMES);
    let mut mover = Mover::new(&host.engine);
    while times.len() < TIMES && !stop.is_set() {
        // In the order of frames, as compaction takes them.
        let mut sources =
            (0..PAGES).map(|page| Ok((host.frame(&view, page)?, page))).collect::<Result<Vec<_>, EngineError>>()?;
        sources.sort_unstable();
        let from: Vec<Pfn> = sources.iter().map(|&(pfn, _)| pfn).collect();
        // Set aside together, so that no source is a destination as well, and the same copies can be made again.
        let mut destination = AnyFree::new(physical, PAGES as usize);
        let start = Instant::now();
        let outcome = mover.migrate(&from, &mut destination, Options::new(Mode::Async).in_full_batches());
        let moving = start.elapsed().as_secs_f64();
        if outcome.moved != u64::from(PAGES) {
            let moved = outcome.moved;
            return Err(EngineError::Lost(format!("only {moved} of {PAGES} pages moved, though nothing uses them")));
        }
        drop(destination);
        let to = sources.iter().map(|&(_, page)| host.frame(&view, page)).collect::<Result<Vec<_>, _>>()?;
        // The sources are free now and still hold the same bytes, so this changes nothing.
        let start = Instant::now();
        for (&from, &to) in from.iter().zip(&to) {
            #[allow(unsafe_code, reason = "the reference is beside the engine")]
            // SAFETY: nobody else uses this machine, which outlives the views; nothing is allocated meanwhile.
            unsafe {
                std::ptr::copy_nonoverlapping(ram.words(from).as_ptr(), ram.words(to).as_ptr().cast_mut(), 512);
            }
        }
        times.push((moving, start.elapsed().as_secs_f64()));
    }
    Ok(times)
}
