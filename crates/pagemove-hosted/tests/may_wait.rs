//! The table of calls in `pagemove::port`: what may wait is refused at once while interrupts are masked, though there is nothing to wait
//! for; what may be called in an interrupt is not. In debug builds, as the hosted machine counts its masks only there.
#![cfg(debug_assertions)]
mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};

use common::*;
use pagemove::{
    compact::{Goal, compact},
    frame::Kind,
    migrate::{Mode, Options},
    port::Machine,
    space::{Access, Map, Orders, Source},
    units::Order,
    zone::{Effort, Request},
};
use pagemove_hosted::TlbKind;

/// A call by its name.
type Call<'a> = (&'static str, Box<dyn Fn() + 'a>);

fn ignore<T>(_: T) {}

#[test]
fn what_may_wait_is_refused_while_interrupts_are_masked() {
    let lab = Lab::new(TlbKind::Soft, 2);
    let physical = lab.engine.physical().clone();
    let (base, kind) = (Order::ZERO, Kind::Kernel);
    let device = Device::open(&lab);
    let mapped = device.fill(0, 1);
    let (held, frozen) = (physical.alloc(base, kind).unwrap().publish(), physical.alloc(base, kind).unwrap());
    let pfn = held.pfn();
    let index = lab.engine.new_index(Kind::Driver, "pinned");
    let pin = index.lock_or_insert(0).unwrap().pin("a device");
    let owner = lab.engine.owners().register(index.clone());
    let process = lab.process();
    let space = process.space();
    let at = anonymous(&process, 2);
    process.store(at.start(), 1).unwrap();
    let frames = physical.frames();
    let request = |effort| Request::new(base, kind).with_effort(effort);
    let map = || Map { at: None, pages: 1, protection: RW, source: Source::Anonymous { orders: Orders::BASE } };
    let waiting: Vec<Call<'_>> = vec![
        ("alloc", Box::new(|| ignore(physical.alloc(base, kind)))),
        ("alloc_exactly", Box::new(|| ignore(physical.alloc_exactly(pfn, kind)))),
        ("alloc_with, Drain", Box::new(|| ignore(physical.alloc_with(&request(Effort::Drain))))),
        ("alloc_with, Compact", Box::new(|| ignore(physical.alloc_with(&request(Effort::Compact))))),
        ("drain_cpu_lists", Box::new(|| physical.drain_cpu_lists())),
        ("lock", Box::new(|| ignore(held.clone().lock()))),
        ("wait_unlocked", Box::new(|| ignore(frames.wait_unlocked(pfn)))),
        ("unregister", Box::new(|| owner.unregister())),
        ("migrate", Box::new(|| ignore(lab.migrate(mapped, Mode::Async)))),
        ("compact", Box::new(|| ignore(compact(&lab.engine, range(0, 1024), Goal::All, Options::new(Mode::Async))))),
        ("mmap", Box::new(|| ignore(space.mmap(&map())))),
        ("munmap", Box::new(|| ignore(space.munmap(at)))),
        ("mprotect", Box::new(|| ignore(space.mprotect(at, RW)))),
        ("mremap", Box::new(|| ignore(space.mremap(at, 2, None)))),
        ("fork", Box::new(|| ignore(space.fork()))),
        ("fault", Box::new(|| ignore(space.fault(at.start(), Access::Read)))),
        ("pin", Box::new(|| ignore(space.pin(at, true, "a device")))),
        ("exit", Box::new(|| space.exit())),
        ("clear_soft_dirty", Box::new(|| space.clear_soft_dirty())),
        ("entry", Box::new(|| ignore(space.entry(at.start())))),
        ("read", Box::new(|| ignore(space.read(at.start(), &mut [0; 8])))),
        ("write", Box::new(|| ignore(space.write(at.start(), &[0; 8])))),
        ("vmas", Box::new(|| ignore(space.vmas()))),
        ("for_each_entry", Box::new(|| space.for_each_entry(|_, _| ()))),
    ];
    let interrupts = lab.machine.interrupt_mask().unwrap();
    let before = (interrupts.mask)();
    for (name, call) in &waiting {
        let told = catch_unwind(AssertUnwindSafe(call)).expect_err(name);
        let told = told.downcast_ref::<String>().unwrap();
        assert!(told.contains("a call that may wait was made while interrupts are masked"), "{name}: {told}");
    }
    let taken = physical.alloc_with(&request(Effort::Lists)).unwrap();
    let folio = physical.alloc_with(&Request::new(order(3), kind).with_effort(Effort::Lists)).unwrap();
    let folio = folio.publish();
    drop((physical.get(folio.pfn().up(5)).unwrap(), folio.clone(), folio, taken, frozen));
    drop(held.clone().try_lock().unwrap());
    drop(held.clone().start_writeback());
    assert_eq!((physical.pins().of(pin.pfn()).len(), physical.pins().all().len()), (1, 1));
    drop(pin);
    physical.events().for_each(|_| ());
    assert!(physical.free_frames() < 1024 && physical.metadata_bytes() > 0);
    (interrupts.restore)(before);
    waiting.iter().filter(|(name, _)| name.starts_with("wait")).for_each(|(_, call)| call());
    drop(waiting);
    drop(held);
    drop((owner, index, process, device));
    lab.assert_all_free(1024);
}
