//! A move's destination was reachable before it was committed: its counts and lock were stored over while others held them.

use std::sync::{Arc, mpsc::channel};

use crate::common::*;
use pagemove::{
    folio::FrozenFolio,
    frame::Kind,
    migrate::{AnyFree, Destination, Mode, Mover, Options},
    movable::Refusal,
    report::Reason,
    units::{Order, Pfn},
    zone::Physical,
};
use pagemove_hosted::TlbKind;

/// A second mover that finds the destination while the driver is still asked, and then refuses, gets no reference to it.
fn refused_at(stage: Stage) {
    let lab = Lab::new(TlbKind::Soft, 2);
    let device = Device::open(&lab);
    let from = device.fill(0, 5);
    let (send, receive) = channel();
    let (engine, driver) = (lab.engine.clone(), device.driver.clone());
    device.driver.during_next(stage, move || {
        // The destination, as a scan of its block finds it: a driver's page.
        let to = driver
            .take_calls()
            .into_iter()
            .find_map(|call| match call {
                Call::Copy(_, to, _) | Call::Migrate(_, to, _) => Some(to),
                _ => None,
            })
            .unwrap();
        assert_eq!(engine.physical().frame(to).state().kind(), Kind::Driver);
        let mut destination = AnyFree::new(engine.physical(), 1);
        let second = Mover::new(&engine).migrate(&[to], &mut destination, Options::new(Mode::Sync));
        assert!(engine.physical().get(to).is_none(), "a destination that isn't committed gives a reference");
        // From here on `stage` refuses.
        driver.refuse(stage, Refusal::No);
        send.send((to, second)).unwrap();
    });
    assert_eq!(lab.migrate(from, Mode::Async), Err(Reason::Refused));
    let (to, second) = receive.recv().unwrap();
    assert_eq!((second.moved, second.stayed), (0, vec![(to, Reason::Locked)]));
    let frame = lab.engine.physical().frame(from);
    assert_eq!((frame.refs(), frame.maps(), device.peek(0)), (1, 0, from));
    device.driver.refuse_nothing();
    lab.migrate(from, Mode::Async).unwrap();
    device.driver.index.remove(0);
    lab.assert_all_free(1024);
}

#[test]
fn no_reference_to_the_destination_of_a_copy_that_is_refused() {
    refused_at(Stage::Copy);
}

#[test]
fn no_reference_to_the_destination_of_a_migration_that_is_refused() {
    refused_at(Stage::Migrate);
}

/// Looks at the large destination as whoever comes with a stale frame number does: takes a reference unless there is none.
struct Looked<'p> {
    inner: AnyFree<'p>,
    looks: Vec<bool>,
}

impl<'p> Destination<'p> for Looked<'p> {
    fn take(&mut self, order: Order, below: Option<Pfn>) -> Option<FrozenFolio<'p>> {
        let folio = self.inner.take(order, below)?;
        self.looks.push(folio.physical().get(folio.pfn()).is_some());
        Some(folio)
    }

    fn give_back(&mut self, folio: FrozenFolio<'p>) {
        self.inner.give_back(folio);
    }
}

#[test]
fn no_reference_to_a_2_mib_destination() {
    let lab = Lab::new(TlbKind::Soft, 4);
    let process = lab.process();
    let at = huge(&process, 512);
    process.store(at.start(), 7).unwrap();
    let from = pfn_at(&process, at.start());
    let physical = lab.engine.physical();
    let mut to = Looked { inner: AnyFree::new(physical, 1), looks: Vec::new() };
    Mover::new(&lab.engine).migrate(&[from], &mut to, Options::new(Mode::Sync));
    assert_eq!(to.looks, [false], "a destination that isn't committed gives a reference");
    let here = pfn_at(&process, at.start());
    let frame = physical.frame(here);
    assert_eq!((here != from, frame.refs(), frame.maps()), (true, 1, 1));
    drop((process, to));
    lab.assert_all_free(2048);
}

/// A destination that gives folios of one memory and order, whatever it is asked for, allocated as anything would be.
struct Always<'p> {
    physical: &'p Arc<Physical>,
    order: Order,
    given: u32,
}

impl<'p> Destination<'p> for Always<'p> {
    fn take(&mut self, _: Order, _: Option<Pfn>) -> Option<FrozenFolio<'p>> {
        self.given += 1;
        self.physical.alloc(self.order, Kind::Kernel).ok()
    }

    fn give_back(&mut self, folio: FrozenFolio<'p>) {
        panic!("{folio:?} comes back, but no move was undone");
    }
}

/// A destination of another size or of another engine's memory is as good as none, and nothing is lost.
#[test]
fn what_does_not_fit_is_no_destination() {
    let (lab, other) = (Lab::new(TlbKind::Soft, 4), Lab::new(TlbKind::Soft, 4));
    {
        let process = lab.process();
        let device = Device::open(&lab);
        let (small, large) = (shared(&process, device.clone(), 1, RW).start(), huge(&process, 512).start());
        for at in [small, large] {
            process.store(at, 7).unwrap();
        }
        for (at, fits, reason) in [(small, 0, Reason::NoDestination), (large, 9, Reason::Order)] {
            let (from, before) = (pfn_at(&process, at), Snapshot::of(&lab, [&process]));
            for (lab_of, size) in [(&lab, 1), (&lab, 9 - fits), (&other, fits)] {
                for mode in MODES {
                    let mut to = Always { physical: lab_of.physical(), order: order(size), given: 0 };
                    let outcome = Mover::new(&lab.engine).migrate(&[from], &mut to, Options::new(mode));
                    assert_eq!((outcome.moved, outcome.stayed), (0, vec![(from, reason)]), "order {size}, {mode:?}");
                    assert!(to.given > 0, "order {size}, {mode:?}");
                    Snapshot::of(&lab, [&process]).assert_same(&before, "a destination that doesn't fit");
                    other.assert_all_free(2048);
                }
            }
            // One that fits is used though nobody has set it aside.
            let mut to = Always { physical: lab.physical(), order: order(fits), given: 0 };
            let outcome = Mover::new(&lab.engine).migrate(&[from], &mut to, Options::new(Mode::Sync));
            assert_eq!((outcome.moved, outcome.stayed, to.given), (1 << fits, vec![], 1));
            assert_ne!(pfn_at(&process, at), from);
            assert_eq!(process.load(at), Ok(7));
            lab.validate();
        }
    }
    lab.assert_all_free(2048);
}
