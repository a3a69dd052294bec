//! A compaction set all free frames of the block that it filled aside for as long as it lived: memory ran out with hundreds free.

use crate::common::*;
use pagemove::{
    compact::{Act, Goal, Observation, Plan},
    frame::Kind,
    migrate::{Mode, Options, Policy},
    units::{Order, Pfn},
};
use pagemove_hosted::TlbKind;

/// Two blocks, the first of them nearly free and being filled; all that is free outside of it is taken.
#[test]
fn what_a_compaction_does_not_use_yet_can_be_allocated() {
    let (lab, hooked) = Hooked::lab(TlbKind::Soft, 2);
    let physical = lab.engine.physical().clone();
    let device = Device::open(&lab);
    // Four movable pages in block 1, hostages in block 0.
    let taken: Vec<Pfn> = std::iter::from_fn(|| physical.alloc(Order::ZERO, Kind::Kernel).ok()).collect();
    let (low, high): (Vec<Pfn>, Vec<Pfn>) = taken.into_iter().partition(|pfn| pfn.get() < 512);
    let mut high = high.into_iter();
    for page in 0..4 {
        physical.put(high.next().unwrap());
        physical.drain_cpu_lists();
        assert!(device.fill(page, 1).get() >= 512);
    }
    let mut low = low.into_iter();
    let hostage = low.next().unwrap();
    let free = low.len() as u32;
    low.chain(high).for_each(|pfn| physical.put(pfn));
    physical.drain_cpu_lists();
    // Block 1's own free frames are out of reach while it's isolated.
    let zone = physical.zones().next().unwrap();
    let plan = Plan::new(&Observation::of(&physical, zone, Policy::Any), Goal::All);
    assert_eq!((plan.empty.len(), plan.fill.as_slice()), (1, [0].as_slice()), "the scene is set");
    let process = lab.process();
    let at = anonymous(&process, 512);
    process.store(at.start(), 1).unwrap();
    let engine = lab.engine.clone();
    let (send, receive) = std::sync::mpsc::channel();
    hooked.before_next_flush(move |_| {
        let physical = engine.physical();
        let got: Vec<Pfn> = std::iter::from_fn(|| physical.alloc(Order::ZERO, Kind::Kernel).ok()).collect();
        let count = got.len() as u32;
        got.into_iter().for_each(|pfn| physical.put(pfn));
        send.send(count).unwrap();
    });
    let outcomes: Vec<_> = Act::new(&lab.engine, &plan, Options::new(Mode::Sync)).collect();
    let allocated = receive.recv().unwrap();
    assert!(allocated + 64 + 16 >= free, "{allocated} of {free} free frames could be allocated");
    assert_eq!(outcomes.len(), 1);
    physical.put(hostage);
    drop((process, device));
    lab.assert_all_free(1024);
}
