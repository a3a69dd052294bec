//! Handles: which numbers give a reference, what each handle gives back when it's dropped, and that a folio stays what it is as
//! long as somebody has it.
mod common;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
};

use common::*;
use pagemove::{
    folio::{FolioRef, FrozenFolio},
    frame::{Kind, Marks},
    migrate::{Mode, Options, split},
    units::{HUGE_ORDER, MAX_ORDER, Order, Pfn},
    zone::{Effort, Physical, Request},
};
use pagemove_hosted::TlbKind;
use rand::RngExt;

fn soft(blocks: u32) -> Lab {
    Lab::boot(hosted(TlbKind::Soft, blocks * 512, 4), &one_zone(blocks * 512, 9))
}

fn kernels(physical: &Arc<Physical>, order: Order) -> FrozenFolio<'_> {
    physical.alloc(order, Kind::Kernel).unwrap()
}

fn frames(pfn: Pfn, order: Order) -> impl Iterator<Item = Pfn> {
    (0..order.frames()).map(move |frame| pfn.up(frame))
}

/// References, mappings and pins of a frame, and whether it's locked or being written back.
fn holds(physical: &Physical, pfn: Pfn) -> ([u32; 3], bool, bool) {
    let frame = physical.frame(pfn);
    let writeback = frame.state().marks().contains(Marks::WRITEBACK);
    ([frame.refs(), frame.maps(), frame.pins()], physical.frames().is_locked(pfn), writeback)
}

#[test]
fn every_frame_of_a_folio_gives_its_head() {
    let lab = soft(4);
    let physical = lab.physical();
    for order in MAX_ORDER.up_to() {
        let folio = kernels(physical, order).publish();
        let head = folio.pfn();
        for pfn in frames(head, order) {
            let got = physical.get(pfn).unwrap();
            assert_eq!((got.pfn(), got.order()), (head, order), "{pfn}");
            assert_eq!(physical.frame(head).refs(), 2, "{pfn}");
            assert!(pfn == head || physical.frame(pfn).refs() == 0, "{pfn}: counted at a tail");
            drop(got);
            assert_eq!(physical.frame(head).refs(), 1, "{pfn}");
        }
        lab.validate();
        drop(folio);
        assert!(frames(head, order).all(|pfn| physical.get(pfn).is_none()), "order {}: freed", order.get());
        lab.assert_all_free(2048);
    }
}

#[test]
fn what_has_no_reference_gives_none() {
    let lab = soft(4);
    let physical = lab.physical();
    for order in MAX_ORDER.up_to() {
        let folio = kernels(physical, order);
        assert!(frames(folio.pfn(), order).all(|pfn| physical.get(pfn).is_none()), "order {}", order.get());
        // Nor has anybody left one behind.
        assert_eq!(holds(physical, folio.pfn()), ([0; 3], false, false));
        drop(folio);
        lab.assert_all_free(2048);
    }
    // Free, set aside on this CPU's list, and beyond the end of RAM.
    let listed = kernels(physical, Order::ZERO).pfn();
    assert_eq!(physical.frame(listed).state().kind(), Kind::PerCpu);
    assert!([listed, pfn(2048), Pfn::new(u64::MAX)].into_iter().all(|pfn| physical.get(pfn).is_none()));
}

/// Each frame of a 2 MiB page is its own folio once it's split, and gives itself.
#[test]
fn a_split_page_gives_the_parts() {
    on_both(4, |lab| {
        let process = lab.process();
        let at = huge(&process, 512);
        process.store(at.start(), 1).unwrap();
        let head = pfn_at(&process, at.start());
        process.space().munmap(part(at, 7, 1)).unwrap();
        assert!(frames(head, HUGE_ORDER).all(|pfn| lab.get(pfn).pfn() == head));
        drop(split(&lab.engine, lab.get(head).lock()).unwrap());
        for pfn in frames(head, HUGE_ORDER).filter(|&pfn| pfn != head.up(7)) {
            let folio = lab.get(pfn);
            assert_eq!((folio.pfn(), folio.order()), (pfn, Order::ZERO));
        }
        assert!(lab.physical().get(head.up(7)).is_none());
    });
}

/// Nothing that can move moves before its owner has published it.
#[test]
fn a_frozen_folio_is_left_alone_by_moves() {
    let lab = soft(4);
    for (kind, order) in [(Kind::Anon, Order::ZERO), (Kind::Anon, HUGE_ORDER), (Kind::Driver, Order::ZERO)] {
        let folio = lab.physical().alloc(order, kind).unwrap();
        folio.words(0)[0].store(7, Ordering::Relaxed);
        for mode in MODES {
            let outcome = lab.migrate_all(&[folio.pfn()], Options::new(mode));
            assert_eq!((outcome.moved, outcome.stayed), (0, vec![]), "{kind:?}");
        }
        assert_eq!(folio.words(0)[0].load(Ordering::Relaxed), 7);
        drop(folio);
        lab.assert_all_free(2048);
    }
}

/// Gives a published folio of each size to `act`: one of two references, which leaves all as it was, and the only one, with which
/// the folio goes.
fn leaves_nothing(what: &str, act: impl Fn(&Physical, FolioRef<'_>)) {
    let lab = soft(4);
    let physical = lab.physical();
    for order in [0, 1, 4, 9, 10].map(order) {
        let folio = kernels(physical, order).publish();
        let (pfn, state) = (folio.pfn(), physical.frame(folio.pfn()).state());
        act(physical, folio.clone());
        assert_eq!(holds(physical, pfn), ([1, 0, 0], false, false), "{what}, order {}", order.get());
        assert_eq!(physical.frame(pfn).state().class(), state.class(), "{what}");
        assert_eq!(lab.free_frames(), 2048 - order.frames(), "{what}");
        lab.validate();
        act(physical, folio);
        lab.assert_all_free(2048);
        assert!(physical.pins().all().is_empty(), "{what}");
    }
}

#[test]
fn frozen_folios_give_their_frames_back() {
    let lab = soft(4);
    let physical = lab.physical();
    for order in MAX_ORDER.up_to() {
        drop(kernels(physical, order));
        lab.assert_all_free(2048);
        drop(physical.alloc_with(&Request::new(order, Kind::Slab)).unwrap());
        lab.assert_all_free(2048);
        // Its only reference.
        drop(kernels(physical, order).publish());
        lab.assert_all_free(2048);
    }
    for pfn in [0, 511, 1024, 2047].map(pfn) {
        let folio = physical.alloc_exactly(pfn, Kind::Kernel).unwrap();
        assert_eq!((folio.pfn(), lab.free_frames()), (pfn, 2047));
        // What can't be had stays whose it is.
        assert!(physical.alloc_exactly(pfn, Kind::Kernel).is_none());
        assert_eq!((physical.frame(pfn).state().kind(), lab.free_frames()), (Kind::Kernel, 2047));
        drop(folio);
        lab.assert_all_free(2048);
    }
}

#[test]
fn references_give_themselves_back() {
    leaves_nothing("a reference", |_, folio| drop(folio));
    leaves_nothing("clones", |physical, folio| {
        let before = physical.frame(folio.pfn()).refs();
        let clones: Vec<_> = (0..5).map(|_| folio.clone()).collect();
        assert_eq!(physical.frame(folio.pfn()).refs(), before + 5);
        // In any order.
        drop(folio);
        drop(clones);
    });
}

#[test]
fn locked_folios_give_lock_and_reference_back() {
    leaves_nothing("a locked folio", |physical, folio| {
        let before = physical.frame(folio.pfn()).refs();
        let locked = folio.lock();
        assert_eq!(holds(physical, locked.pfn()), ([before, 0, 0], true, false));
    });
    leaves_nothing("an unlocked folio", |physical, folio| {
        let before = physical.frame(folio.pfn()).refs();
        let folio = folio.lock().unlock();
        assert_eq!(holds(physical, folio.pfn()), ([before, 0, 0], false, false));
    });
    leaves_nothing("a try", |physical, folio| {
        let before = physical.frame(folio.pfn()).refs();
        let locked = folio.try_lock().unwrap();
        assert_eq!(holds(physical, locked.pfn()), ([before, 0, 0], true, false));
        let again = locked.another_reference();
        assert_eq!((again.pfn(), physical.frame(again.pfn()).refs()), (locked.pfn(), before + 1));
        // The reference is still there, and so is the other holder's lock.
        let again = again.try_lock().unwrap_err();
        assert_eq!(holds(physical, again.pfn()), ([before + 1, 0, 0], true, false));
        drop(locked);
        assert_eq!(holds(physical, again.pfn()), ([before, 0, 0], false, false));
    });
}

#[test]
fn pins_give_pin_and_reference_back() {
    for write in [false, true] {
        leaves_nothing("a pin", |physical, folio| {
            let (pfn, before) = (folio.pfn(), physical.frame(folio.pfn()).refs());
            let pin = folio.pin(write, "nic");
            assert_eq!(holds(physical, pfn), ([before, 0, 1], false, false));
            assert_eq!((pin.pfn(), physical.pins().of(pfn).len()), (pfn, 1));
        });
    }
    leaves_nothing("a pin of a locked folio", |physical, folio| {
        let (locked, before) = (folio.clone().lock(), physical.frame(folio.pfn()).refs());
        let pin = locked.pin("nic");
        assert_eq!(holds(physical, locked.pfn()), ([before + 1, 0, 1], true, false));
        drop((folio, locked));
        assert_eq!(holds(physical, pin.pfn()), ([before - 1, 0, 1], false, false));
    });
}

#[test]
fn writebacks_give_mark_and_reference_back() {
    leaves_nothing("a writeback", |physical, folio| {
        let before = physical.frame(folio.pfn()).refs();
        let writeback = folio.start_writeback();
        assert_eq!(holds(physical, writeback.pfn()), ([before, 0, 0], false, true));
    });
}

#[test]
fn numbers_make_the_same_handles_again() {
    leaves_nothing("a raw reference", |physical, folio| {
        let before = physical.frame(folio.pfn()).refs();
        let memory = folio.physical();
        let pfn = folio.into_raw();
        assert_eq!(holds(physical, pfn), ([before, 0, 0], false, false), "nothing is given back");
        let folio = raw::counted(memory, pfn);
        assert_eq!(folio.pfn(), pfn);
    });
    leaves_nothing("a raw lock", |physical, folio| {
        let before = physical.frame(folio.pfn()).refs();
        let memory = folio.physical();
        let pfn = folio.lock().into_raw();
        assert_eq!(holds(physical, pfn), ([before, 0, 0], true, false), "nothing is given back");
        let locked = raw::locked(memory, pfn);
        assert_eq!(locked.pfn(), pfn);
    });
    let lab = soft(4);
    for order in MAX_ORDER.up_to() {
        let pfn = kernels(lab.physical(), order).into_raw();
        assert_eq!((lab.free_frames(), lab.physical().frame(pfn).refs()), (2048 - order.frames(), 0));
        let folio = raw::frozen(lab.physical(), pfn);
        assert_eq!((folio.pfn(), folio.order()), (pfn, order));
        drop(folio);
        lab.assert_all_free(2048);
    }
}

#[test]
fn contents_are_those_of_each_frame() {
    let lab = soft(4);
    let physical = lab.physical();
    for order in [0, 3, 9].map(order) {
        let mut folio = kernels(physical, order);
        for frame in 0..order.frames() {
            folio.words(frame).iter().for_each(|word| word.store(u64::from(frame) + 1, Ordering::Relaxed));
        }
        for (frame, pfn) in frames(folio.pfn(), order).enumerate() {
            let mut words = raw::words(physical, pfn).iter();
            assert!(words.all(|word| word.load(Ordering::Relaxed) == frame as u64 + 1));
        }
        folio.zero();
        let is_zero = |frame| folio.words(frame).iter().all(|word| word.load(Ordering::Relaxed) == 0);
        assert!((0..order.frames()).all(is_zero));
        // There is no frame behind the last one.
        let (beyond, folio) = (order.frames(), folio.publish());
        let pin = folio.clone().pin(true, "nic");
        let locked = folio.clone().lock();
        let ways: [&dyn Fn() -> bool; 3] =
            [&|| folio.words(beyond).is_empty(), &|| locked.words(beyond).is_empty(), &|| pin.words(beyond).is_empty()];
        for way in ways {
            assert!(catch_unwind(AssertUnwindSafe(way)).is_err(), "frame {beyond} of {beyond}");
        }
    }
    lab.assert_all_free(2048);
}

/// An index takes a folio only if it has room for it, and gives it again otherwise.
#[test]
fn an_index_gives_a_folio_again_that_has_no_place() {
    on_both(1, |lab| {
        let device = Device::open(lab);
        let index = &device.driver.index;
        let first = device.fill(3, 7);
        let second = lab.physical().alloc(Order::ZERO, Kind::Driver).unwrap();
        let pfn = second.pfn();
        let second = index.insert(3, second).unwrap_err();
        assert_eq!((second.pfn(), index.peek(3), lab.physical().frame(pfn).refs()), (pfn, Some(first), 0));
        let locked = index.insert(4, second).unwrap();
        assert_eq!((locked.pfn(), index.peek(4)), (pfn, Some(pfn)));
        assert_eq!(holds(lab.physical(), pfn), ([2, 0, 0], true, false), "the index's reference, and the caller's");
        drop(locked);
        assert_eq!(holds(lab.physical(), pfn), ([1, 0, 0], false, false));
        lab.migrate(pfn, Mode::Sync).unwrap();
        assert_ne!(index.peek(4), Some(pfn));
    });
}

/// Nor does it take one of another kind, size or memory.
#[test]
fn an_index_refuses_what_is_none_of_its_pages() {
    let (lab, other) = (soft(2), soft(1));
    let device = Device::open(&lab);
    let of_another_kind = (&lab, 0, Kind::Kernel, 0);
    let unaligned = [(&lab, 1, Kind::Driver, 1), (&lab, 9, Kind::Driver, 256), (&lab, 10, Kind::Driver, 0)];
    for (of, order, kind, at) in [of_another_kind, (&other, 0, Kind::Driver, 0)].into_iter().chain(unaligned) {
        let folio = of.physical().alloc(common::order(order), kind).unwrap();
        let insert = AssertUnwindSafe(|| drop(device.driver.index.insert(at, folio)));
        assert!(catch_unwind(insert).is_err(), "{kind:?} of order {order}");
        assert!(device.driver.index.is_empty());
    }
    lab.assert_all_free(1024);
    other.assert_all_free(512);
}

/// What the race's folios hold in each frame, so that one which was taken for another shows.
fn label(head: Pfn, order: Order) -> u64 {
    head.get() << 8 | u64::from(order.get())
}

/// Frames of the race, all in one naturally aligned run.
const RACED: Order = match Order::new(4) {
    Some(order) => order,
    None => Order::ZERO,
};
/// Rounds of each thread, at least: it goes on until all have done theirs.
const ROUNDS: u32 = 100_000;

/// Threads look frames up by number while others free them and allocate them again, as parts of folios of other orders.
#[test]
fn who_looks_a_frame_up_gets_the_folio_that_it_belongs_to() {
    let lab = Lab::boot(hosted(TlbKind::Soft, 512, 4), &one_zone(512, 9));
    let physical = lab.physical();
    // All else is taken.
    let mut rest = lab.take_all(Kind::Kernel);
    let raced = |pfn: Pfn| number(pfn) >> RACED.get() == 3;
    rest.retain(|folio| !raced(folio.pfn()));
    physical.drain_cpu_lists();
    assert_eq!(lab.free_frames(), RACED.frames());
    let first = pfn(3 << RACED.get());
    let (over, at_it, orders) = (AtomicBool::new(false), AtomicU32::new(4), AtomicU32::new(0));
    let rounds = |mut round: Box<dyn FnMut() + '_>| {
        // All end with the first one, also if that fails.
        let _end = SetAtEnd(&over);
        (0..ROUNDS).for_each(|_| round());
        at_it.fetch_sub(1, Ordering::Relaxed);
        while at_it.load(Ordering::Relaxed) > 0 && !over.load(Ordering::Relaxed) {
            round();
        }
    };
    let churn = |seed| {
        let mut rng = rng(seed);
        // The last ones, so that some memory is in use at any time.
        let mut held: Vec<FolioRef<'_>> = Vec::new();
        rounds(Box::new(|| {
            // Base pages seldom: they go by the CPUs' lists, and draining these takes its time.
            let least = u8::from(!rng.random_ratio(1, 64));
            let effort = if held.is_empty() { Effort::Drain } else { Effort::Lists };
            let request = Request::new(order(rng.random_range(least..=RACED.get())), Kind::Kernel);
            if let Ok(folio) = physical.alloc_with(&request.with_effort(effort)) {
                let label = label(folio.pfn(), folio.order());
                (0..folio.order().frames()).for_each(|frame| folio.words(frame)[5].store(label, Ordering::Relaxed));
                held.push(folio.publish());
            }
            while held.len() > rng.random_range(0..4) {
                drop(held.swap_remove(rng.random_range(0..held.len())));
            }
        }));
    };
    let look = |seed| {
        let mut rng = rng(seed);
        rounds(Box::new(|| {
            let pfn = first.up(rng.random_range(0..RACED.frames()));
            let Some(folio) = physical.get(pfn) else { return };
            let (head, order) = (folio.pfn(), folio.order());
            let stays = || {
                assert_eq!((folio.pfn(), folio.order()), (head, order));
                assert!(head.is_aligned(order) && pfn.align_down(order) == head, "{head} has not {pfn}");
                let kind = physical.frame(pfn).state().kind();
                assert_eq!(kind, if pfn == head { Kind::Kernel } else { Kind::Tail });
                let found = folio.words(pfn.offset_from(head))[5].load(Ordering::Relaxed);
                assert_eq!(found, label(head, order), "{pfn} is another folio's");
            };
            stays();
            // With a second reference by the same number.
            assert_eq!(physical.get(pfn).unwrap().pfn(), head);
            stays();
            orders.fetch_or(1 << order.get(), Ordering::Relaxed);
        }));
    };
    thread::scope(|scope| {
        for seed in [1, 2] {
            scope.spawn(move || churn(seed));
            scope.spawn(move || look(seed + 2));
        }
    });
    let orders = orders.into_inner();
    assert!(orders.count_ones() > 1, "looks found folios of few orders: {orders:#b}");
    lab.validate();
    drop(rest);
    lab.assert_all_free(512);
}
