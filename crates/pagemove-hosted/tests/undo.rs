//! Moves that fail, at each step and for each reason: all is as before, and the reason is told.
mod common;

use common::*;
use pagemove::{
    folio::{FolioRef, FrozenFolio, Writeback},
    frame::{Kind, Marks},
    migrate::{Destination, Mode, Mover, Options},
    movable::{MigrationRun, MovableOps, Refusal},
    report::Reason,
    units::{Order, Pfn, VirtRange},
};
use pagemove_hosted::{Process, TlbKind};
use std::{
    sync::{Arc, Mutex, mpsc::channel},
    time::Duration,
};

/// A device page that three processes map, one of them for loads only, and anonymous memory that two of them share.
struct Scene {
    device: Arc<Device>,
    processes: Vec<Process>,
    at: VirtRange,
    own: VirtRange,
}

impl Scene {
    fn new(lab: &Lab) -> Self {
        let device = Device::open(lab);
        let one = lab.process();
        let at = shared(&one, device.clone(), 4, RW);
        let own = anonymous(&one, 4);
        at.iter().chain(own.iter()).for_each(|page| one.store(page, page.get()).unwrap());
        let two = one.fork().unwrap();
        two.load(at.start()).unwrap();
        let three = lab.process();
        let seen = shared(&three, device.clone(), 4, pagemove::space::Protection::READ);
        seen.iter().for_each(|page| assert!(three.load(page).unwrap() > 0));
        Self { device, processes: vec![one, two, three], at, own }
    }

    fn device_pages(&self) -> Vec<Pfn> {
        (0..4).map(|page| self.device.peek(page)).collect()
    }

    fn own_pages(&self) -> Vec<Pfn> {
        self.own.iter().map(|page| pfn_at(&self.processes[0], page)).collect()
    }

    /// All pages, those of the two kinds alternating.
    fn pages(&self) -> Vec<Pfn> {
        self.device_pages().into_iter().zip(self.own_pages()).flat_map(|(one, two)| [one, two]).collect()
    }

    /// Tries in every mode and batch size, and checks that the pages of `stay` did for `reason`, and nothing else changed.
    fn assert_stays(&self, lab: &Lab, stay: &[Pfn], reason: Reason, modes: &[Mode]) {
        for &mode in modes {
            for batch in BATCHES {
                let before = Snapshot::of(lab, &self.processes);
                let outcome = lab.migrate_all(stay, Options { batch, ..Options::new(mode) });
                let expected: Vec<_> = stay.iter().map(|&pfn| (pfn, reason)).collect();
                let mut stayed = outcome.stayed;
                stayed.sort_by_key(|(pfn, _)| stay.iter().position(|one| one == pfn));
                assert_eq!((outcome.moved, stayed), (0, expected), "{mode:?}, {batch:?}");
                assert_eq!(Snapshot::of(lab, &self.processes), before, "{mode:?}, {batch:?}");
                lab.validate();
            }
        }
    }

    fn assert_usable(&self) {
        for page in self.at.iter().chain(self.own.iter()) {
            assert_eq!(self.processes[1].load(page).unwrap(), page.get());
            self.processes[0].store(page, page.get()).unwrap();
        }
    }

    fn assert_moves(&self, lab: &Lab, pages: &[Pfn]) {
        let outcome = lab.migrate_all(pages, Options::new(Mode::Sync));
        assert_eq!((outcome.moved, outcome.stayed), (pages.len() as u64, vec![]));
        self.assert_usable();
    }
}

#[test]
fn a_driver_that_refuses_at_any_of_its_steps() {
    on_both(2, |lab| {
        let scene = Scene::new(lab);
        let pages = scene.device_pages();
        for stage in [Stage::Isolate, Stage::Copy, Stage::Migrate] {
            for (refusal, reason) in [(Refusal::No, Reason::Refused), (Refusal::Retry, Reason::Retry)] {
                scene.device.driver.refuse(stage, refusal);
                scene.assert_stays(lab, &pages, reason, &MODES);
                scene.assert_usable();
            }
        }
        scene.device.driver.refuse_nothing();
        scene.assert_moves(lab, &pages);
    });
}

/// One page of a batch that stays does not hold back the others.
#[test]
fn others_of_the_batch_move() {
    on_both(2, |lab| {
        let scene = Scene::new(lab);
        scene.device.driver.refuse(Stage::Migrate, Refusal::No);
        let (stay, go) = (scene.device_pages(), scene.own_pages());
        let outcome = lab.migrate_all(&scene.pages(), Options::new(Mode::Async));
        assert_eq!(outcome.moved, 4);
        assert_eq!(outcome.stayed, stay.iter().map(|&pfn| (pfn, Reason::Refused)).collect::<Vec<_>>());
        assert_eq!(scene.device_pages(), stay);
        assert!(scene.own_pages().iter().all(|pfn| !go.contains(pfn)));
        scene.assert_usable();
        lab.validate();
    });
}

#[test]
fn a_transient_refusal_is_tried_again() {
    on_both(2, |lab| {
        let scene = Scene::new(lab);
        for (stage, mode) in [(Stage::Isolate, Mode::Async), (Stage::Migrate, Mode::Sync)] {
            scene.device.driver.refuse(stage, Refusal::Retry);
            let driver = scene.device.driver.clone();
            // From its second try on the driver agrees.
            scene.device.driver.during_next(Stage::Isolate, {
                let driver = driver.clone();
                move || {
                    let again = driver.clone();
                    driver.during_next(Stage::Isolate, move || again.refuse_nothing());
                }
            });
            assert_eq!(lab.migrate(scene.device.peek(0), mode), Ok(()));
        }
        scene.assert_usable();
    });
}

struct Nowhere;

impl<'p> Destination<'p> for Nowhere {
    fn take(&mut self, _: Order, _: Option<Pfn>) -> Option<FrozenFolio<'p>> {
        None
    }

    fn give_back(&mut self, folio: FrozenFolio<'p>) {
        panic!("{folio:?} was never given");
    }
}

#[test]
fn without_a_destination() {
    on_both(2, |lab| {
        let scene = Scene::new(lab);
        let before = Snapshot::of(lab, &scene.processes);
        for mode in MODES {
            let outcome = Mover::new(&lab.engine).migrate(&scene.pages(), &mut Nowhere, Options::new(mode));
            let expected: Vec<_> = scene.pages().iter().map(|&pfn| (pfn, Reason::NoDestination)).collect();
            assert_eq!((outcome.moved, outcome.stayed), (0, expected));
            assert_eq!(Snapshot::of(lab, &scene.processes), before);
        }
        // And when all memory is in use.
        let held = lab.take_all(Kind::Kernel);
        scene.assert_stays(lab, &scene.pages(), Reason::NoDestination, &MODES);
        drop(held);
        scene.assert_moves(lab, &scene.pages());
    });
}

#[test]
fn an_extra_reference() {
    on_both(2, |lab| {
        let scene = Scene::new(lab);
        let pages = scene.pages();
        let held: Vec<FolioRef<'_>> = pages.iter().map(|&pfn| lab.get(pfn)).collect();
        scene.assert_stays(lab, &pages, Reason::Referenced, &MODES);
        drop(held);
        scene.assert_moves(lab, &pages);
    });
}

#[test]
fn a_pin() {
    on_both(2, |lab| {
        let scene = Scene::new(lab);
        let mut pins = scene.processes[0].space().pin(scene.at, true, "nic").unwrap();
        pins.extend(scene.processes[0].space().pin(scene.own, false, "nic").unwrap());
        scene.assert_stays(lab, &scene.pages(), Reason::Pinned, &MODES);
        drop(pins);
        scene.assert_moves(lab, &scene.pages());
    });
}

#[test]
fn writeback_stops_all_but_sync_which_waits_for_it() {
    on_both(2, |lab| {
        let scene = Scene::new(lab);
        let frames = lab.engine.physical().frames();
        let pages = scene.pages();
        let written: Vec<Writeback<'_>> = pages.iter().map(|&pfn| lab.get(pfn).start_writeback()).collect();
        scene.assert_stays(lab, &pages, Reason::Writeback, &[Mode::Async, Mode::SyncLight]);
        let outcome = std::thread::scope(|scope| {
            let mover = scope.spawn(|| lab.migrate_all(&pages, Options::new(Mode::Sync)));
            for writeback in written {
                assert!(!mover.is_finished());
                assert!(frames[writeback.pfn()].state().marks().contains(Marks::WRITEBACK));
                drop(writeback);
            }
            mover.join().unwrap()
        });
        assert_eq!((outcome.moved, outcome.stayed), (8, vec![]));
        scene.assert_usable();
    });
}

#[test]
fn a_lock_stops_async_and_others_wait_for_it() {
    on_both(2, |lab| {
        let scene = Scene::new(lab);
        let pages = scene.pages();
        for pfn in &pages {
            let before = Snapshot::of(lab, &scene.processes);
            let lock = lab.get(*pfn).lock();
            assert_eq!(lab.migrate(*pfn, Mode::Async), Err(Reason::Locked));
            drop(lock);
            assert_eq!(Snapshot::of(lab, &scene.processes), before);
        }
        for mode in [Mode::SyncLight, Mode::Sync] {
            let pages = scene.pages();
            let lock = lab.get(pages[3]).lock();
            let outcome = std::thread::scope(|scope| {
                let mover = scope.spawn(|| lab.migrate_all(&pages, Options::new(mode)));
                // The others have moved when it's this one's turn.
                while scene.device_pages().iter().any(|pfn| pages.contains(pfn)) {
                    std::thread::yield_now();
                }
                assert!(!mover.is_finished());
                drop(lock);
                mover.join().unwrap()
            });
            assert_eq!((outcome.moved, outcome.stayed), (8, vec![]), "{mode:?}");
            scene.assert_usable();
        }
    });
}

/// Half-way through a fork the address space is locked for long; a move needs no such lock.
#[test]
fn moves_go_on_while_a_fork_flushes() {
    let (lab, hooked) = Hooked::lab(TlbKind::Soft, 2);
    let scene = Scene::new(&lab);
    let engine = lab.engine.clone();
    let pages = scene.own_pages();
    let (send, receive) = std::sync::mpsc::channel();
    hooked.before_next_flush(move |_| {
        let physical = engine.physical();
        let mut destination = pagemove::migrate::AnyFree::new(physical, 8);
        let outcome = Mover::new(&engine).migrate(&pages, &mut destination, Options::new(Mode::Async));
        send.send(outcome).unwrap();
    });
    scene.processes[0].store(scene.own.start(), scene.own.start().get()).unwrap();
    let child = scene.processes[0].fork().unwrap();
    assert!(hooked.has_run());
    let outcome = receive.recv().unwrap();
    assert!(outcome.stayed.iter().all(|(_, reason)| reason.is_transient()), "{outcome:?}");
    drop(child);
    scene.assert_usable();
    lab.validate();
}

#[test]
fn pages_whose_owner_has_gone() {
    on_both(2, |lab| {
        let scene = Scene::new(lab);
        let pages = scene.device_pages();
        scene.device.registration.unregister();
        scene.assert_stays(lab, &pages, Reason::OwnerGone, &MODES);
        scene.assert_usable();
        assert!(scene.device.driver.take_calls().is_empty());
        scene.assert_moves(lab, &scene.own_pages());
    });
}

#[test]
fn a_page_taken_out_of_its_index_while_somebody_holds_it() {
    on_both(2, |lab| {
        let device = Device::open(lab);
        let pfn = device.fill(0, 7);
        let held = lab.get(pfn);
        assert!(device.driver.index.remove(0));
        for mode in MODES {
            assert_eq!(lab.migrate(pfn, mode), Err(Reason::OwnerGone));
        }
        assert!(device.driver.take_calls().is_empty());
        lab.validate();
        drop(held);
    });
}

/// A page that its driver has put nowhere (it names no owner) can't move: nobody could be told.
#[test]
fn pages_without_an_owner() {
    struct Silent;
    impl MovableOps for Silent {
        fn name(&self) -> &str {
            "silent"
        }
        fn migrate(&self, _: &mut MigrationRun<'_>) {
            panic!("nobody asked for this page");
        }
    }
    on_both(2, |lab| {
        let _registration = lab.engine.owners().register(Arc::new(Silent));
        let index = lab.engine.new_index(Kind::Driver, "ownerless");
        let pfn = index.lock_or_insert(0).unwrap().pfn();
        for mode in MODES {
            assert!(lab.migrate(pfn, mode).is_err());
        }
        assert_eq!(index.peek(0), Some(pfn));
        lab.validate();
    });
}

/// If what ends the writeback of one page of a batch needs another one of it (here: the driver looks at a neighbour), they
/// must not wait for each other.
#[test]
fn a_batch_that_waits_for_writeback_holds_no_other_page() {
    let lab = Lab::new(TlbKind::Soft, 1);
    let device = Device::open(&lab);
    let (neighbour, written) = (device.fill(0, 1), device.fill(1, 1));
    let writeback = Mutex::new(Some(lab.get(written).start_writeback()));
    let end_writeback = || drop(writeback.lock().unwrap().take());
    // On its way: the first page is isolated, and so locked.
    let (begun, wait_begun) = channel();
    device.driver.during_next(Stage::Isolate, move || begun.send(()).unwrap());
    std::thread::scope(|scope| {
        let moving = scope.spawn(|| lab.migrate_all(&[neighbour, written], Options::new(Mode::Sync)));
        wait_begun.recv().unwrap();
        let (done, wait_done) = channel();
        let (driver, end_writeback) = (&device.driver, &end_writeback);
        let ending = scope.spawn(move || {
            drop(driver.index.lock_page(0));
            let _ = done.send(());
            end_writeback();
        });
        // Long, for a busy machine: it's waited out by a failure only.
        let ended = wait_done.recv_timeout(Duration::from_secs(30)).is_ok();
        // Lets both go on if they wait for each other.
        end_writeback();
        ending.join().unwrap();
        assert_eq!(moving.join().unwrap().moved, 2);
        assert!(ended, "the move and the end of the writeback waited for each other");
    });
}
