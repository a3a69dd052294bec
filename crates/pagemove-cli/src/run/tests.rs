//! The checks can fail: a word that is older than its last store, another page's, or a cleared one, is found, by whatever
//! way the page is reached; and so is one that changes under a writer's eyes.

use std::{sync::atomic::Ordering, thread, time::Duration};

use pagemove::{
    space::{PageCache, Source},
    units::{Order, Pfn},
};
use pagemove_hosted::TlbKind;

use super::{
    region::{Backing, Compared, Region},
    words::{self, FIRST, Words},
    world::{Shape, World},
    writers::{self, Shared},
};

/// A small machine with one region of each kind, four pages each.
fn world(tlb: TlbKind) -> World {
    let order = Order::new(9).unwrap();
    let shape = Shape { frames: 2048, pageblock_order: order, writers: 1, tlb };
    let mut world = World::new(shape, Words::new(3, 0)).unwrap();
    world.start_processes().unwrap();
    let cache = PageCache::new(&world.host.engine, "file", 4);
    let stored = PageCache::with_store(&world.host.engine, "file", 4, Some(Region::store_of(2, world.host.words)));
    let device = world.mapped[0].open(4);
    let apart = world.unmapped[0].open(4);
    let shared = Source::Shared { file: device.clone(), first: 0 };
    for (backing, sources) in [
        (Backing::Anonymous, vec![Source::Anonymous { huge: false }]),
        (Backing::Cache(cache.clone()), vec![Source::Shared { file: cache, first: 0 }]),
        (Backing::Private(stored.clone()), vec![Source::Private { file: stored, first: 0 }]),
        (Backing::Device(device), vec![shared.clone(), shared]),
        (Backing::Device(apart), vec![]),
    ] {
        let mut views = Vec::new();
        for (process, source) in sources.into_iter().enumerate() {
            views.push(world.host.map(process, 4, process == 0, source).unwrap());
        }
        let number = world.add(|number| Region::new(number, backing, views, 4));
        (0..4).for_each(|page| world.regions[number].populate(&world.host, page).unwrap());
    }
    world
}

fn check(world: &World, loads: bool) -> Compared {
    let mut compared = Compared::default();
    for region in &world.regions {
        (0..4).for_each(|page| region.check(&world.host, page, FIRST, loads, &mut compared).unwrap());
    }
    compared
}

/// Gives the frame of the first page of a region, and where its word is.
fn first(world: &World, number: usize) -> (Pfn, usize) {
    let region = &world.regions[number];
    let pfn = match (&region.backing, region.views.first()) {
        (_, Some(view)) => world.host.frame(view, 0).unwrap(),
        (Backing::Device(file), None) => file.peek(0).unwrap(),
        _ => unreachable!("every other region is mapped"),
    };
    (pfn, words::place(world.host.words.tag(region.number, 0)))
}

#[test]
fn every_damage_is_found_on_every_way() {
    for tlb in [TlbKind::Soft, TlbKind::Host] {
        let world = world(tlb);
        for loads in [false, true] {
            let sound = check(&world, loads);
            // Views, and the file's side where there is one.
            assert_eq!(sound, Compared { words: 4 * (1 + 2 + 2 + 3 + 1), wrong: 0 });
            for (number, ways) in [(0, 1), (1, 2), (2, 1), (3, 3), (4, 1)] {
                let (pfn, place) = first(&world, number);
                let word = &world.host.engine.physical().ram_words(pfn)[place];
                let good = word.load(Ordering::Relaxed);
                for damage in [0, good - 1, good ^ 1 << 40] {
                    word.store(damage, Ordering::Relaxed);
                    assert_eq!(check(&world, loads).wrong, ways, "region {number}, {tlb:?}");
                }
                word.store(good, Ordering::Relaxed);
            }
        }
        assert_eq!(check(&world, true).wrong, 0);
        world.host.engine.physical().validate().unwrap();
    }
}

#[test]
fn a_writer_sees_a_store_that_is_lost() {
    for (tlb, lose) in [(TlbKind::Soft, false), (TlbKind::Soft, true), (TlbKind::Host, true)] {
        let world = world(tlb);
        let shared = Shared::new(1);
        let writer = writers::choose(&world, 1, writers::MOST, 1, &Default::default()).remove(0);
        let written = thread::scope(|scope| {
            let thread = writer.start(scope, 0, &world.host.processes, &shared);
            assert!(shared.let_run(Duration::from_millis(20), || false));
            let (pfn, place) = first(&world, 0);
            let word = &world.host.engine.physical().ram_words(pfn)[place];
            let old = word.load(Ordering::Relaxed);
            // The writer goes on in between, so that `old` is old, and that it meets what was done.
            assert!(shared.let_run(Duration::from_millis(1), || false));
            if lose {
                word.store(old, Ordering::Relaxed);
            }
            assert!(shared.let_run(Duration::from_millis(20), || false));
            shared.stop();
            thread.join().unwrap().unwrap()
        });
        assert!(written.compared.words > 4096);
        assert_eq!(written.compared.wrong > 0, lose, "{tlb:?}");
    }
}

#[test]
fn what_is_freed_is_gone_from_memory() {
    let mut world = world(TlbKind::Soft);
    let free = world.host.engine.physical().free_frames();
    let World { regions, host, .. } = &mut world;
    for region in regions.iter_mut() {
        region.free(host, 1, 3).unwrap();
        assert_eq!(region.live, [true, false, false, false]);
        region.check(host, 0, FIRST, true, &mut Compared::default()).unwrap();
    }
    // Three pages each, and those of the private mapping's file.
    assert_eq!(host.engine.physical().free_frames(), free + 3 * 6);
    host.engine.physical().validate().unwrap();
}
