//! A move's destination was reachable before it was committed: its counts and lock were stored over while others held them.

use std::{
    cell::RefCell,
    sync::{Arc, Mutex, OnceLock, mpsc::channel},
    thread,
};

use crate::common::*;
use pagemove::{
    Engine,
    frame::Kind,
    migrate::{AnyFree, Destination, Mode, Mover, Options},
    movable::Refusal,
    port::{CpuClaim, FlushRange, InterruptMask, Lent, Machine, Ram},
    report::Reason,
    sync::AtomicU32,
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
        let frame = engine.physical().frame(to);
        assert_eq!(frame.state().kind(), Kind::Driver);
        let mut destination = AnyFree::new(engine.physical(), 1);
        let second = Mover::new(&engine).migrate(&[to], &mut destination, Options::new(Mode::Sync));
        assert!(!frame.try_get(), "a destination that isn't committed gives a reference");
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
struct Looked<'e> {
    physical: &'e Physical,
    inner: AnyFree<'e>,
    looks: Vec<bool>,
}

impl Destination for Looked<'_> {
    fn take(&mut self) -> Option<Pfn> {
        self.inner.take()
    }

    fn give_back(&mut self, pfn: Pfn) {
        self.inner.give_back(pfn);
    }

    fn take_larger(&mut self, order: Order) -> Option<Pfn> {
        let pfn = self.inner.take_larger(order)?;
        self.looks.push(self.physical.frame(pfn).try_get());
        Some(pfn)
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
    let mut to = Looked { physical, inner: AnyFree::new(physical, 1), looks: Vec::new() };
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
    fn ram(&self) -> Ram {
        self.inner.ram()
    }

    fn lend(&self, bytes: usize) -> Option<Lent> {
        self.inner.lend(bytes)
    }

    fn flush(&self, ranges: &[FlushRange]) {
        let hook = self.flush.lock().unwrap().take();
        if let Some(hook) = hook {
            hook();
        }
        self.inner.flush(ranges);
    }

    fn cpus(&self) -> usize {
        self.inner.cpus()
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

    fn interrupt_mask(&self) -> Option<InterruptMask> {
        self.inner.interrupt_mask()
    }

    fn might_wait(&self) {
        self.inner.might_wait();
    }

    fn barrier(&self) {
        self.inner.barrier();
    }

    fn wait(&self, word: &AtomicU32, value: u32) {
        self.inner.wait(word, value);
    }

    fn wake(&self, word: &AtomicU32) {
        self.inner.wake(word);
    }

    fn pause(&self) {
        self.inner.pause();
    }

    fn now_ns(&self) -> u64 {
        self.inner.now_ns()
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

/// A destination that gives a frame in use.
struct InUse(Pfn);

impl Destination for InUse {
    fn take(&mut self) -> Option<Pfn> {
        Some(self.0)
    }

    fn give_back(&mut self, _: Pfn) {}
}

/// In a process of its own, since the page stays locked.
#[test]
fn a_frame_in_use_is_no_destination() {
    if case().is_some() {
        let lab = Lab::new(TlbKind::Soft, 1);
        let device = Device::open(&lab);
        let (from, other) = (device.fill(0, 1), device.fill(1, 2));
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            Mover::new(&lab.engine).migrate(&[from], &mut InUse(other), Options::new(Mode::Sync))
        }));
        // Nothing is dropped: that would wait for the page.
        std::process::exit(i32::from(device.driver.index.len() == 2));
    }
    let output = run_case("destination::a_frame_in_use_is_no_destination", "child");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("was given as a destination, but is not set aside"), "{said}");
}
