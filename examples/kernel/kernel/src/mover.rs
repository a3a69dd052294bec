//! Moves and compacts memory all the while.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use pagemove::{
    compact::{Goal, compact as compact_range},
    migrate::{AnyFree, Mover, Options, Policy},
    movable::Mode,
    report::Counter,
    units::Pfn,
};

use crate::{platform, sched};

static STOPS: AtomicBool = AtomicBool::new(false);
static MOVED: AtomicU64 = AtomicU64::new(0);

/// Empties as many pageblocks as it can; gives how many became free.
pub(crate) fn compact() -> u32 {
    let engine = platform::engine();
    let zones: Vec<_> = engine.physical().zones().collect();
    let mut free = 0;
    for zone in zones {
        for block in compact_range(engine, zone, Goal::All, Options::new(Mode::SyncLight)) {
            free += u32::from(block.free);
            MOVED.fetch_add(block.moved, Ordering::Relaxed);
        }
    }
    free
}

/// Moves every page that can move, once; then compacts.
fn round() {
    let engine = platform::engine();
    let physical = engine.physical();
    let mut mover = Mover::new(engine);
    let zones: Vec<_> = physical.zones().collect();
    for zone in zones {
        let mut at = zone.start;
        while at < zone.end() && !STOPS.load(Ordering::Relaxed) {
            let mut sources: Vec<Pfn> = Vec::with_capacity(64);
            while at < zone.end() && sources.len() < 64 {
                let state = physical.frame(at).state();
                if state.is_movable() {
                    sources.push(at);
                }
                at = at.up(1);
            }
            let mut destination = AnyFree::new(physical, sources.len());
            let options = Options { policy: Policy::Any, ..Options::new(Mode::SyncLight) };
            MOVED.fetch_add(mover.migrate(&sources, &mut destination, options).moved, Ordering::Relaxed);
        }
    }
    compact();
}

/// Moves pages in a thread of its own, until it's dropped.
pub(crate) struct Moving(alloc::sync::Arc<sched::Thread>);

impl Moving {
    /// Starts.
    pub(crate) fn start() -> Result<Self, sched::NoMemory> {
        STOPS.store(false, Ordering::Relaxed);
        MOVED.store(0, Ordering::Relaxed);
        sched::spawn(|| {
            while !STOPS.load(Ordering::Relaxed) {
                round();
                sched::yield_now();
            }
        })
        .map(Self)
    }

    /// Stops; gives the pages moved.
    pub(crate) fn stop(self) -> u64 {
        STOPS.store(true, Ordering::Relaxed);
        sched::join(&self.0);
        MOVED.load(Ordering::Relaxed)
    }
}

/// Gives the number of flushes so far.
pub(crate) fn flushes() -> u64 {
    platform::engine().physical().counters().get(Counter::TlbFlush)
}
