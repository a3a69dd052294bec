//! A driver's callbacks: which, in which order, how often, under which guarantees; and the end of its registration.
mod common;

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
    mpsc,
};

use common::*;
use pagemove::{
    frame::Kind,
    migrate::{Mode, Options},
    movable::{IsolationRun, MigrationRun, MovableOps, MovingFolio, PageIndex, PutbackRun, Refusal, StillMoving},
    report::Reason,
    units::Pfn,
};

#[test]
fn each_callback_comes_once_and_in_order() {
    on_both(1, |lab| {
        let device = Device::open(lab);
        let process = lab.process();
        let at = shared(&process, device.clone(), 4, RW);
        at.iter().for_each(|page| process.store(page, 1).unwrap());
        for mode in [Mode::Async, Mode::SyncLight, Mode::Sync] {
            let from = device.peek(2);
            lab.migrate(from, mode).unwrap();
            let to = device.peek(2);
            let calls =
                [Call::Isolate(from, 2), Call::Copy(from, to, 2), Call::Migrate(from, to, 2), Call::Putback(to, 2)];
            assert_eq!(device.driver.take_calls(), calls);
        }
    });
}

#[test]
fn a_batch_goes_through_each_step_together() {
    on_both(1, |lab| {
        let device = Device::open(lab);
        let from: Vec<Pfn> = (0..3).map(|page| device.fill(page, 1)).collect();
        lab.migrate_all(&from, Options::new(Mode::Async));
        let to: Vec<Pfn> = (0..3).map(|page| device.peek(page)).collect();
        let calls = device.driver.take_calls();
        let expected: Vec<Call> = (0..3u32)
            .map(|page| Call::Isolate(from[page as usize], page))
            .chain((0..3u32).map(|page| Call::Copy(from[page as usize], to[page as usize], page)))
            .chain((0..3u32).map(|page| Call::Migrate(from[page as usize], to[page as usize], page)))
            .chain((0..3u32).map(|page| Call::Putback(to[page as usize], page)))
            .collect();
        assert_eq!(calls, expected);
    });
}

#[test]
fn what_was_isolated_is_put_back_once_and_what_was_not_never() {
    on_both(1, |lab| {
        let device = Device::open(lab);
        let pfn = device.fill(5, 1);
        device.driver.refuse(Stage::Isolate, Refusal::No);
        assert_eq!(lab.migrate(pfn, Mode::Sync), Err(Reason::Refused));
        assert_eq!(device.driver.take_calls(), [Call::Isolate(pfn, 5)]);
        for stage in [Stage::Copy, Stage::Migrate] {
            device.driver.refuse(stage, Refusal::No);
            assert_eq!(lab.migrate(pfn, Mode::Sync), Err(Reason::Refused));
            let calls = device.driver.take_calls();
            assert!(matches!(calls[0], Call::Isolate(from, 5) if from == pfn));
            assert!(matches!(calls[1], Call::Copy(from, _, 5) if from == pfn));
            assert_eq!(
                calls.iter().filter(|call| matches!(call, Call::Migrate(..))).count(),
                usize::from(stage == Stage::Migrate)
            );
            assert_eq!(calls.last(), Some(&Call::Putback(pfn, 5)));
            assert_eq!(calls.iter().filter(|call| matches!(call, Call::Putback(..))).count(), 1);
        }
        // For a page that somebody else refers to nobody is asked.
        device.driver.refuse_nothing();
        let held = lab.get(pfn);
        assert_eq!(lab.migrate(pfn, Mode::Async), Err(Reason::Referenced));
        assert_eq!(device.driver.take_calls(), []);
        drop(held);
    });
}

/// Tries of one move, as the modes promise: three in ASYNC, ten in the others.
#[test]
fn a_driver_that_always_asks_to_retry_is_asked_a_bounded_number_of_times() {
    on_both(1, |lab| {
        let device = Device::open(lab);
        let pfn = device.fill(0, 1);
        device.driver.refuse(Stage::Migrate, Refusal::Retry);
        for (mode, tries) in [(Mode::Async, 3), (Mode::SyncLight, 10), (Mode::Sync, 10)] {
            assert_eq!(lab.migrate(pfn, mode), Err(Reason::Retry));
            assert_eq!(device.driver.take_calls().len(), 4 * tries);
        }
    });
}

/// What every callback may rely on: the frame is locked; from `copy` on nothing maps it and nobody has a reference.
#[test]
fn callbacks_find_the_frame_as_promised() {
    struct Watch {
        engine: Arc<pagemove::Engine>,
        index: Arc<PageIndex>,
        seen: AtomicU32,
        mode: Mode,
    }
    impl Watch {
        fn look(&self, pfn: Pfn, mode: Mode, index: u32) {
            assert!(self.engine.physical().frames().is_locked(pfn));
            assert_eq!((mode, index), (self.mode, 3));
            self.seen.fetch_add(1, Ordering::Relaxed);
        }
        fn look_at_both(&self, folio: &MovingFolio<'_>, mode: Mode) {
            let physical = self.engine.physical();
            let (src, dst) = (folio.src(), folio.dst());
            for pfn in [src, dst] {
                self.look(pfn, mode, folio.index());
                assert_eq!(physical.frame(pfn).maps(), 0);
                assert!(physical.get(pfn).is_none(), "a frozen folio gave a reference");
            }
            assert_eq!(physical.frame(src).key(), physical.frame(dst).key());
            assert_eq!(physical.frame(src).owner(), physical.frame(dst).owner());
        }
    }
    impl MovableOps for Watch {
        fn name(&self) -> &str {
            "watch"
        }
        fn isolate(&self, run: &mut IsolationRun<'_>) {
            let mode = run.mode();
            run.decide(|folio| {
                self.look(folio.pfn, mode, folio.index);
                Ok(())
            });
        }
        fn copy(&self, run: &mut MigrationRun<'_>) {
            let mode = run.mode();
            run.for_each(|folio| {
                self.look_at_both(folio, mode);
                Ok(())
            });
            run.copy_contents();
        }
        fn migrate(&self, run: &mut MigrationRun<'_>) {
            let mode = run.mode();
            run.for_each(|folio| {
                self.look_at_both(folio, mode);
                let [src, dst] = [folio.src_words(0), folio.dst_words(0)].map(|words| words[0].load(Ordering::Relaxed));
                assert_eq!((src, dst), (42, 42));
                Ok(())
            });
            self.index.repoint(run);
        }
        fn putback(&self, run: &PutbackRun<'_>) {
            for folio in run.folios() {
                self.look(folio.pfn, run.mode(), folio.index);
                // The mappings are back before the driver is told.
                assert_eq!(self.engine.physical().frame(folio.pfn).maps(), 1);
            }
        }
    }
    for mode in [Mode::Async, Mode::SyncLight, Mode::Sync] {
        on_both(1, |lab| {
            let index = lab.engine.new_index(Kind::Driver, "watch");
            let seen = AtomicU32::new(0);
            let watch = Arc::new(Watch { engine: lab.engine.clone(), index: index.clone(), seen, mode });
            let registration = lab.engine.owners().register(watch.clone());
            index.set_owner(&registration);
            let process = lab.process();
            let file = Arc::new(Plain(index.clone()));
            let at = shared(&process, file, 4, RW);
            process.store(at.start().up(3), 42).unwrap();
            lab.migrate(index.peek(3).unwrap(), mode).unwrap();
            assert_eq!(watch.seen.load(Ordering::Relaxed), 6);
            assert_eq!(process.load(at.start().up(3)).unwrap(), 42);
        });
    }
}

/// Maps an index as it is.
struct Plain(Arc<PageIndex>);

impl pagemove::space::Mappable for Plain {
    fn name(&self) -> &str {
        "plain"
    }
    fn reverse_map(&self) -> &Arc<pagemove::rmap::RangeMap> {
        self.0.reverse_map()
    }
    fn fault(&self, index: u32) -> Result<pagemove::folio::LockedFolio<'_>, pagemove::space::FileError> {
        Ok(self.0.try_lock_or_insert(index)?)
    }
    fn bring(&self, index: u32) -> Result<(), pagemove::space::FileError> {
        Ok(self.0.lock_or_insert(index).map(drop)?)
    }
}

#[test]
fn unregistering_refuses_while_a_page_is_isolated_and_goes_on_unchanged() {
    on_both(1, |lab| {
        let device = Device::open(lab);
        device.fill(0, 1);
        for stage in Stage::ALL {
            let (send, receive) = mpsc::channel();
            let (of_hook, of_test) = (Arc::downgrade(&device), device.peek(0));
            device.driver.during_next(stage, move || {
                send.send(of_hook.upgrade().unwrap().registration.try_unregister()).unwrap();
            });
            lab.migrate(of_test, Mode::Sync).unwrap();
            assert_eq!(receive.recv().unwrap(), Err(StillMoving { moving: 1 }), "{stage:?}");
        }
        lab.migrate(device.peek(0), Mode::Sync).unwrap();
        assert_eq!(device.registration.try_unregister(), Ok(()));
        assert_eq!(device.registration.try_unregister(), Ok(()));
        device.registration.unregister();
        assert_eq!(lab.migrate(device.peek(0), Mode::Sync), Err(Reason::OwnerGone));
        assert!(StillMoving { moving: 3 }.to_string().contains('3'));
    });
}
