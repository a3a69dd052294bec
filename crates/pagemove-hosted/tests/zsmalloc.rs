//! zsmalloc on the engine: objects keep their contents while their pages move and while they are moved together; what is refused, and
//! what others got wrong.
//!
//! Varied: lengths (all), chains, modes, readers and writers, compaction of objects against moves of pages, memory full. Not varied: orders
//! (all pages are base folios), interleavings (those are the models' and schedules').
mod common;

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
};

use common::*;
use pagemove::{
    compact::{Goal, compact},
    frame::Kind,
    migrate::{Mode, Mover, Options, TheseFrames},
    report::Reason,
    units::{HUGE_ORDER, PAGE_SIZE},
    zone::{Config, Effort},
};
use pagemove_drivers::zsmalloc::{Compacted, Object, Options as Settings, Pool, StoreError};
use pagemove_hosted::{TlbKind, enter_cpu};
use rand::RngExt;

fn lab() -> Lab {
    Lab::new(TlbKind::Soft, 8)
}

fn pool(lab: &Lab) -> Pool {
    Pool::new(&lab.engine, Settings::new("a pool"))
}

/// Bytes that depend on all of their place.
fn bytes(seed: u64, length: usize) -> Vec<u8> {
    (0..length as u64).map(|at| (seed.wrapping_mul(31) ^ at ^ at >> 8) as u8).collect()
}

fn contents(object: &Object, length: usize) -> Vec<u8> {
    let mut found = vec![0; length];
    object.read().copy_to(0, &mut found);
    found
}

#[test]
fn objects_of_all_lengths_keep_their_bytes_while_their_pages_move() {
    for chain in [1, 3, 8, 16] {
        let lab = lab();
        let free = lab.free_frames();
        let pool = Pool::new(&lab.engine, Settings::new("a pool").with_chain(chain));
        let objects: Vec<Object> =
            (1..=PAGE_SIZE).map(|length| pool.store(&bytes(length as u64, length)).unwrap()).collect();
        for mode in MODES {
            let stats = pool.stats();
            assert_eq!(lab.move_drivers(mode).moved, stats.pages);
            for (object, length) in objects.iter().zip(1..) {
                assert!(object.size() >= length);
                assert_eq!(contents(object, length), bytes(length as u64, length), "{length} bytes, {mode:?}");
            }
        }
        // Any part, across the end of a page or not.
        let (long, all) = (&objects[2999], bytes(3000, 3000));
        for offset in (0..3000).step_by(37) {
            let mut part = [0; 100];
            let part = &mut part[..100.min(3000 - offset)];
            long.read().copy_to(offset, part);
            assert_eq!(part, &all[offset..][..part.len()]);
        }
        assert_eq!(pool.stats().objects, PAGE_SIZE as u64);
        drop(objects);
        assert_eq!((pool.stats().objects, pool.stats().pages), (0, 0), "chains of {chain}");
        lab.assert_all_free(free);
    }
}

#[test]
fn what_is_written_to_a_part_leaves_the_rest() {
    let lab = lab();
    let pool = pool(&lab);
    for length in [1, 7, 33, 1000, 2500, 4096] {
        // Neighbours, between which it lies.
        let mut objects: Vec<Object> = (0..20).map(|seed| pool.store(&bytes(seed, length)).unwrap()).collect();
        let mut expected: Vec<Vec<u8>> = (0..20).map(|seed| bytes(seed, length)).collect();
        let mut rng = rng(length as u64);
        for _ in 0..200 {
            let (of, from) = (rng.random_range(0..20), rng.random_range(0..length));
            let to = rng.random_range(from..=length);
            let new = bytes(rng.random_range(0..1000), to - from);
            objects[of].write().copy_from(from, &new);
            expected[of][from..to].copy_from_slice(&new);
            lab.move_drivers(Mode::Async);
        }
        for (object, expected) in objects.iter().zip(&expected) {
            assert_eq!(&contents(object, length), expected, "{length} bytes");
        }
    }
    lab.validate();
}

#[test]
fn bad_lengths_are_refused() {
    let lab = lab();
    let pool = pool(&lab);
    for length in [0, PAGE_SIZE + 1, usize::MAX] {
        assert_eq!(pool.alloc(length).err(), Some(StoreError::BadLength(length)));
        assert_eq!(pool.usable_size(length), None);
    }
    assert_eq!(pool.stats().pages, 0);
    let mut object = pool.alloc(100).unwrap();
    let size = object.size();
    assert_eq!(pool.usable_size(100), Some(size));
    for (offset, length) in [(size, 1), (0, size + 1), (usize::MAX, 2)] {
        let guard = object.write();
        let beyond =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| guard.copy_to(offset, &mut vec![0; length])));
        assert!(beyond.is_err(), "{length} bytes from {offset} on");
    }
}

#[test]
#[should_panic(expected = "another pool")]
fn a_token_is_of_its_pool() {
    let lab = Lab::leaked(2);
    let (one, two) = (pool(lab), pool(lab));
    let token = one.store(b"one").unwrap().into_token();
    drop(two.object(token));
}

#[test]
fn tokens_stand_for_objects() {
    let lab = lab();
    let free = lab.free_frames();
    let pool = pool(&lab);
    let tokens: Vec<_> = (0..500).map(|seed| pool.store(&bytes(seed, 700)).unwrap().into_token()).collect();
    lab.move_drivers(Mode::Async);
    for (token, seed) in tokens.iter().zip(0..) {
        let mut found = vec![0; 700];
        pool.read(token).copy_to(0, &mut found);
        assert_eq!(found, bytes(seed, 700));
    }
    tokens.into_iter().take(250).for_each(|token| drop(pool.object(token)));
    assert_eq!(pool.stats().objects, 250);
    // Those whose tokens are lost end with the pool.
    drop(pool);
    lab.assert_all_free(free);
}

#[test]
fn objects_are_moved_together() {
    let lab = lab();
    let free = lab.free_frames();
    let pool = pool(&lab);
    let mut rng = rng(7);
    let mut objects: BTreeMap<u64, (usize, Object)> = BTreeMap::new();
    for seed in 0..3000 {
        let length = [100, 900, 2100, 3500][rng.random_range(0..4)];
        objects.insert(seed, (length, pool.store(&bytes(seed, length)).unwrap()));
    }
    objects.retain(|_, _| rng.random_range(0..4) == 0);
    let (before, could) = (pool.stats(), pool.compactable_pages());
    assert!(could > before.pages / 2, "{could} of {}", before.pages);
    // A bound, then all.
    let some = pool.compact(10);
    assert!((10..10 + 8).contains(&some.pages), "{some:?}");
    let rest = pool.compact(u64::MAX);
    assert_eq!(some.pages + rest.pages, could);
    assert_eq!((pool.stats().pages, pool.compactable_pages()), (before.pages - could, 0));
    assert_eq!(pool.compact(u64::MAX), Compacted::default(), "there is nothing left to do");
    for (&seed, (length, object)) in &objects {
        assert_eq!(contents(object, *length), bytes(seed, *length));
    }
    lab.move_drivers(Mode::Sync);
    drop(objects);
    assert_eq!(pool.stats().pages, 0);
    lab.assert_all_free(free);
}

#[test]
fn an_object_that_is_read_stays() {
    let lab = lab();
    let pool = pool(&lab);
    let mut objects: Vec<Object> = (0..400).map(|seed| pool.store(&bytes(seed, 1000)).unwrap()).collect();
    let mut number = 0;
    objects.retain(|_| {
        number += 1;
        number % 3 == 0
    });
    let could = pool.compactable_pages();
    {
        // One object of each zspage, perhaps.
        let held: Vec<_> = objects.iter().map(Object::read).collect();
        assert_eq!(pool.compact(u64::MAX).objects, 0);
        assert_eq!(pool.compactable_pages(), could);
        drop(held);
    }
    let class = pool.classes().into_iter().find(|class| class.used > 0).unwrap();
    let one = objects[0].read();
    let freed = pool.compact(u64::MAX).pages;
    assert!(freed >= could - u64::from(class.class.pages) && freed < class.pages, "only one zspage is passed over");
    drop(one);
    for (object, seed) in objects.iter().zip((2..).step_by(3)) {
        assert_eq!(contents(object, 1000), bytes(seed, 1000));
    }
    lab.validate();
}

/// A move has its page locked. Freeing doesn't wait for it, and takes nothing from it.
#[test]
fn past_bug_zsmalloc_freed_while_a_page_moves() {
    let lab = lab();
    let free = lab.free_frames();
    let pool = pool(&lab);
    let objects: Vec<Object> = (0..8).map(|seed| pool.store(&bytes(seed, 2000)).unwrap()).collect();
    let of_it = lab.frames_of(Kind::Driver);
    let locked = lab.get(of_it[0]).lock();
    let pages = pool.stats().pages;
    drop(objects);
    assert_eq!(pool.stats().objects, 0);
    assert!(pool.stats().pages > 0 && pool.stats().pages <= pages, "its zspage is empty, and still there");
    // It may be used again meanwhile.
    let again = pool.store(&bytes(9, 2000)).unwrap();
    drop(locked);
    assert_eq!(contents(&again, 2000), bytes(9, 2000));
    drop(again);
    assert_eq!(pool.stats().pages, 0);
    lab.assert_all_free(free);
}

/// What became empty during a move is freed by the next to come.
#[test]
fn past_bug_zsmalloc_empty_zspages_that_stay() {
    let lab = lab();
    let pool = pool(&lab);
    let deeds: [fn(&Pool); 2] = [|pool| drop(pool.store(&[1; 2000])), |pool| assert_eq!(pool.compact(1).objects, 0)];
    for deed in deeds {
        let object = pool.store(&bytes(1, 2000)).unwrap();
        let locked = lab.get(*lab.frames_of(Kind::Driver).last().unwrap()).lock();
        drop(object);
        assert!(pool.stats().pages > 0);
        drop(locked);
        deed(&pool);
        assert_eq!(pool.stats().pages, 0);
    }
}

/// As many as there are, and also behind one that stays locked.
#[test]
fn all_empty_zspages_are_freed() {
    let lab = lab();
    let pool = pool(&lab);
    let objects: Vec<Object> = (0..40).map(|seed| pool.store(&bytes(seed, 4000)).unwrap()).collect();
    let mut locked: Vec<_> = lab.frames_of(Kind::Driver).into_iter().map(|pfn| lab.get(pfn).lock()).collect();
    drop(objects);
    assert_eq!((pool.stats().objects, pool.stats().pages), (0, 40));
    let last = locked.pop();
    drop(locked);
    assert_eq!(pool.compact(u64::MAX).pages, 39);
    assert_eq!(pool.compactable_pages(), 1);
    drop(last);
    assert_eq!(pool.compact(u64::MAX).pages, 1);
    lab.validate();
}

#[test]
fn past_bug_zsmalloc_counts_of_zones_after_a_move_between_them() {
    let lab =
        Lab::boot(hosted(TlbKind::Soft, 4096, 3), &Config::new(vec![range(0, 2048), range(2048, 2048)], HUGE_ORDER));
    let free = lab.free_frames();
    let pool = pool(&lab);
    let objects: Vec<Object> = (0..50).map(|seed| pool.store(&bytes(seed, 3000)).unwrap()).collect();
    for _ in 0..2 {
        let from = lab.frames_of(Kind::Driver);
        // The pageblocks of the other zone.
        let blocks = if from[0] < pfn(2048) { 4..8 } else { 0..4 };
        let mut destination = TheseFrames::new(lab.physical(), blocks);
        let outcome = Mover::new(&lab.engine).migrate(&from, &mut destination, Options::new(Mode::Sync));
        assert_eq!(outcome.moved, from.len() as u64);
        drop(destination);
        lab.validate();
    }
    for (object, seed) in objects.iter().zip(0..) {
        assert_eq!(contents(object, 3000), bytes(seed, 3000));
    }
    drop(objects);
    lab.assert_all_free(free);
}

#[test]
fn past_bug_zsmalloc_a_reader_that_sleeps_through_all_tries() {
    let lab = lab();
    let pool = pool(&lab);
    // Two pages, of which the object has a part each.
    let objects: Vec<Object> = (0..4).map(|seed| pool.store(&bytes(seed, 3000)).unwrap()).collect();
    let all = lab.frames_of(Kind::Driver);
    let spanning = objects.iter().find(|object| {
        let before = all.iter().filter(|&&pfn| lab.physical().frame(pfn).refs() == 2).count();
        let _held = object.read();
        all.iter().filter(|&&pfn| lab.physical().frame(pfn).refs() == 2).count() == before + 2
    });
    let reader = spanning.expect("an object in two pages").read();
    for mode in MODES {
        let outcome = lab.migrate_all(&lab.frames_of(Kind::Driver), Options::new(mode));
        assert_eq!((outcome.moved, outcome.stayed.len()), (all.len() as u64 - 2, 2), "{mode:?}");
        assert!(outcome.stayed.iter().all(|(_, reason)| *reason == Reason::Referenced));
    }
    drop(reader);
    assert_eq!(lab.move_drivers(Mode::Async).moved, all.len() as u64);
}

#[test]
fn past_bug_zsmalloc_a_pool_that_ends_while_a_page_moves() {
    let lab = Lab::leaked(4);
    let pool = pool(lab);
    let _token = pool.store(&bytes(1, 4000)).unwrap().into_token();
    let page = lab.get(lab.frames_of(Kind::Driver)[0]).lock();
    let (sender, ended) = mpsc::channel();
    let ending = thread::spawn(move || {
        drop(pool);
        sender.send(()).unwrap();
    });
    // It can't have ended, however long this takes.
    thread::yield_now();
    assert!(ended.try_recv().is_err(), "it ended while a page was locked");
    drop(page);
    ending.join().unwrap();
    ended.recv().unwrap();
    assert_eq!(lab.frames_of(Kind::Driver), []);
}

/// An allocation may fail at any page of a zspage.
#[test]
fn without_memory_nothing_changes() {
    let lab = Lab::new(TlbKind::Soft, 2);
    for left in 0..9 {
        let pool = Pool::new(&lab.engine, Settings::new("a pool").with_effort(Effort::Drain));
        let kept = pool.store(&bytes(1, 3000)).unwrap();
        let mut taken = lab.take_all(Kind::Kernel);
        taken.truncate(taken.len() - left);
        let free = lab.free_frames();
        let mut objects = Vec::new();
        let error = loop {
            match pool.store(&bytes(objects.len() as u64, 1400)) {
                Ok(object) => objects.push(object),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, StoreError::OutOfMemory(_)), "{error}");
        lab.validate();
        for (object, seed) in objects.iter().zip(0..) {
            assert_eq!(contents(object, 1400), bytes(seed, 1400));
        }
        drop(objects);
        assert_eq!(lab.free_frames(), free, "{left} frames were left");
        assert_eq!(contents(&kept, 3000), bytes(1, 3000));
    }
}

#[test]
fn classes_add_up() {
    let lab = lab();
    let pool = pool(&lab);
    let objects: Vec<Object> =
        (0..1000).map(|seed| pool.store(&bytes(seed, 32 + seed as usize * 4)).unwrap()).collect();
    let (classes, stats) = (pool.classes(), pool.stats());
    assert_eq!(classes.iter().map(|class| class.used).sum::<u64>(), stats.objects);
    assert_eq!(classes.iter().map(|class| class.pages).sum::<u64>(), stats.pages);
    assert_eq!(stats.pages, lab.frames_of(Kind::Driver).len() as u64);
    assert_eq!(stats.bytes(), stats.pages * PAGE_SIZE as u64);
    for class in &classes {
        let zspages: u64 = class.zspages.iter().map(|&count| u64::from(count)).sum();
        assert_eq!(class.pages, zspages * u64::from(class.class.pages));
        assert!(class.used <= class.capacity && class.capacity == zspages * u64::from(class.class.objects));
    }
    drop(objects);
}

/// A pool whose pages don't move stops compaction of memory; one whose pages do, doesn't.
#[test]
fn a_block_of_zspages_can_be_emptied() {
    for moves in [true, false] {
        let lab = lab();
        let pool = pool(&lab);
        if !moves {
            pool.registration().unregister();
        }
        let mut objects: Vec<Option<Object>> =
            (0..2000).map(|seed| Some(pool.store(&bytes(seed, 4000)).unwrap())).collect();
        // One page of eight is left: none of the blocks is free.
        objects.iter_mut().enumerate().filter(|(at, _)| at % 8 != 0).for_each(|(_, object)| *object = None);
        lab.physical().drain_cpu_lists();
        let blocks = || lab.physical().zones().map(|zone| lab.physical().blocks().free_blocks(zone)).sum::<u32>();
        let before = blocks();
        for zone in lab.physical().zones() {
            compact(&lab.engine, zone, Goal::All, Options::new(Mode::Sync));
        }
        lab.physical().drain_cpu_lists();
        assert_eq!(blocks() > before, moves);
        for (object, seed) in objects.iter().zip(0..) {
            if let Some(object) = object {
                assert_eq!(contents(object, 4000), bytes(seed, 4000));
            }
        }
        lab.validate();
    }
}

/// All at once: objects come and go, are read and written, while pages move one by one and by blocks, and objects are moved together.
#[test]
fn a_storm() {
    const OBJECTS: u64 = 300;
    const TURNS: u64 = 3000;
    let seed = new_seed();
    let lab = lab();
    let free = lab.free_frames();
    let pool = pool(&lab);
    let (moved, packed, over) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let shared: Mutex<BTreeMap<u64, (usize, Object)>> = Mutex::default();
    thread::scope(|scope| {
        let users: Vec<_> = (0..2)
            .map(|user| {
                let (pool, shared, moved, packed) = (&pool, &shared, &moved, &packed);
                scope.spawn(move || {
                    enter_cpu(user);
                    let mut rng = rng(seed ^ user as u64);
                    let mut own: BTreeMap<u64, (usize, Object)> = BTreeMap::new();
                    // Until there was something to see, however slowly the others come to run.
                    let has_moved = || [moved, packed].iter().all(|count| count.load(Ordering::Relaxed) > 0);
                    for turn in (0..).take_while(|&turn| turn < TURNS || !has_moved()) {
                        let name = turn << 1 | user as u64;
                        match rng.random_range(0..5) {
                            0 | 1 if own.len() < OBJECTS as usize => {
                                let length = rng.random_range(1..=PAGE_SIZE);
                                own.insert(name, (length, pool.store(&bytes(name, length)).unwrap()));
                            }
                            2 => {
                                // To the other one, which frees it.
                                if let Some((name, object)) = own.pop_first() {
                                    shared.lock().unwrap().insert(name, object);
                                }
                                drop(shared.lock().unwrap().pop_last());
                            }
                            3 => {
                                let at = rng.random_range(0..own.len().max(1));
                                if let Some((&name, (length, object))) = own.iter_mut().nth(at) {
                                    let half = *length / 2;
                                    object.write().copy_from(half, &bytes(name, *length)[half..]);
                                }
                            }
                            _ => {
                                let at = rng.random_range(0..own.len().max(1));
                                if let Some((&name, (length, object))) = own.iter().nth(at) {
                                    assert_eq!(contents(object, *length), bytes(name, *length), "seed {seed}");
                                }
                            }
                        }
                    }
                    for (name, (length, object)) in own {
                        assert_eq!(contents(&object, length), bytes(name, length), "seed {seed}");
                    }
                })
            })
            .collect();
        for mover in 0..2 {
            let (lab, pool, moved, packed, over) = (&lab, &pool, &moved, &packed, &over);
            scope.spawn(move || {
                enter_cpu(2 + mover);
                let mut rng = rng(seed ^ 77 ^ mover as u64);
                while !over.load(Ordering::Relaxed) {
                    let mode = MODES[rng.random_range(0..3)];
                    moved.fetch_add(lab.move_drivers(mode).moved, Ordering::Relaxed);
                    packed.fetch_add(pool.compact(rng.random_range(1..50)).objects, Ordering::Relaxed);
                    for class in pool.classes() {
                        assert!(class.used <= class.capacity);
                    }
                }
            });
        }
        let results: Vec<_> = users.into_iter().map(thread::ScopedJoinHandle::join).collect();
        over.store(true, Ordering::Relaxed);
        results.into_iter().for_each(|result| result.unwrap());
    });
    println!("{moved:?} pages moved, {packed:?} objects were moved together");
    shared.lock().unwrap().clear();
    pool.compact(u64::MAX);
    assert_eq!((pool.stats().objects, pool.stats().pages), (0, 0));
    drop(pool);
    lab.assert_all_free(free);
}
