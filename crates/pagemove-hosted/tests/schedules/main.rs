//! Whole moves under shuttle: a batch of moves of each kind of page against everything else that can happen to them, with
//! the scheduler choosing who goes on at each atomic access and lock, at random and by PCT (priorities with few changes,
//! ASPLOS'10). Sequentially consistent histories only: orderings are for the models under loom.
//!
//! `PAGEMOVE_SCHEDULES` is the number of histories for each pair and scheduler, `PAGEMOVE_SEED` the first seed. What fails
//! is printed: the case, by name, and its schedule. `PAGEMOVE_REPLAY=SCHEDULE` with `PAGEMOVE_CASE=CASE` runs just that again.
#![allow(missing_docs, unreachable_pub, reason = "a test")]

#[path = "../common/accelerator.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod accelerator;
mod closing;
mod deeds;
mod dropping;
mod looking;
mod packing;
#[path = "../common/raw.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod raw;
mod world;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use deeds::Deed;
use pagemove::{migrate::Mode, sync::set_stepping};
use shuttle::{
    Config, Runner,
    scheduler::{PctScheduler, RandomScheduler, ReplayScheduler, Scheduler},
    thread,
};
use world::{Kind, World};

/// What all histories of a test came to, over all of them.
#[derive(Default)]
struct Sums {
    histories: AtomicU64,
    moved: AtomicU64,
    stayed: AtomicU64,
}

fn number(name: &str, otherwise: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {text:?}")),
        Err(_) => otherwise,
    }
}

fn runner(scheduler: impl Scheduler + Send + 'static) -> Runner<impl Scheduler> {
    let mut config = Config::new();
    config.stack_size = 1 << 18;
    config.silence_warnings = true;
    Runner::new(scheduler, config)
}

/// Runs `history` under both schedulers, `times` as often as is asked for, or just the one that is to be replayed. Gives
/// whether all of it was explored.
fn explore(case: &str, times: usize, history: impl Fn() + Send + Sync + Clone + 'static) -> bool {
    if let Ok(schedule) = std::env::var("PAGEMOVE_REPLAY") {
        if std::env::var("PAGEMOVE_CASE").is_ok_and(|wanted| wanted == case) {
            runner(ReplayScheduler::new_from_encoded(&schedule)).run(history);
            println!("{case}: replayed, and nothing failed");
        }
        return false;
    }
    let (histories, seed) = (number("PAGEMOVE_SCHEDULES", 20) as usize * times, number("PAGEMOVE_SEED", 1));
    let said = Failed(case);
    runner(RandomScheduler::new_from_seed(seed, histories)).run(history.clone());
    runner(PctScheduler::new_from_seed(seed, 4, histories)).run(history);
    std::mem::forget(said);
    true
}

/// Says which case it was, when one fails.
struct Failed<'a>(&'a str);

impl Drop for Failed<'_> {
    fn drop(&mut self) {
        eprintln!("\nfailed with PAGEMOVE_CASE={:?}; its schedule is printed above\n", self.0);
    }
}

/// One history: all `deeds` at once on the same pages, a migrator first among them.
fn history(kind: Kind, mode: Mode, deeds: &[Deed], sums: &Sums) {
    set_stepping(false);
    let shared = Arc::new(World::new(kind));
    set_stepping(true);
    let migrator = {
        let world = shared.clone();
        thread::spawn(move || deeds::migrate(&world, mode))
    };
    let others: Vec<_> = deeds
        .iter()
        .enumerate()
        .map(|(number, &deed)| {
            let world = shared.clone();
            thread::spawn(move || deed.act(&world, number + 1))
        })
        .collect();
    let (moved, stayed) = migrator.join().expect("the migrator panicked");
    let ends: Vec<_> = others.into_iter().map(|thread| thread.join().expect("a deed panicked")).collect();
    set_stepping(false);
    let world = Arc::into_inner(shared).expect("all threads have ended");
    world.check(&ends);
    world.end();
    sums.histories.fetch_add(1, Ordering::Relaxed);
    sums.moved.fetch_add(moved, Ordering::Relaxed);
    sums.stayed.fetch_add(stayed, Ordering::Relaxed);
}

/// Explores one deed against a migrator, for each kind of page that it can be done to, and each mode. In each of them
/// something must have moved, or nothing was tried.
fn against_a_migrator(deed: Deed) {
    for kind in Kind::ALL.into_iter().filter(|&kind| deed.fits(kind)) {
        for mode in [Mode::Async, Mode::SyncLight, Mode::Sync] {
            explore_deeds(&format!("{deed:?}, {kind:?}, {mode:?}"), kind, mode, vec![deed]);
        }
    }
}

fn explore_deeds(case: &str, kind: Kind, mode: Mode, deeds: Vec<Deed>) {
    let sums = Arc::new(Sums::default());
    let of_all = sums.clone();
    if explore(case, 1, move || history(kind, mode, &deeds, &of_all)) {
        let read = |sum: &AtomicU64| sum.load(Ordering::Relaxed);
        let (histories, moved, stayed) = (read(&sums.histories), read(&sums.moved), read(&sums.stayed));
        println!("{case}: {histories} histories, {moved} moved, {stayed} stayed");
        assert!(moved > 0, "{case}: nothing moved in any history, so nothing was tried");
    }
}

macro_rules! pairs {
    ($($name:ident: $deed:ident,)*) => {
        $(
            #[test]
            fn $name() {
                against_a_migrator(Deed::$deed);
            }
        )*

        /// All that have a test above.
        const DEEDS: &[Deed] = &[$(Deed::$deed),*];
    };
}

pairs! {
    load: Load,
    store: Store,
    unmap: Unmap,
    remap: Remap,
    fork: Fork,
    protect: Protect,
    pin: Pin,
    free_by_the_owner: Free,
    truncate: Truncate,
    second_migrator: Migrate,
    compaction: Compact,
    exit: Exit,
    clear_soft_dirty: ClearSoftDirty,
    unregister: Unregister,
    access_by_the_driver: Device,
    access_by_a_device: Accelerate,
    split_of_a_folio: Split,
    moves_of_page_tables: Tables,
}

#[test]
fn every_deed_has_its_pair() {
    assert_eq!(DEEDS, Deed::ALL);
}

/// Three at once: a migrator and two deeds, of all pairs of deeds, in both orders of starting.
#[test]
fn two_deeds_and_a_migrator() {
    for kind in Kind::ALL {
        for &first in Deed::ALL.iter().filter(|deed| deed.fits(kind)) {
            for &second in Deed::ALL.iter().filter(|deed| deed.fits(kind) && first.goes_with(**deed)) {
                explore_deeds(&format!("{first:?} and {second:?}, {kind:?}"), kind, Mode::Sync, vec![first, second]);
            }
        }
    }
}
