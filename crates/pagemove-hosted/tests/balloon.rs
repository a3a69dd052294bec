//! The balloon: its pages move, the host is told of each in order, and has their memory.
//!
//! Varied: sizes (also above a batch), modes, hosts that refuse or sleep, memory full, moves against inflating and deflating. Not varied: orders
//! (a balloon's pages are base folios).
mod common;

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use common::*;
use pagemove::{
    compact::{alloc_compacting, compact_for_allocations},
    frame::Kind,
    migrate::{Mode, Options},
    report::Reason,
    units::Pfn,
    zone::{Effort, Request},
};
use pagemove_drivers::balloon::{BATCH, Balloon, BalloonHost, BalloonPages, HostRefused, InflateError};
use pagemove_hosted::{TlbKind, enter_cpu};
use rand::RngExt;

/// A host that knows which pages it has, and finds it wrong if it's given one twice, or one is taken that it hasn't.
#[derive(Default)]
struct Books {
    pages: Mutex<BTreeSet<Pfn>>,
    refuses: AtomicBool,
    sleeps: bool,
    /// How often it was given some.
    calls: AtomicU64,
}

impl Books {
    fn frames(&self) -> Vec<Pfn> {
        self.pages.lock().unwrap().iter().copied().collect()
    }
}

impl BalloonHost for Books {
    fn inflate(&self, pages: BalloonPages<'_>) -> Result<(), HostRefused> {
        assert!((1..=BATCH).contains(&pages.frames().len()));
        if self.refuses.load(Ordering::Relaxed) {
            return Err(HostRefused);
        }
        self.calls.fetch_add(1, Ordering::Relaxed);
        let mut known = self.pages.lock().unwrap();
        pages.frames().iter().for_each(|&pfn| assert!(known.insert(pfn), "{pfn} was given twice"));
        Ok(())
    }

    fn deflate(&self, pages: BalloonPages<'_>) {
        let mut known = self.pages.lock().unwrap();
        pages.frames().iter().for_each(|pfn| assert!(known.remove(pfn), "{pfn} isn't the host's"));
    }

    fn sleeps(&self) -> bool {
        self.sleeps
    }
}

#[test]
fn the_host_knows_each_page() {
    for pages in [1, BATCH as u32, BATCH as u32 + 1, 1000] {
        let lab = Lab::new(TlbKind::Soft, 8);
        let free = lab.free_frames();
        let host = Arc::new(Books::default());
        let balloon = Balloon::with_host(&lab.engine, host.clone());
        balloon.inflate(pages).unwrap();
        assert_eq!((balloon.pages(), lab.free_frames()), (pages as usize, free - pages));
        for options in MODES.map(Options::new).into_iter().chain([Options::new(Mode::Sync).in_full_batches()]) {
            let sources = lab.frames_of(Kind::Driver);
            assert_eq!(lab.migrate_all(&sources, options).moved, u64::from(pages));
            assert_eq!(host.frames(), lab.frames_of(Kind::Driver), "{options:?}");
        }
        assert_eq!(balloon.moves(), 4 * u64::from(pages));
        assert_eq!(balloon.deflate(pages / 2), pages / 2);
        assert_eq!(host.frames(), lab.frames_of(Kind::Driver));
        drop(balloon);
        assert!(host.pages.lock().unwrap().is_empty());
        lab.assert_all_free(free);
    }
}

#[test]
fn a_host_that_refuses_changes_nothing() {
    let lab = Lab::new(TlbKind::Soft, 8);
    let host = Arc::new(Books::default());
    let balloon = Balloon::with_host(&lab.engine, host.clone());
    balloon.inflate(300).unwrap();
    let (before, free) = (lab.frames_of(Kind::Driver), lab.free_frames());
    host.refuses.store(true, Ordering::Relaxed);
    assert_eq!(balloon.inflate(10), Err(InflateError::Refused(HostRefused)));
    let outcome = lab.move_drivers(Mode::Sync);
    assert_eq!((outcome.moved, outcome.stayed.len()), (0, 300));
    assert!(outcome.stayed.iter().all(|(_, reason)| *reason == Reason::Retry));
    assert_eq!((lab.frames_of(Kind::Driver), lab.free_frames()), (before, free));
    host.refuses.store(false, Ordering::Relaxed);
    assert_eq!(lab.move_drivers(Mode::Sync).moved, 300);
    assert_eq!(balloon.deflate(u32::MAX), 300);
    lab.validate();
}

#[test]
fn async_moves_do_not_sleep_in_the_host() {
    let lab = Lab::new(TlbKind::Soft, 2);
    let host = Arc::new(Books { sleeps: true, ..Books::default() });
    let balloon = Balloon::with_host(&lab.engine, host.clone());
    balloon.inflate(20).unwrap();
    let calls = host.calls.load(Ordering::Relaxed);
    assert_eq!(lab.move_drivers(Mode::Async).stayed.len(), 20);
    assert_eq!(host.calls.load(Ordering::Relaxed), calls);
    assert_eq!(lab.move_drivers(Mode::SyncLight).moved, 20);
}

#[test]
fn too_few_pages_are_all_taken_back() {
    let lab = Lab::new(TlbKind::Soft, 2);
    let free = lab.free_frames();
    let host = Arc::new(Books::default());
    let balloon = Balloon::with_host(&lab.engine, host.clone());
    assert!(matches!(balloon.inflate(free + 1), Err(InflateError::OutOfMemory(_))));
    assert_eq!((balloon.pages(), lab.free_frames()), (0, free));
    balloon.inflate(free).unwrap();
    assert!(lab.process_error().is_some(), "memory is full");
    assert_eq!(balloon.relieve(), 256);
    assert!(lab.process_error().is_none());
    assert!(host.pages.lock().unwrap().len() == free as usize - 256);
    lab.validate();
}

/// Inflating compacts memory, which moves the balloon's own pages.
#[test]
fn inflating_compacts_without_a_deadlock() {
    let lab = Lab::new(TlbKind::Soft, 4);
    compact_for_allocations(&lab.engine, Options::new(Mode::Sync));
    let host = Arc::new(Books::default());
    let balloon = Balloon::with_host(&lab.engine, host.clone()).with_effort(Effort::Compact);
    let free = lab.free_frames();
    balloon.inflate(free - 600).unwrap();
    // Somebody wants 2 MiB pages meanwhile.
    let process = lab.process();
    thread::scope(|scope| {
        scope.spawn(|| {
            enter_cpu(1);
            for _ in 0..20 {
                let at = huge(&process, 512);
                process.store(at.start(), 1).unwrap();
                process.space().munmap(at).unwrap();
            }
        });
        for _ in 0..20 {
            let _ = balloon.inflate(200);
            balloon.deflate(200);
        }
    });
    drop(process);
    assert_eq!(host.frames(), lab.frames_of(Kind::Driver));
    lab.validate();
}

/// The host would lose a page that is in use, which has the same number.
#[test]
fn a_page_that_isnt_the_balloons_kind_is_refused_before_the_host_is_told() {
    let (lab, other) = (Lab::new(TlbKind::Soft, 2), Lab::new(TlbKind::Soft, 2));
    let host = Arc::new(Books::default());
    let balloon = Balloon::with_host(&lab.engine, host.clone());
    let free = lab.free_frames();
    assert!(!balloon.adopt(other.physical().alloc(order(0), Kind::Driver).unwrap()), "another memory's");
    assert!(!balloon.adopt(lab.physical().alloc(order(0), Kind::Kernel).unwrap()), "not a driver's");
    assert!(!balloon.adopt(lab.physical().alloc(order(3), Kind::Driver).unwrap()), "eight pages");
    assert_eq!((balloon.pages(), host.calls.load(Ordering::Relaxed)), (0, 0));
    assert!(balloon.adopt(lab.physical().alloc(order(0), Kind::Driver).unwrap()));
    assert_eq!((balloon.pages(), host.frames()), (1, lab.frames_of(Kind::Driver)));
    drop(balloon);
    lab.assert_all_free(free);
    other.validate();
}

/// A host that needs memory while pages are taken back from it, and compacts for it.
struct Needy {
    engine: Mutex<Option<Arc<pagemove::Engine>>>,
    had: AtomicBool,
}

impl BalloonHost for Needy {
    fn inflate(&self, _: BalloonPages<'_>) -> Result<(), HostRefused> {
        Ok(())
    }

    fn deflate(&self, _: BalloonPages<'_>) {
        let Some(engine) = self.engine.lock().unwrap().take() else { return };
        let request = Request::new(order(9), Kind::Kernel);
        self.had.store(alloc_compacting(&engine, &request, Options::new(Mode::Sync)).is_ok(), Ordering::Relaxed);
    }
}

#[test]
fn a_host_may_compact_while_pages_are_taken_back() {
    let lab = Lab::new(TlbKind::Soft, 4);
    let host = Arc::new(Needy { engine: Mutex::new(Some(lab.engine.clone())), had: AtomicBool::new(false) });
    let balloon = Balloon::with_host(&lab.engine, host.clone());
    // In all blocks, each of which the host's allocation could want.
    for block in 0..4 {
        for at in [3, 77, 200, 201, 400] {
            let page = lab.physical().alloc_exactly(lab.frame_in(block, at), Kind::Driver).unwrap();
            assert!(balloon.adopt(page));
        }
    }
    assert_eq!(balloon.deflate(10), 10);
    assert!(host.had.load(Ordering::Relaxed), "a block could be emptied");
    assert_eq!(balloon.pages(), 10);
    balloon.deflate(u32::MAX);
    lab.validate();
}

/// What lies side by side is told at once.
#[test]
fn neighbours_are_one_range() {
    struct Ranges(AtomicU64);
    impl BalloonHost for Ranges {
        fn inflate(&self, pages: BalloonPages<'_>) -> Result<(), HostRefused> {
            self.0.fetch_add(pages.ranges().count() as u64, Ordering::Relaxed);
            Ok(())
        }

        fn deflate(&self, pages: BalloonPages<'_>) {
            self.0.fetch_add(pages.ranges().count() as u64, Ordering::Relaxed);
        }

        fn report(&self, pages: BalloonPages<'_>) -> Result<(), HostRefused> {
            self.inflate(pages)
        }
    }
    let lab = Lab::new(TlbKind::Soft, 128);
    let host = Arc::new(Ranges(AtomicU64::new(0)));
    let balloon = Balloon::with_host(&lab.engine, host.clone());
    // 32 batches; a range may be cut where the CPU's list is filled again.
    balloon.inflate(2048).unwrap();
    assert!(host.0.swap(0, Ordering::Relaxed) <= 64 + 32);
    balloon.deflate(u32::MAX);
    assert!(host.0.swap(0, Ordering::Relaxed) <= 64 + 32);
    lab.physical().drain_cpu_lists();
    balloon.report_free(order(9)).unwrap();
    let ranges = host.0.load(Ordering::Relaxed);
    assert!(ranges <= 32, "{ranges} ranges for 64 blocks of order 10, at most four at once");
}

#[test]
fn a_storm() {
    let seed = new_seed();
    let lab = Lab::new(TlbKind::Soft, 4);
    let free = lab.free_frames();
    let host = Arc::new(Books::default());
    let balloon = Balloon::with_host(&lab.engine, host.clone());
    let (moved, over) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let users = [0, 1].map(|user| {
            let (balloon, moved) = (&balloon, &moved);
            scope.spawn(move || {
                enter_cpu(user);
                let mut rng = rng(seed ^ user as u64);
                for turn in 0.. {
                    if turn >= 300 && moved.load(Ordering::Relaxed) > 0 {
                        break;
                    }
                    if rng.random() {
                        let _ = balloon.inflate(rng.random_range(1..300));
                    } else {
                        balloon.deflate(rng.random_range(1..300));
                    }
                }
            })
        });
        for (mover, mode) in [Mode::Async, Mode::SyncLight].into_iter().enumerate() {
            let (lab, moved, over) = (&lab, &moved, &over);
            scope.spawn(move || {
                enter_cpu(2 + mover);
                while !over.load(Ordering::Relaxed) {
                    moved.fetch_add(lab.move_drivers(mode).moved, Ordering::Relaxed);
                }
            });
        }
        let results = users.map(thread::ScopedJoinHandle::join);
        over.store(true, Ordering::Relaxed);
        results.into_iter().for_each(|result| result.unwrap());
    });
    assert_eq!(host.frames(), lab.frames_of(Kind::Driver));
    assert_eq!(balloon.pages(), lab.frames_of(Kind::Driver).len());
    drop(balloon);
    lab.assert_all_free(free);
}
