//! The allocator: all orders, exhaustion, migratetypes and their fallback, merging, single frames, and summaries.
mod common;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, atomic::Ordering},
};

use common::*;
use pagemove::{
    folio::{FolioRef, FrozenFolio},
    frame::{Class, Kind},
    migrate::Mode,
    report::Reason,
    units::{MAX_ORDER, Order, Pfn},
    zone::{AllocError, Effort, Migratetype, Physical, Request},
};
use pagemove_hosted::TlbKind;
use rand::{Rng, RngExt};

const SOFT: TlbKind = TlbKind::Soft;

fn lab(blocks: u32, cpus: usize) -> Lab {
    Lab::boot(hosted(SOFT, blocks * 512, cpus), &one_zone(blocks * 512, 9))
}

/// Does `act` on as many threads as there are processors, all alive at once, so that each is one.
fn on_processors(cpus: usize, act: impl Fn(usize) + Sync) {
    let all = std::sync::Barrier::new(cpus);
    std::thread::scope(|scope| {
        for cpu in 0..cpus {
            let (all, act) = (&all, &act);
            scope.spawn(move || {
                all.wait();
                act(cpu);
                all.wait();
            });
        }
    });
}

/// Frees each part on a processor of its own.
fn free_on_processors(parts: Vec<Vec<FrozenFolio<'_>>>) {
    let parts: Vec<_> = parts.into_iter().map(Mutex::new).collect();
    on_processors(parts.len(), |cpu| parts[cpu].lock().unwrap().clear());
}

fn class_counts(physical: &Physical) -> HashMap<Class, u32> {
    let mut counts = HashMap::new();
    for number in 0..physical.blocks().count() {
        for class in Class::ALL {
            *counts.entry(class).or_default() += physical.blocks().summary(number).of(class);
        }
    }
    counts
}

#[test]
fn every_order_is_aligned_counted_and_merged_again() {
    let lab = lab(4, 1);
    let physical = lab.engine.physical();
    for order in MAX_ORDER.up_to() {
        let folio = physical.alloc(order, Kind::Kernel).unwrap();
        let pfn = folio.pfn();
        assert!(pfn.is_aligned(order));
        let state = physical.frame(pfn).state();
        assert_eq!((state.kind(), state.class(), state.order()), (Kind::Kernel, Class::Kernel, order));
        assert_eq!((physical.frame(pfn).refs(), physical.frame(pfn).maps()), (0, 0));
        let folio = folio.publish();
        assert_eq!((physical.frame(pfn).refs(), physical.frame(pfn).maps()), (1, 0));
        if order > Order::ZERO {
            assert_eq!(physical.frame(pfn.up(order.frames() - 1)).state().kind(), Kind::Tail);
        }
        assert_eq!(lab.free_frames(), 2048 - order.frames());
        lab.validate();
        drop(folio);
        lab.assert_all_free(2048);
    }
}

#[test]
fn a_zone_gives_all_it_has_of_each_order_and_then_says_which_is_missing() {
    for order in MAX_ORDER.up_to() {
        let lab = lab(4, 2);
        let physical = lab.engine.physical();
        let mut got = Vec::new();
        let error = loop {
            match physical.alloc(order, Kind::Anon) {
                Ok(folio) => got.push(folio.publish()),
                Err(error) => break error,
            }
        };
        assert_eq!(error, AllocError { order, zone: None, node: None, below: None });
        assert!(error.to_string().contains(&order.frames().to_string()));
        assert_eq!(got.len() as u32 * order.frames(), 2048);
        lab.validate();
        let mut pfns: Vec<Pfn> = got.iter().map(|folio| folio.pfn()).collect();
        pfns.sort();
        pfns.dedup();
        assert_eq!(pfns.len() as u32 * order.frames(), 2048);
        drop(got);
        lab.assert_all_free(2048);
    }
}

#[test]
fn the_last_of_several_references_frees() {
    let lab = lab(1, 1);
    let physical = lab.engine.physical();
    let folio = physical.alloc(order(3), Kind::Kernel).unwrap().publish();
    drop(folio.clone());
    assert_eq!(lab.free_frames(), 504);
    drop(folio);
    lab.assert_all_free(512);
}

#[test]
fn nobody_gets_a_frozen_allocation_but_who_made_it() {
    let lab = lab(4, 1);
    let physical = lab.engine.physical();
    for order in MAX_ORDER.up_to() {
        let folio = physical.alloc(order, Kind::Kernel).unwrap();
        assert!(physical.get(folio.pfn()).is_none(), "{order:?}");
        assert_eq!(lab.free_frames(), 2048 - order.frames());
        lab.validate();
        assert_eq!(lab.migrate(folio.pfn(), Mode::Sync), Err(Reason::Unmovable), "{order:?}");
        drop(folio);
        assert_eq!(lab.free_frames(), 2048);
        lab.validate();
    }
}

#[test]
#[should_panic(expected = "is freed in use")]
fn a_frozen_freeing_of_a_page_that_somebody_has_is_refused() {
    let lab = lab(1, 1);
    let folio = lab.physical().alloc(Order::ZERO, Kind::Kernel).unwrap().publish();
    drop(raw::frozen(lab.physical(), folio.into_raw()));
}

#[test]
fn types_keep_to_pageblocks_of_their_own_while_there_are_any() {
    let lab = lab(8, 1);
    let physical = lab.engine.physical();
    let blocks = physical.blocks();
    let mut of_block = HashMap::new();
    let mut held = Vec::new();
    for turn in 0..600 {
        let kind = [Kind::Anon, Kind::PageTable, Kind::Slab][turn % 3];
        let folio = physical.alloc(Order::ZERO, kind).unwrap();
        let number = blocks.number(folio.pfn());
        assert_eq!(*of_block.entry(number).or_insert(kind), kind, "two types in one pageblock");
        held.push(folio);
    }
    for (&number, &kind) in &of_block {
        let expected = match kind {
            Kind::Anon => Migratetype::Movable,
            Kind::PageTable => Migratetype::Unmovable,
            _ => Migratetype::Reclaimable,
        };
        assert_eq!(blocks.migratetype(number), expected);
    }
    drop(held);
    lab.assert_all_free(4096);
}

#[test]
fn any_type_may_use_the_last_frame_of_any_other() {
    for (first, then) in [(Kind::Anon, Kind::PageTable), (Kind::PageTable, Kind::Slab), (Kind::Slab, Kind::Anon)] {
        let lab = lab(2, 2);
        let physical = lab.engine.physical();
        let alloc = |kind| physical.alloc(Order::ZERO, kind).unwrap().publish();
        let mut held: Vec<FolioRef<'_>> = (0..700).map(|_| alloc(first)).collect();
        held.extend((0..324).map(|_| alloc(then)));
        assert_eq!(lab.free_frames(), 0);
        assert!(physical.alloc(Order::ZERO, first).is_err() && physical.alloc(Order::ZERO, then).is_err());
        lab.validate();
        drop(held);
        lab.assert_all_free(1024);
    }
}

#[test]
fn a_pageblock_changes_its_type_only_if_half_of_it_is_free() {
    for (used, converted) in [(128, true), (300, false)] {
        let lab = lab(1, 1);
        let physical = lab.engine.physical();
        let alloc = |kind| physical.alloc(Order::ZERO, kind).unwrap().publish();
        let mut held: Vec<FolioRef<'_>> = (0..used).map(|_| alloc(Kind::Anon)).collect();
        held.push(alloc(Kind::PageTable));
        let expected = if converted { Migratetype::Unmovable } else { Migratetype::Movable };
        assert_eq!(physical.blocks().migratetype(0), expected);
        lab.validate();
        drop(held);
        lab.assert_all_free(512);
    }
}

#[test]
fn a_larger_block_is_found_though_its_frames_lie_on_processors_lists() {
    let lab = lab(2, 4);
    let physical = lab.engine.physical();
    let mut parts: Vec<Vec<FrozenFolio<'_>>> = (0..4).map(|_| Vec::new()).collect();
    (0..1024).for_each(|number| parts[number % 4].push(physical.alloc(Order::ZERO, Kind::Anon).unwrap()));
    free_on_processors(parts);
    assert_eq!(lab.free_frames(), 1024);
    drop(physical.alloc(MAX_ORDER, Kind::Anon).unwrap());
    lab.assert_all_free(1024);
}

#[test]
fn single_frames_are_taken_by_number() {
    let lab = lab(2, 2);
    let physical = lab.engine.physical();
    let is_taken = |pfn, kind| physical.alloc_exactly(pfn, kind).is_none();
    let mut held = BTreeMap::new();
    for number in [0, 1, 511, 512, 1023, 700] {
        let pfn = pfn(number);
        held.insert(number, physical.alloc_exactly(pfn, Kind::Driver).unwrap().publish());
        assert_eq!(physical.frame(pfn).state().kind(), Kind::Driver);
        assert!(is_taken(pfn, Kind::Driver), "frame {number} was given twice");
        lab.validate();
    }
    assert_eq!(physical.blocks().summary(0).of(Class::DriverUnmapped), 3);
    assert!(is_taken(pfn(1024), Kind::Kernel));
    // Inside a larger allocation, at its head and at its tail.
    let larger = physical.alloc(order(4), Kind::Kernel).unwrap();
    let (head, tail) = (larger.pfn(), larger.pfn().up(15));
    assert!(is_taken(head, Kind::Kernel) && is_taken(tail, Kind::Kernel));
    drop(larger);
    assert!(!is_taken(tail, Kind::Kernel));
    for number in [700, 0, 1023, 512, 511, 1] {
        drop(held.remove(&number));
    }
    lab.assert_all_free(1024);
}

/// A random history of allocations and frees, checked against a model: which frames, of which class.
fn history(lab: &Lab, seed: u64, steps: u32) {
    let mut rng = rng(seed);
    let physical = lab.engine.physical();
    let mut held: Vec<(FolioRef<'_>, Order, Class)> = Vec::new();
    for step in 0..steps {
        if rng.random_range(0..100) < 55 || held.is_empty() {
            // Small ones mostly, as in life.
            let order = order(rng.random::<u16>().trailing_zeros().min(10) as u8);
            let kinds = [Kind::Anon, Kind::File, Kind::Driver, Kind::Slab, Kind::Kernel, Kind::PageTable];
            let kind = kinds[rng.random_range(0..kinds.len())];
            if let Ok(folio) = physical.alloc(order, kind) {
                held.push((folio.publish(), order, kind.first_class()));
            }
        } else {
            drop(held.swap_remove(rng.random_range(0..held.len())));
        }
        if step % 256 == 0 {
            // What lies on lists counts as what it mostly was.
            physical.drain_cpu_lists();
            let mut expected: HashMap<Class, u32> = HashMap::new();
            held.iter().for_each(|(_, order, class)| *expected.entry(*class).or_default() += order.frames());
            let used: u32 = expected.values().sum();
            let seen = class_counts(physical);
            for class in Class::ALL.into_iter().filter(|&class| class != Class::Free) {
                assert_eq!(seen[&class], expected.get(&class).copied().unwrap_or(0), "seed {seed}: {class:?}");
            }
            assert_eq!(seen[&Class::Free], physical.frames().len() - used, "seed {seed}");
            assert_eq!(lab.free_frames(), physical.frames().len() - used, "seed {seed}");
            physical.validate().unwrap_or_else(|invalid| panic!("seed {seed}, step {step}: {invalid}"));
        }
    }
}

#[test]
fn random_histories_keep_all_counts_true_and_merge_to_the_full() {
    for (seed, pageblock_order) in [(1, 9), (2, 9), (3, 4), (4, 10), (5, 1)] {
        let lab = Lab::boot(hosted(SOFT, 4096, 4), &one_zone(4096, pageblock_order));
        history(&lab, seed, 2000);
        lab.assert_all_free(4096);
    }
}

/// Frames wander between threads on different processors: who frees is seldom who allocated.
#[test]
fn several_processors_at_once_lose_no_frame() {
    for seed in 0..3u64 {
        let lab = lab(4, 4);
        let physical = lab.engine.physical();
        let pool: Mutex<Vec<FolioRef<'_>>> = Mutex::default();
        std::thread::scope(|scope| {
            for cpu in 0..4 {
                let pool = &pool;
                scope.spawn(move || {
                    let mut rng = rng(seed * 10 + cpu as u64);
                    for _ in 0..4000 {
                        if rng.random_bool(0.52) {
                            let order = order(rng.random_range(0..8u8).saturating_sub(4));
                            let kind = [Kind::Anon, Kind::Slab, Kind::Kernel][rng.random_range(0..3)];
                            if let Ok(folio) = physical.alloc(order, kind) {
                                // Nobody else has it, or this write would show in his frame.
                                let mark = rng.next_u64();
                                folio.words(0)[0].store(mark, Ordering::Relaxed);
                                assert_eq!(folio.words(0)[0].load(Ordering::Relaxed), mark);
                                pool.lock().unwrap().push(folio.publish());
                            }
                        } else {
                            let folio = {
                                let mut pool = pool.lock().unwrap();
                                let held = pool.len();
                                (held > 0).then(|| pool.swap_remove(rng.random_range(0..held)))
                            };
                            drop(folio);
                        }
                    }
                });
            }
        });
        lab.validate();
        drop(pool);
        lab.assert_all_free(2048);
    }
}

#[test]
fn candidates_for_compaction_are_just_the_blocks_with_work_in_them() {
    let lab = lab(8, 1);
    let physical = lab.engine.physical();
    let candidates = || {
        let mut seen = Vec::new();
        physical.blocks().for_each_candidate(range(0, 4096), |number, _| seen.push(number));
        seen
    };
    assert_eq!(candidates(), []);
    let alloc = |number, kind| physical.alloc_exactly(pfn(number), kind).unwrap();
    let [kernel, anon, driver] =
        [(600, Kind::Kernel), (1500, Kind::Anon), (2600, Kind::Driver)].map(|(number, kind)| alloc(number, kind));
    assert_eq!(candidates(), [1, 2, 5]);
    // Full of what can't move: nothing to be done with it.
    let rest: Vec<_> = (512..1024).filter(|&number| number != 600).map(|number| alloc(number, Kind::Kernel)).collect();
    assert_eq!(candidates(), [2, 5]);
    drop((rest, kernel, anon));
    physical.drain_cpu_lists();
    assert_eq!(candidates(), [5]);
    drop(driver);
    // On a processor's list a frame counts as what it mostly was.
    physical.drain_cpu_lists();
    assert_eq!(candidates(), []);
    lab.assert_all_free(4096);
}

/// Frames on the processor's own lists of other types are found as well.
#[test]
fn with_one_processor_the_last_frame_can_be_had_too() {
    let lab = Lab::boot(hosted(TlbKind::Soft, 512, 1), &one_zone(512, 9));
    let physical = lab.engine.physical();
    let _table = physical.alloc(order(0), Kind::PageTable).unwrap();
    let _all = lab.take_all(Kind::Anon);
    assert_eq!(lab.free_frames(), 0);
}

#[test]
fn a_frame_on_a_processors_list_can_be_had_by_number() {
    let lab = Lab::boot(hosted(TlbKind::Soft, 512, 1), &one_zone(512, 9));
    let physical = lab.engine.physical();
    let pfn = physical.alloc(order(0), Kind::Anon).unwrap().pfn();
    assert!(physical.alloc_exactly(pfn, Kind::Driver).is_some());
}

#[test]
#[should_panic(expected = "is freed in use")]
fn frozen_frames_are_not_freed_twice() {
    let lab = lab(1, 1);
    let physical = lab.engine.physical();
    let pfn = physical.alloc(order(3), Kind::Kernel).unwrap().into_raw();
    drop(raw::frozen(physical, pfn));
    drop(raw::frozen(physical, pfn));
}

#[test]
#[should_panic(expected = "nothing is allocated as")]
fn nothing_is_allocated_as_free() {
    let _ = lab(1, 1).engine.physical().alloc(Order::ZERO, Kind::Free);
}

/// A request that looks at the free lists only leaves what other CPUs have on theirs.
#[test]
fn an_allocation_goes_as_far_as_it_is_told() {
    let lab = lab(1, 4);
    let physical = lab.engine.physical();
    let mut held = lab.take_all(Kind::Anon);
    let parts = vec![held.drain(..1).collect(), held.drain(..20).collect()];
    free_on_processors(parts);
    let request = Request::new(order(4), Kind::Kernel);
    assert!(physical.alloc_with(&request.with_effort(Effort::Lists)).is_err());
    drop(physical.alloc_with(&request.with_effort(Effort::Drain)).unwrap());
    drop(held);
    lab.assert_all_free(512);
}
