//! Bugs that others had in the moving of pages, each as a test of this engine. Some stand where their scene is: `docs/cases.md`
//! names all.
mod common;

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
};

use common::*;
use pagemove::{
    folio::FrozenFolio,
    frame::Kind,
    migrate::{AnyFree, Batch, Destination, Mode, Mover, Options},
    movable::{MigrationRun, MovableOps, PageIndex, PutbackRun, Refusal},
    report::Reason,
    units::{Order, Pfn},
};
use pagemove_drivers::Balloon;

/// Linux asked a page's owner by a field that other kinds of pages use for something else: anonymous memory's reverse map
/// was taken for a driver's operations. Here a number says which owner, another one which map, and both count from 1.
#[test]
fn past_bug_an_anonymous_page_that_looks_like_a_drivers() {
    on_both(2, |lab| {
        let process = lab.process();
        let at = anonymous(&process, 1);
        process.store(at.start(), 6).unwrap();
        let frame = |pfn| lab.engine.physical().frame(pfn);
        let key = frame(pfn_at(&process, at.start())).key();
        let devices: Vec<Arc<Device>> = (0..32).map(|_| Device::open(lab)).collect();
        let alike =
            devices.iter().find(|device| device.registration.number() == key.rmap).expect("a driver of that number");
        alike.fill(key.index, 7);
        for mode in MODES {
            lab.migrate(pfn_at(&process, at.start()), mode).unwrap();
        }
        assert!(devices.iter().all(|device| device.driver.take_calls().is_empty()));
        assert_eq!((process.load(at.start()).unwrap(), frame(alike.peek(key.index)).maps()), (6, 0));
    });
}

/// A slab's callback looked like a movable page's operations. Here what a frame was before says nothing.
#[test]
fn past_bug_a_slab_that_looks_movable() {
    on_both(1, |lab| {
        let device = Device::open(lab);
        let physical = lab.engine.physical();
        for kind in [Kind::Slab, Kind::Kernel, Kind::PageTable, Kind::Driver, Kind::File] {
            let pfn = device.fill(3, 1);
            lab.migrate(pfn, Mode::Sync).unwrap();
            let pfn = device.peek(3);
            assert!(device.driver.index.remove(3));
            let folio = physical.alloc_exactly(pfn, kind).unwrap().publish();
            device.driver.take_calls();
            let reason = if kind.is_movable() { Reason::OwnerGone } else { Reason::Unmovable };
            for mode in MODES {
                assert_eq!(lab.migrate(pfn, mode), Err(reason), "{kind:?}");
            }
            assert!(device.driver.take_calls().is_empty(), "{kind:?}");
            drop(folio);
        }
    });
}

/// Linux's balloon took pages off its list when they were isolated, and then found the list empty when it was to give some
/// back. Whoever deflates waits for the moves.
#[test]
fn past_bug_a_balloon_that_deflates_while_its_pages_are_isolated() {
    for tlb in BOTH {
        for stage in [Stage::Isolate, Stage::Copy, Stage::Migrate] {
            let (lab, hooked) = Hooked::lab(tlb, 1);
            {
                let balloon = Arc::new(Balloon::new(&lab.engine));
                balloon.inflate(3).unwrap();
                let is_ballooned = |&pfn: &Pfn| lab.engine.physical().frame(pfn).state().kind() == Kind::Driver;
                let mut pages: Vec<Pfn> = range(0, 512).iter().filter(is_ballooned).collect();
                assert_eq!(pages.len(), 3);
                // Last in the batch: when it is asked, the balloon's pages are isolated, and later frozen.
                let last = Device::open(&lab);
                pages.push(last.fill(0, 1));
                let (send, receive) = mpsc::channel();
                let (deflated, machine) = (balloon.clone(), hooked.clone());
                last.driver.during_next(stage, move || {
                    let waits = machine.waits();
                    let deflating = std::thread::spawn(move || deflated.deflate(100));
                    while machine.waits() == waits {
                        assert!(!deflating.is_finished(), "the balloon found no page of its own");
                        std::thread::yield_now();
                    }
                    send.send(deflating).unwrap();
                });
                lab.migrate_all(&pages, Options::new(Mode::SyncLight));
                assert_eq!(receive.recv().unwrap().join().unwrap(), 3, "{stage:?}");
                assert_eq!((balloon.pages(), lab.count_kind(Kind::Driver)), (0, 1));
            }
            lab.assert_all_free(512);
        }
    }
}

/// A destination that has `left` frames, and knows which it gave.
struct Few<'p> {
    free: AnyFree<'p>,
    left: usize,
    given: BTreeSet<Pfn>,
}

impl<'p> Destination<'p> for Few<'p> {
    fn take(&mut self, order: Order, below: Option<Pfn>) -> Option<FrozenFolio<'p>> {
        self.left = self.left.checked_sub(1)?;
        let folio = self.free.take(order, below)?;
        assert!(self.given.insert(folio.pfn()), "{folio:?} was given twice");
        Some(folio)
    }

    fn give_back(&mut self, folio: FrozenFolio<'p>) {
        assert!(self.given.remove(&folio.pfn()), "{folio:?} was not given, or came back twice");
        self.left += 1;
        self.free.give_back(folio);
    }
}

/// Xen's exchange of pages, when it failed half-way through a list, gave back what it had used, or kept what it had not (two
/// CVEs). Here the destinations end, and a driver refuses, at any place of the list.
#[test]
fn past_bug_an_exchange_that_fails_half_way() {
    for (frames, batch, mode) in (0..=8).flat_map(|frames| {
        [1, 3, 512].map(Batch::Folios).into_iter().zip(MODES).map(move |(batch, mode)| (frames, batch, mode))
    }) {
        on_both(1, |lab| {
            let what = format!("{frames} frames, {batch:?}, {mode:?}");
            let process = lab.process();
            let device = Device::open(lab);
            let (own, of_device) = (anonymous(&process, 4), shared(&process, device.clone(), 4, RW));
            let addresses: Vec<_> = own.iter().zip(of_device.iter()).flat_map(|(one, two)| [one, two]).collect();
            addresses.iter().for_each(|&page| process.store(page, page.get()).unwrap());
            let before: Vec<Pfn> = addresses.iter().map(|&page| pfn_at(&process, page)).collect();
            let free = lab.free_frames();
            device.driver.refuse(Stage::Migrate, Refusal::No);
            let given = {
                let free = AnyFree::new(lab.engine.physical(), 3);
                let mut few = Few { free, left: frames, given: BTreeSet::new() };
                let outcome =
                    Mover::new(&lab.engine).migrate(&before, &mut few, Options { batch, ..Options::new(mode) });
                assert_eq!(few.given.len() as u64, outcome.moved, "{what}");
                assert_eq!(outcome.moved + outcome.stayed.len() as u64, 8, "{what}");
                few.given
            };
            let mut now = BTreeSet::new();
            for (&page, &before) in addresses.iter().zip(&before) {
                let pfn = pfn_at(&process, page);
                assert!(now.insert(pfn), "{what}: {pfn} is two pages");
                assert_eq!(given.contains(&pfn), pfn != before, "{what}");
                assert_eq!(process.load(page).unwrap(), page.get(), "{what}");
            }
            assert!(given.is_subset(&now), "{what}: a frame was used for nothing");
            assert_eq!(lab.free_frames(), free, "{what}");
            lab.validate();
        });
    }
}

/// Operations went away while pages were isolated, and were called afterwards. Who unregisters waits.
#[test]
fn past_bug_operations_unregistered_while_a_page_is_isolated() {
    on_both(1, |lab| {
        for stage in Stage::ALL {
            let device = Device::open(lab);
            let moving = device.fill(0, 1);
            device.fill(1, 1);
            let (over, was_early) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(true)));
            let (begun, wait_begun) = mpsc::channel();
            device.driver.during_next(stage, {
                let (over, early) = (over.clone(), was_early.clone());
                let (engine, index) = (lab.engine.clone(), device.driver.index.clone());
                move || {
                    begun.send(()).unwrap();
                    // Until the other thread has begun to unregister: from then on no page is isolated any more.
                    loop {
                        let other = index.peek(1).unwrap();
                        let mut to = AnyFree::new(engine.physical(), 1);
                        let outcome = Mover::new(&engine).migrate(&[other], &mut to, Options::new(Mode::Async));
                        if outcome.stayed == [(other, Reason::OwnerGone)] {
                            break;
                        }
                        std::thread::yield_now();
                    }
                    early.store(over.load(Ordering::SeqCst), Ordering::SeqCst);
                }
            });
            std::thread::scope(|scope| {
                let (device, over) = (&device, &over);
                scope.spawn(move || {
                    wait_begun.recv().unwrap();
                    device.registration.unregister();
                    over.store(true, Ordering::SeqCst);
                });
                lab.migrate(moving, Mode::Sync).unwrap();
            });
            assert!(!was_early.load(Ordering::SeqCst), "unregister returned while a callback ran");
            assert_eq!(lab.migrate(device.peek(0), Mode::Sync), Err(Reason::OwnerGone));
        }
    });
}

/// Movers at full speed while drivers come and go; none may be called after its registration has ended.
#[test]
fn past_bug_operations_called_after_they_were_unregistered() {
    struct Mortal {
        index: Arc<PageIndex>,
        alive: AtomicBool,
    }
    impl MovableOps for Mortal {
        fn name(&self) -> &str {
            "mortal"
        }
        fn migrate(&self, run: &mut MigrationRun<'_>) {
            assert!(self.alive.load(Ordering::SeqCst));
            self.index.repoint(run);
        }
        fn putback(&self, _: &PutbackRun<'_>) {
            assert!(self.alive.load(Ordering::SeqCst));
        }
    }
    // More memory than the mover sets aside, or allocations would find none.
    let lab = Lab::new(BOTH[0], 4);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let mover = scope.spawn(|| {
            let all: Vec<Pfn> = range(0, 512).iter().collect();
            while !over.load(Ordering::Relaxed) {
                lab.migrate_all(&all, Options::new(Mode::Async));
            }
        });
        let end = SetAtEnd(&over);
        for _ in 0..300 {
            let index = lab.engine.new_index(Kind::Driver, "mortal");
            let mortal = Arc::new(Mortal { index: index.clone(), alive: AtomicBool::new(true) });
            let registration = lab.engine.owners().register(mortal.clone());
            index.set_owner(&registration);
            (0..8).for_each(|page| drop(index.lock_or_insert(page).unwrap()));
            std::thread::yield_now();
            registration.unregister();
            mortal.alive.store(false, Ordering::SeqCst);
        }
        drop(end);
        mover.join().unwrap();
    });
    lab.assert_all_free(2048);
}
