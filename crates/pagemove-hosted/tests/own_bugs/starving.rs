//! A compaction set all free frames of the block that it filled aside for as long as it lived: memory ran out with hundreds free.

use std::sync::mpsc::channel;

use crate::common::*;
use pagemove::{
    compact::{Compaction, Goal, Observation, Plan},
    folio::FrozenFolio,
    frame::Kind,
    migrate::{AnyFree, Destination, Mode, Options, Policy},
    units::Order,
};
use pagemove_hosted::TlbKind;

/// Two blocks, the first of them nearly free and being filled; all that is free outside of it is taken.
#[test]
fn what_a_compaction_does_not_use_yet_can_be_allocated() {
    let (lab, hooked) = Hooked::lab(TlbKind::Soft, 2);
    let physical = lab.engine.physical().clone();
    let device = Device::open(&lab);
    // Four movable pages in block 1, hostages in block 0.
    let taken = take_all(&physical, Kind::Kernel);
    let (low, high): (Vec<FrozenFolio<'_>>, Vec<FrozenFolio<'_>>) =
        taken.into_iter().partition(|folio| number(folio.pfn()) < 512);
    let mut high = high.into_iter();
    for page in 0..4 {
        drop(high.next().unwrap());
        physical.drain_cpu_lists();
        assert!(device.fill(page, 1).get() >= 512);
    }
    let mut low = low.into_iter();
    let hostage = low.next().unwrap();
    let free = low.len() as u32;
    low.chain(high).for_each(drop);
    physical.drain_cpu_lists();
    // Block 1's own free frames are out of reach while it's isolated.
    let zone = physical.zones().next().unwrap();
    let plan = Plan::new(&Observation::of(&physical, zone, Policy::Any), Goal::All);
    assert_eq!((plan.empty.len(), plan.fill.as_slice()), (1, [0].as_slice()), "the scene is set");
    let process = lab.process();
    let at = anonymous(&process, 512);
    process.store(at.start(), 1).unwrap();
    let engine = lab.engine.clone();
    let (send, receive) = channel();
    hooked.before_next_flush(move |_| {
        let count = take_all(engine.physical(), Kind::Kernel).len() as u32;
        send.send(count).unwrap();
    });
    let outcomes: Vec<_> = Compaction::new(&lab.engine, &plan, Options::new(Mode::Sync)).collect();
    let allocated = receive.recv().unwrap();
    assert!(allocated + 64 + 16 >= free, "{allocated} of {free} free frames could be allocated");
    assert_eq!(outcomes.len(), 1);
    drop(hostage);
    drop((process, device));
    lab.assert_all_free(1024);
}

/// Does `deed` while a mover, which is about to move, has the last free frames set aside.
fn with_the_last_frames_set_aside(lab: &Lab, hooked: &Hooked, deed: impl FnOnce()) {
    let physical = lab.physical().clone();
    // A mover, which takes a frame whenever it's told to, and gives it back; from the first time on it has all 64 set aside.
    let (tell, told) = channel::<()>();
    let (answer, answered) = channel();
    let of_mover = physical.clone();
    let mover = std::thread::spawn(move || {
        let mut destination = AnyFree::new(&of_mover, 64);
        for () in told {
            let folio = destination.take(Order::ZERO, None);
            answer.send(folio.is_some()).unwrap();
            folio.into_iter().for_each(|folio| destination.give_back(folio));
        }
    });
    tell.send(()).unwrap();
    assert!(answered.recv().unwrap());
    let taken = take_all(&physical, Kind::Kernel);
    let again = tell.clone();
    hooked.at_next_pause(move || {
        again.send(()).unwrap();
        assert!(answered.recv().unwrap(), "a mover goes on, a frame at a time");
    });
    deed();
    drop(tell);
    mover.join().unwrap();
    drop(taken);
}

/// A fault has it return them.
#[test]
fn a_fault_gets_what_movers_have_set_aside() {
    let (lab, hooked) = Hooked::lab(TlbKind::Soft, 1);
    let process = lab.process();
    let at = anonymous(&process, 2);
    process.store(at.start(), 1).unwrap();
    with_the_last_frames_set_aside(&lab, &hooked, || {
        process.store(at.start().up(1), 2).unwrap();
        assert_eq!(process.load(at.start().up(1)), Ok(2));
    });
    drop(process);
    lab.assert_all_free(512);
}

/// So has a store to a part of a shared 2 MiB page, whose entry needs a table first.
#[test]
fn a_store_to_a_shared_2mib_page_gets_what_movers_have_set_aside() {
    let (lab, hooked) = Hooked::lab(TlbKind::Soft, 3);
    let process = lab.process();
    let at = huge(&process, 512);
    fill(&process, at);
    let child = process.fork().unwrap();
    with_the_last_frames_set_aside(&lab, &hooked, || child.store(at.start(), 9).unwrap());
    assert_eq!(child.load(at.start()), Ok(9));
    assert_holds(&process, at, 0);
}
