//! Objects of a zsmalloc pool are read, written and freed while their pages move and while they are moved together: each keeps its bytes, and
//! no page is lost.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use pagemove::{
    Engine,
    frame::Kind,
    migrate::{AnyFree, Mode, Mover, Options},
    sync::set_stepping,
    units::Pfn,
};
use pagemove_drivers::zsmalloc::{Object, Options as Settings, Pool};
use shuttle::thread;

use crate::{explore, world};

/// Its first and last bytes; all others would take most of the steps.
fn check(object: &Object, name: u64) {
    let (mut first, mut last) = ([0; 8], [0; 8]);
    let guard = object.read();
    guard.copy_to(0, &mut first);
    guard.copy_to(object.size() - 8, &mut last);
    assert_eq!([first, last].map(u64::from_le_bytes), [name; 2], "an object has another's bytes");
}

fn write(object: &mut Object, name: u64) {
    let last = object.size() - 8;
    let mut guard = object.write();
    guard.copy_from(0, &name.to_le_bytes());
    guard.copy_from(last, &name.to_le_bytes());
}

fn make(pool: &Pool, length: usize, name: u64) -> Object {
    let mut object = pool.alloc(length).expect("memory");
    write(&mut object, name);
    object
}

fn move_all(engine: &Engine, mode: Mode) -> u64 {
    let frames = engine.physical().zones().flat_map(|zone| zone.iter().collect::<Vec<_>>());
    let pages: Vec<Pfn> = frames.filter(|&pfn| engine.physical().frame(pfn).state().kind() == Kind::Driver).collect();
    let mut destination = AnyFree::new(engine.physical(), pages.len());
    Mover::new(engine).migrate(&pages, &mut destination, Options::new(mode)).moved
}

/// Two objects in a page, or four in three pages, two of them across pages.
#[test]
fn objects_are_used_while_they_and_their_pages_move() {
    for length in [2048, 3072] {
        let sums = [(); 2].map(|()| Arc::new(AtomicU64::new(0)));
        let [all_moved, all_packed] = sums.clone();
        let explored = explore(&format!("objects of {length} bytes"), 25, move || {
            set_stepping(false);
            let (machine, engine) = world::small_machine();
            engine.physical().drain_cpu_lists();
            let free = engine.physical().free_frames();
            let pool = Pool::new(&engine, Settings::new("a pool"));
            let each = if length == 2048 { 2 } else { 4 };
            // Two zspages, of which one would do.
            let mut objects: Vec<Object> = (0..each + 1).map(|name| make(&pool, length, name)).collect();
            let (mut own, read) = (objects.pop().expect("the last"), objects.pop().expect("another"));
            objects.truncate(each as usize - 2);
            set_stepping(true);
            let reader = thread::spawn(move || {
                for _ in 0..3 {
                    check(&read, each - 1);
                }
                read
            });
            let writer = {
                let pool = pool.clone();
                thread::spawn(move || {
                    check(&own, each);
                    write(&mut own, 77);
                    drop(own);
                    let other = make(&pool, length, 78);
                    check(&other, 78);
                    other
                })
            };
            let packer = {
                let pool = pool.clone();
                thread::spawn(move || (0..4).map(|_| pool.compact(u64::MAX).objects).sum::<u64>())
            };
            let mover = {
                let engine = engine.clone();
                thread::spawn(move || move_all(&engine, Mode::Async) + move_all(&engine, Mode::Sync))
            };
            let (read, other) = (reader.join().expect("a reader panicked"), writer.join().expect("a writer panicked"));
            all_packed.fetch_add(packer.join().expect("who packs panicked"), Ordering::Relaxed);
            all_moved.fetch_add(mover.join().expect("a mover panicked"), Ordering::Relaxed);
            set_stepping(false);
            check(&read, each - 1);
            check(&other, 78);
            (0..).zip(&objects).for_each(|(name, object)| check(object, name));
            drop((read, other, objects));
            pool.compact(u64::MAX);
            assert_eq!((pool.stats().objects, pool.stats().pages), (0, 0));
            drop(pool);
            engine.physical().drain_cpu_lists();
            engine.physical().validate().expect("invariants 3 and 8");
            engine.physical().drain_cpu_lists();
            assert_eq!(engine.physical().free_frames(), free, "frames were lost or found");
            drop((engine, machine));
        });
        let [moved, packed] = sums.map(|sum| sum.load(Ordering::Relaxed));
        println!("objects of {length} bytes: {moved} pages moved, {packed} objects were moved together");
        assert!(!explored || (moved > 0 && packed > 0), "nothing moved");
    }
}

#[test]
fn a_pool_ends_while_its_pages_move() {
    let all_moved = Arc::new(AtomicU64::new(0));
    let moved = all_moved.clone();
    let explored = explore("a pool's end", 10, move || {
        set_stepping(false);
        let (machine, engine) = world::small_machine();
        engine.physical().drain_cpu_lists();
        let free = engine.physical().free_frames();
        let pool = Pool::new(&engine, Settings::new("a pool"));
        let objects: Vec<Object> = (0..3).map(|name| make(&pool, 3072, name)).collect();
        // This one is freed with its pool.
        let _lost = make(&pool, 2048, 9).into_token();
        set_stepping(true);
        let mover = {
            let engine = engine.clone();
            thread::spawn(move || move_all(&engine, Mode::Async) + move_all(&engine, Mode::Sync))
        };
        drop(objects);
        drop(pool);
        moved.fetch_add(mover.join().expect("a mover panicked"), Ordering::Relaxed);
        set_stepping(false);
        engine.physical().drain_cpu_lists();
        engine.physical().validate().expect("invariants 3 and 8");
        engine.physical().drain_cpu_lists();
        assert_eq!(engine.physical().free_frames(), free, "frames were lost or found");
        drop((engine, machine));
    });
    assert!(!explored || all_moved.load(Ordering::Relaxed) > 0, "nothing moved");
}
