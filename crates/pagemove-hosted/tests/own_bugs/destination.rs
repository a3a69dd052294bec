//! A move's destination was reachable before it was committed: its counts and lock were stored over while others held them.

use std::{
    cell::RefCell,
    sync::{Arc, Mutex, OnceLock, mpsc::channel},
    thread,
};

use crate::common::*;
use pagemove::{
    Engine,
    folio::FrozenFolio,
    frame::Kind,
    migrate::{AnyFree, Destination, Mode, Mover, Options},
    movable::Refusal,
    port::{CpuClaim, FlushRange, Machine},
    report::Reason,
    units::{Order, Pfn, VirtRange},
    zone::Physical,
};
use pagemove_hosted::{Hosted, TlbKind};

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

// ---- the same with nobody but the engine's own calls: split_at with a stale entry, a mover, a second mover.

type Hook = Box<dyn FnOnce()>;

thread_local! {
    static AT_CLAIM: RefCell<Option<Hook>> = const { RefCell::new(None) };
}
static INNER: OnceLock<CpuClaim> = OnceLock::new();

/// A machine that does something just before this thread claims its processor (an interrupt, or being preempted there).
struct Claiming {
    inner: Arc<Hosted>,
    flush: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

#[allow(unsafe_code, reason = "a machine is an unsafe trait; this one passes all on to a real one")]
// SAFETY: as the hosted machine's.
unsafe impl Machine for Claiming {
    pagemove_hosted::pass_on!(inner: take_ram return_ram lend root_made root_freed cpus interrupt_mask might_wait barrier wait wake pause now_ns);

    fn flush(&self, ranges: &[FlushRange]) {
        let hook = self.flush.lock().unwrap().take();
        if let Some(hook) = hook {
            hook();
        }
        self.inner.flush(ranges);
    }

    fn cpu_claim(&self) -> CpuClaim {
        let inner = *INNER.get_or_init(|| self.inner.cpu_claim());
        let claim = || {
            let hook = AT_CLAIM.with(|hook| hook.borrow_mut().take());
            if let Some(hook) = hook {
                hook();
            }
            (INNER.get().unwrap().claim)()
        };
        CpuClaim { claim, release: inner.release }
    }
}

fn migrate(engine: &Arc<Engine>, pfn: Pfn) -> bool {
    let mut to = AnyFree::new(engine.physical(), 1);
    Mover::new(engine).migrate(&[pfn], &mut to, Options::new(Mode::Sync)).stayed.is_empty()
}

/// `split_at` (here of a pin) has read the entry of a 2 MiB page and is about to take its reference. The page moves away,
/// and its frame becomes the destination of another process's 2 MiB page.
#[test]
fn a_splitter_with_a_stale_entry_does_not_take_the_page_that_has_come_there() {
    end_if_hung();
    let inner = hosted(TlbKind::Soft, 4 * 512, 4);
    let machine = Arc::new(Claiming { inner: inner.clone(), flush: Mutex::default() });
    let engine = Engine::boot(machine.clone(), &one_zone(4 * 512, 9)).unwrap();
    let lab = Lab { machine: inner, engine: engine.clone() };
    // Block of tables, P, Q, and one that is free.
    let (one, two) = (lab.process(), Arc::new(lab.process()));
    let (p_at, q_at) = (huge(&one, 512), huge(&two, 512));
    one.store(p_at.start(), 1).unwrap();
    two.store(q_at.start(), 2).unwrap();
    let (p, q) = (pfn_at(&one, p_at.start()), pfn_at(&two, q_at.start()));
    let (send, receive) = channel();
    let (split, until_split) = channel();
    let (hook_engine, hook_machine) = (engine.clone(), machine.clone());
    AT_CLAIM.with(|hook| {
        *hook.borrow_mut() = Some(Box::new(move || {
            // P goes to the free block, so that its old frame is the only free one.
            assert!(migrate(&hook_engine, p));
            // Q begins to move to where P was, and has blocked its entry; it goes on when the splitter is through.
            let (begun, wait_begun) = channel();
            *hook_machine.flush.lock().unwrap() = Some(Box::new(move || {
                begun.send(()).unwrap();
                until_split.recv().unwrap();
            }));
            let engine = hook_engine.clone();
            let second = thread::spawn(move || migrate(&engine, q));
            wait_begun.recv().unwrap();
            send.send(second).unwrap();
        }));
    });
    let pins = one.space().pin(VirtRange::new(p_at.start(), 1).unwrap(), true, "nic").unwrap();
    split.send(()).unwrap();
    assert!(receive.recv().unwrap().join().unwrap(), "Q moves");
    assert_eq!(pfn_at(&two, q_at.start()), p, "the scene is set: Q came to where P was");
    let frame = engine.physical().frame(p);
    assert_eq!((frame.refs(), frame.maps()), (1, 1));
    assert_eq!((one.load(p_at.start()), two.load(q_at.start())), (Ok(1), Ok(2)));
    drop((pins, one, two));
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
