//! Isolation of a pageblock wasn't exact: what was on processors' lists was handed out, and a second compaction filled a block that
//! was being emptied.

use std::sync::mpsc::channel;

use crate::common::*;
use pagemove::{
    compact::{Compaction, Emptied, Goal, Observation, Plan, compact},
    folio::FrozenFolio,
    frame::Kind,
    migrate::{AnyFree, Destination, Mode, Options, Policy},
    units::{Order, Pfn},
};
use pagemove_hosted::{TlbKind, enter_cpu};

/// While block 1 is being emptied, `meanwhile` is done at the flush; gives whether the block is free afterwards.
fn emptied(prepare: impl FnOnce(&Lab), meanwhile: impl FnOnce(&Lab) + Send + 'static) -> bool {
    let (lab, hooked) = Hooked::lab(TlbKind::Soft, 3);
    let physical = lab.engine.physical();
    let device = Device::open(&lab);
    // Block 0 is kept by a page that can't move; block 1 has one that can; block 2 is free.
    let _kernels = physical.alloc_exactly(pfn(7), Kind::Kernel).unwrap();
    let page = (0..).find(|&page| (512..1024).contains(&number(device.fill(page, 1)))).unwrap();
    device.driver.index.truncate(0..page);
    let zone = physical.zones().next().unwrap();
    let plan = Plan::new(&Observation::of(physical, zone, Policy::Any), Goal::All);
    assert_eq!(plan.empty.iter().map(|emptied| emptied.block).collect::<Vec<_>>(), [1], "the scene is set");
    let process = lab.process();
    process.load(shared(&process, device.clone(), page + 1, RW).start().up(page)).unwrap();
    let beside = Lab { machine: lab.machine.clone(), engine: lab.engine.clone() };
    let (send, done) = channel();
    hooked.before_next_flush(move |_| {
        assert!(beside.engine.physical().blocks().is_isolated(1));
        meanwhile(&beside);
        send.send(()).unwrap();
    });
    let mut act = Compaction::new(&lab.engine, &plan, Options::new(Mode::Sync));
    // Behind the draining with which an act begins.
    prepare(&lab);
    let outcome = act.next().unwrap();
    done.recv().unwrap();
    assert_eq!(outcome.stayed, []);
    outcome.free
}

fn none_of_block_1(pfns: &[Pfn]) {
    let inside: Vec<_> = pfns.iter().filter(|pfn| (512..1024).contains(&number(**pfn))).collect();
    assert_eq!(inside, [] as [&Pfn; 0], "handed out of a block that is isolated");
}

#[test]
fn nothing_of_an_isolated_block_is_allocated() {
    let free = emptied(
        |_| {},
        |lab| {
            assert!(lab.physical().alloc_exactly(pfn(1000), Kind::Kernel).is_none());
            none_of_block_1(&pfns(&lab.take_all(Kind::Kernel)));
        },
    );
    assert!(free);
}

/// Frames of the block lie on another processor's list when it's isolated.
#[test]
fn what_processors_have_on_their_lists_is_taken_back() {
    let free = emptied(
        |lab| {
            enter_cpu(1);
            drop(lab.take_all(Kind::Kernel));
            enter_cpu(0);
        },
        |lab| {
            enter_cpu(1);
            let got = lab.take_all(Kind::Kernel);
            assert!(!got.is_empty());
            none_of_block_1(&pfns(&got));
            // Nobody gives it back.
            // Kept for good.
            got.into_iter().for_each(|folio| _ = folio.into_raw());
            enter_cpu(0);
        },
    );
    assert!(free);
}

/// A second compaction neither fills the block nor empties it.
#[test]
fn a_second_compaction_leaves_an_isolated_block_alone() {
    let free = emptied(
        |_| {},
        |lab| {
            let device = Device::open(lab);
            let physical = lab.engine.physical();
            let zone = physical.zones().next().unwrap();
            let block_1 = || (512..1024).filter(|&at| physical.frame(pfn(at)).state().kind() == Kind::Free).count();
            let before = block_1();
            // Movable pages elsewhere, and a plan that would move them into block 1.
            let pages: Vec<Pfn> = (0..4).map(|page| device.fill(page, 1)).collect();
            none_of_block_1(&pages);
            let empty = vec![Emptied { block: physical.blocks().number(pages[0]), pages: 4 }];
            let plan = Plan { empty, fill: vec![1], moves: 4, free_frames: 508 };
            Compaction::new(&lab.engine, &plan, Options::new(Mode::Async)).for_each(drop);
            none_of_block_1(&(0..4).map(|page| device.peek(page)).collect::<Vec<_>>());
            compact(&lab.engine, zone, Goal::All, Options::new(Mode::Async));
            assert_eq!(block_1(), before);
            none_of_block_1(&(0..4).map(|page| device.peek(page)).collect::<Vec<_>>());
        },
    );
    assert!(free);
}

/// What a mover had set aside before goes back when it's its turn.
#[test]
fn what_movers_have_set_aside_is_not_used() {
    let (lab, hooked) = Hooked::lab(TlbKind::Soft, 2);
    let physical = lab.engine.physical();
    let mut ahead = AnyFree::new(physical, 1024);
    let first = ahead.take(Order::ZERO, None).unwrap();
    ahead.give_back(first);
    // All is set aside now. A block that is isolated from here on:
    let plan = Plan { empty: vec![Emptied { block: 1, pages: 0 }], ..Plan::default() };
    let mut act = Compaction::new(&lab.engine, &plan, Options::new(Mode::Async));
    let engine = lab.engine.clone();
    std::thread::scope(|scope| {
        let (isolated, until_isolated) = channel();
        let (looked, until_looked) = channel();
        hooked.at_next_barrier(move || {
            assert!(engine.physical().blocks().is_isolated(1));
            isolated.send(()).unwrap();
            until_looked.recv().unwrap();
        });
        let emptying = scope.spawn(move || act.next().unwrap());
        until_isolated.recv().unwrap();
        // As many as block 0 has.
        let got: Vec<FrozenFolio<'_>> = (0..512).map(|_| ahead.take(Order::ZERO, None).unwrap()).collect();
        none_of_block_1(&pfns(&got));
        got.into_iter().for_each(|folio| ahead.give_back(folio));
        looked.send(()).unwrap();
        emptying.join().unwrap();
    });
    drop(ahead);
    lab.assert_all_free(1024);
}

/// An allocation of several pageblocks is freed while one of them is isolated: blocks of 16 frames, an allocation of 64.
#[test]
fn a_larger_allocation_freed_meanwhile_gives_nothing_of_the_block() {
    let (lab, hooked) = Hooked::lab_of(TlbKind::Soft, &one_zone(512, 4));
    let physical = lab.engine.physical();
    let mut rest: Vec<FrozenFolio<'_>> = std::iter::from_fn(|| physical.alloc(order(6), Kind::Kernel).ok()).collect();
    let first = rest.iter().position(|folio| folio.pfn() == pfn(0)).unwrap();
    // Kept by the hook.
    let large = rest.remove(first).into_raw();
    drop(rest.remove(0));
    let plan = Plan { empty: vec![Emptied { block: 1, pages: 0 }], ..Plan::default() };
    let mut act = Compaction::new(&lab.engine, &plan, Options::new(Mode::Async));
    let engine = lab.engine.clone();
    hooked.at_next_barrier(move || {
        let physical = engine.physical();
        assert!(physical.blocks().is_isolated(1));
        drop(raw::frozen(physical, large));
        // Three halves are free: two of the rest, and the upper one of what was just freed.
        let got: Vec<FrozenFolio<'_>> = (0..3).map(|_| physical.alloc(order(5), Kind::Kernel).unwrap()).collect();
        assert!(got.iter().all(|folio| number(folio.pfn()) >= 32), "{got:?}: of an isolated block");
    });
    assert!(act.next().unwrap().free);
    drop(act);
    drop(rest);
    lab.assert_all_free(512);
}
