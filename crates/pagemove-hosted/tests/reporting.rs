//! Free-page reporting: the host gets each free block once, and never one that is in use.
//!
//! Varied: orders that are reported, pageblock orders, zones, hosts that refuse, allocations and frees between and meanwhile, isolated blocks
//! (compaction beside). Not varied: interleavings at each step; the TLB.
mod common;

use std::{
    collections::{HashSet, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use common::*;
use pagemove::{
    compact::{Goal, compact},
    folio::FrozenFolio,
    frame::Kind,
    migrate::{Mode, Options},
    units::{MAX_ORDER, Order, Pfn},
    zone,
};
use pagemove_drivers::balloon::{BATCH, Balloon, BalloonHost, BalloonPages, HostRefused};
use pagemove_hosted::{TlbKind, enter_cpu};
use rand::RngExt;

/// A host that keeps in mind which frames it has.
#[derive(Default)]
struct Host {
    frames: Mutex<HashSet<Pfn>>,
    reports: AtomicU64,
    /// Refuses from this report on, if not 0.
    refuses_from: AtomicU64,
}

impl BalloonHost for Host {
    fn inflate(&self, _: BalloonPages<'_>) -> Result<(), HostRefused> {
        Err(HostRefused)
    }

    fn deflate(&self, _: BalloonPages<'_>) {}

    fn report(&self, pages: BalloonPages<'_>) -> Result<(), HostRefused> {
        let report = self.reports.fetch_add(1, Ordering::Relaxed) + 1;
        let refuses_from = self.refuses_from.load(Ordering::Relaxed);
        if refuses_from > 0 && report >= refuses_from {
            return Err(HostRefused);
        }
        assert!((1..=BATCH).contains(&pages.frames().len()));
        for &block in pages.frames() {
            assert!(block.is_aligned(pages.order()));
            assert_eq!(pages.physical().frame(block).state().order(), pages.order());
        }
        let frames: Vec<Pfn> = pages.ranges().flat_map(|range| range.iter().collect::<Vec<_>>()).collect();
        assert_eq!(frames.len(), pages.frames().len() * pages.order().frames() as usize);
        self.frames.lock().unwrap().extend(frames);
        Ok(())
    }
}

/// Checks that the engine and the host agree: reported blocks are the host's, and no block of `order` or more is left, if all are reported.
fn check(lab: &Lab, host: &Host, all_of: Option<Order>) {
    let physical = lab.physical();
    let known = host.frames.lock().unwrap();
    let mut reported = 0;
    for head in lab.frames_of(Kind::Free) {
        let state = physical.frame(head).state();
        if state.is_free_head() && state.is_reported() {
            reported += state.order().frames();
            assert!((0..state.order().frames()).all(|at| known.contains(&head.up(at))), "{head} isn't the host's");
        } else if state.is_free_head() {
            assert!(all_of.is_none_or(|order| state.order() < order), "{head} is left: {state:?}");
        }
    }
    assert_eq!(physical.reported_frames(), reported);
}

/// The host is asked for memory by its use.
fn used(host: &Host, folio: &FrozenFolio<'_>) {
    let mut known = host.frames.lock().unwrap();
    for at in 0..folio.order().frames() {
        known.remove(&folio.pfn().up(at));
    }
}

#[test]
fn random_histories_report_each_free_block_once() {
    for seed in 0..12 {
        let mut rng = rng(seed);
        let pageblock = [9, 4, 10][seed as usize % 3];
        let mut config = one_zone(16 * 512, pageblock);
        if seed % 2 == 1 {
            config = zone::Config::new(vec![range(0, 4096), range(4096, 4096)], order(pageblock));
        }
        let lab = Lab::boot(hosted(TlbKind::Soft, 16 * 512, 4), &config);
        let free = lab.free_frames();
        let host = Arc::new(Host::default());
        let balloon = Balloon::with_host(&lab.engine, host.clone());
        let mut folios = Vec::new();
        for _ in 0..200 {
            match rng.random_range(0..10) {
                0..4 => {
                    let order = order(rng.random_range(0..=10) * rng.random_range(0..=1));
                    let kind = [Kind::Driver, Kind::Kernel, Kind::Slab][rng.random_range(0..3)];
                    if let Ok(folio) = lab.physical().alloc(order, kind) {
                        used(&host, &folio);
                        folios.push(folio.publish());
                    }
                }
                4..8 if !folios.is_empty() => drop(folios.swap_remove(rng.random_range(0..folios.len()))),
                8 => lab.physical().drain_cpu_lists(),
                _ => {
                    let order = order(rng.random_range(0..=MAX_ORDER.get()));
                    check(&lab, &host, None);
                    lab.validate();
                    let before = lab.physical().reported_frames();
                    let reported = balloon.report_free(order).unwrap();
                    assert_eq!(u64::from(lab.physical().reported_frames() - before), reported, "seed {seed}");
                    check(&lab, &host, Some(order));
                    lab.validate();
                    assert_eq!(balloon.report_free(order), Ok(0), "seed {seed}");
                }
            }
        }
        drop(folios);
        lab.assert_all_free(free);
        balloon.report_free(Order::ZERO).unwrap();
        assert_eq!(lab.physical().reported_frames(), free, "seed {seed}");
        drop(balloon);
        lab.assert_all_free(free);
    }
}

/// Memory that the host has is used last, and a part of it leaves the rest reported.
#[test]
fn what_the_host_has_is_allocated_last() {
    let lab = Lab::new(TlbKind::Soft, 16);
    let host = Arc::new(Host::default());
    let balloon = Balloon::with_host(&lab.engine, host);
    let physical = lab.physical();
    let mut kept: Vec<_> = (0..8).map(|_| physical.alloc(order(9), Kind::Driver).unwrap()).collect();
    let free = physical.free_frames();
    assert_eq!(balloon.report_free(order(9)), Ok(free.into()));
    // Others', not reported, are used first.
    kept.truncate(7);
    for _ in 0..3 {
        drop(physical.alloc(order(9), Kind::Driver).unwrap());
        assert_eq!(physical.reported_frames(), free);
    }
    kept.push(physical.alloc(order(9), Kind::Driver).unwrap());
    kept.push(physical.alloc(order(3), Kind::Driver).unwrap());
    assert_eq!(physical.reported_frames(), free - 8);
    // One in the middle: what is below and above it stays reported.
    kept.push(physical.alloc_exactly(kept[8].pfn().up(300), Kind::Driver).unwrap());
    assert_eq!(physical.reported_frames(), free - 9);
    // What merges with one that isn't reported is to be reported again: the block of order 10 of which a part was used.
    kept.clear();
    physical.drain_cpu_lists();
    lab.validate();
    assert_eq!(physical.reported_frames(), free - 1024);
    let unreported = physical.free_frames() - physical.reported_frames();
    assert_eq!(balloon.report_free(order(10)), Ok(unreported.into()));
}

#[test]
fn a_host_that_refuses_changes_nothing() {
    for refuses_from in 1..4 {
        let lab = Lab::new(TlbKind::Soft, 64);
        let free = lab.free_frames();
        let host = Arc::new(Host::default());
        host.refuses_from.store(refuses_from, Ordering::Relaxed);
        let balloon = Balloon::with_host(&lab.engine, host.clone());
        assert_eq!(balloon.report_free(order(9)), Err(HostRefused));
        let known = host.frames.lock().unwrap().len();
        assert_eq!((lab.physical().reported_frames() as usize, lab.free_frames()), (known, free));
        lab.validate();
        // Later it takes the rest.
        host.refuses_from.store(0, Ordering::Relaxed);
        assert_eq!(balloon.report_free(order(9)), Ok(u64::from(free) - known as u64));
        check(&lab, &host, Some(order(9)));
        lab.assert_all_free(free);
    }
}

/// A host without reporting, and one that is told nothing, say so.
#[test]
fn a_host_may_not_know_reporting() {
    let lab = Lab::new(TlbKind::Soft, 2);
    let balloon = Balloon::new(&lab.engine);
    assert_eq!(balloon.report_free(order(9)), Err(HostRefused));
    assert_eq!(lab.physical().reported_frames(), 0);
    lab.validate();
}

/// The host takes the memory away for real, while threads allocate, store, check and free, and memory is compacted.
#[test]
fn no_word_in_use_is_lost() {
    const REPORTS: u32 = 60;
    let seed = new_seed();
    let lab = Lab::new(TlbKind::Soft, 24);
    let free = lab.free_frames();
    let balloon = Balloon::with_host(&lab.engine, lab.machine.clone());
    let zone = lab.physical().zones().next().unwrap();
    let mut reported = 0;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let end = SetAtEnd(&done);
        for user in 0..2 {
            let (lab, done) = (&lab, &done);
            scope.spawn(move || use_frames(lab, user, seed, done));
        }
        scope.spawn(|| use_pages(&lab, 2, &done));
        enter_cpu(3);
        for _ in 0..REPORTS {
            reported += balloon.report_free(order(9)).unwrap() + balloon.report_free(order(4)).unwrap();
            compact(&lab.engine, zone, Goal::Blocks(2), Options::new(Mode::SyncLight));
        }
        drop(end);
    });
    assert!(reported >= u64::from(free / 2), "{reported} frames were reported");
    drop(balloon);
    lab.assert_all_free(free);
}

/// Allocates, stores, checks and frees folios of all orders.
fn use_frames(lab: &Lab, user: usize, seed: u64, done: &AtomicBool) {
    enter_cpu(user);
    let mut rng = rng(seed ^ user as u64);
    let mut folios: VecDeque<(FrozenFolio<'_>, u64)> = VecDeque::new();
    let mut name = 0;
    let words = |folio: &FrozenFolio<'_>| [(0, 0), (folio.order().frames() - 1, 511)];
    while !done.load(Ordering::Relaxed) || name < 500 {
        name += 1;
        let order = order(rng.random_range(0..=9) * rng.random_range(0..=1));
        if let Ok(folio) = lab.physical().alloc(order, Kind::Kernel) {
            words(&folio).iter().for_each(|&(frame, word)| folio.words(frame)[word].store(name, Ordering::Relaxed));
            folios.push_back((folio, name));
        }
        if folios.len() > 12 {
            let (folio, name) = folios.pop_front().unwrap();
            for (frame, word) in words(&folio) {
                assert_eq!(folio.words(frame)[word].load(Ordering::Relaxed), name, "{} is lost", folio.pfn());
            }
        }
    }
}

/// A process whose pages move.
fn use_pages(lab: &Lab, user: usize, done: &AtomicBool) {
    enter_cpu(user);
    let process = lab.process();
    let mut turn = 0;
    while !done.load(Ordering::Relaxed) || turn < 20 {
        let at = anonymous(&process, 300);
        turn += 1;
        if at.iter().all(|page| process.store(page, page.vpn() + turn).is_ok()) {
            at.iter().for_each(|page| assert_eq!(process.load(page), Ok(page.vpn() + turn)));
        }
        process.space().munmap(at).unwrap();
    }
}
