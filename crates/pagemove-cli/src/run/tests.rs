//! The checks can fail: a word that is older than its last store, another page's, or a cleared one, is found, by whatever
//! way the page is reached; and so is one that changes under a writer's eyes.

use std::{
    sync::{Mutex, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use pagemove::{
    migrate::Policy,
    space::{Orders, PageCache, Source},
    units::{Order, Pfn},
};
use pagemove_hosted::TlbKind;

use super::{
    damage::Damage,
    error::RunError,
    policy::{self, Common},
    progress::Progress,
    region::{Backing, Compared, Region, Wrong},
    words::{self, FIRST, Words},
    world::{Base, Shape, World},
    writers::{self, Shared},
};
use crate::{cancel::Stop, layout::Layout};

/// What a small machine is like.
fn shape(tlb: TlbKind) -> Shape {
    Shape { frames: 2048, pageblock_order: Order::new(9).unwrap(), writers: 1, tlb }
}

/// A small machine.
fn base(tlb: TlbKind) -> Base {
    Base::new(shape(tlb)).unwrap()
}

/// One region of each kind, four pages each.
fn world(base: &Base) -> World<'_> {
    let mut world = World::new(base, Words::new(3, 0)).unwrap();
    world.start_processes().unwrap();
    let cache = PageCache::new(&world.host.engine, "file", 4);
    let stored = PageCache::with_store(&world.host.engine, "file", 4, Some(Region::store_of(2, world.host.words)));
    let device = world.mapped[0].open(4);
    let apart = world.unmapped[0].open(4);
    let shared = Source::Shared { file: device.clone(), first: 0 };
    for (backing, sources) in [
        (Backing::Anonymous, vec![Source::Anonymous { orders: Orders::BASE }]),
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

fn check(world: &World<'_>, loads: bool) -> Compared {
    let mut compared = Compared::default();
    for region in &world.regions {
        (0..4).for_each(|page| region.check(&world.host, page, FIRST, loads, &mut compared).unwrap());
    }
    compared
}

/// Gives the frame of the first page of a region, and where its word is.
fn first(world: &World<'_>, number: usize) -> (Pfn, usize) {
    let region = &world.regions[number];
    let pfn = match (&region.backing, region.views.first()) {
        (_, Some(view)) => world.host.frame(view, 0).unwrap(),
        (Backing::Device(file), None) => file.peek(0).unwrap(),
        _ => unreachable!("every other region is mapped"),
    };
    (pfn, words::place(world.host.words.tag(region.number, 0)))
}

#[test]
fn a_compressed_page_with_anothers_contents_is_found() {
    let base = base(TlbKind::Soft);
    let mut world = World::new(&base, Words::new(3, 0)).unwrap();
    let backing = Backing::Compressed(world.compressed.clone(), 8);
    let number = world.add(|number| Region::new(number, backing, vec![], 4));
    (0..4).for_each(|page| world.regions[number].populate(&world.host, page).unwrap());
    assert_eq!(check(&world, true), Compared { words: 4, ..Default::default() });
    let pages: Vec<_> = world.regions[number].compressed(world.host.words).collect();
    assert_eq!(pages.iter().map(|page| (page.page, page.slot)).collect::<Vec<_>>(), [(0, 8), (1, 9), (2, 10), (3, 11)]);
    world.compressed.write(pages[1].slot, pages[2].tag).unwrap();
    world.regions[number].free(&world.host, 3, 1).unwrap();
    let found = check(&world, true);
    assert_eq!((found.words, found.lost, found.stale), (4, 2, 0));
    assert_eq!(found.first.map(|wrong| (wrong.region, wrong.page, wrong.lost)), Some((number as u32, 1, true)));
}

#[test]
fn every_damage_is_found_on_every_way() {
    for tlb in [TlbKind::Soft, TlbKind::Host] {
        let base = base(tlb);
        let world = world(&base);
        for loads in [false, true] {
            let sound = check(&world, loads);
            // Each page's, however many ways lead to it, and that of a private mapping's file.
            assert_eq!(sound, Compared { words: 4 * (5 + 1), ..Default::default() });
            for number in 0..5 {
                let (pfn, place) = first(&world, number);
                let folio = world.engine.physical().get(pfn).unwrap();
                let word = &folio.words(0)[place];
                let good = word.load(Ordering::Relaxed);
                for damage in [0, good - 1, good ^ 1 << 40] {
                    word.store(damage, Ordering::Relaxed);
                    let found = check(&world, loads);
                    assert_eq!((found.lost, found.stale), (1, 0), "region {number}, {tlb:?}");
                    let region = number as u32;
                    let wrong = Wrong { region, page: 0, found: damage, expected: good, lost: true };
                    assert_eq!(found.first, Some(wrong), "{tlb:?}");
                }
                word.store(good, Ordering::Relaxed);
            }
        }
        assert_eq!(check(&world, true).first, None);
        world.host.engine.physical().validate().unwrap();
    }
}

#[test]
fn a_writer_sees_a_store_that_is_lost() {
    for (tlb, lose) in [(TlbKind::Soft, false), (TlbKind::Soft, true), (TlbKind::Host, true)] {
        let base = base(tlb);
        let world = world(&base);
        let shared = Shared::new(1);
        let writer = writers::choose(&world, 1, writers::MOST, 1, &Default::default()).remove(0);
        let told = Mutex::new(Vec::new());
        let on_wrong = |wrong| told.lock().unwrap().push(wrong);
        let written = thread::scope(|scope| {
            let thread = writer.start(scope, 0, &world.host.processes, &shared, &on_wrong);
            assert!(shared.let_run(Duration::from_millis(20), || false));
            let (pfn, place) = first(&world, 0);
            let folio = world.engine.physical().get(pfn).unwrap();
            let word = &folio.words(0)[place];
            let start = Instant::now();
            // Again and again, since the writer's next store hides one lost just before it.
            while lose && told.lock().unwrap().is_empty() && start.elapsed() < Duration::from_secs(60) {
                let old = word.load(Ordering::Relaxed);
                // The writer goes on in between, so that `old` is old, and that it meets what was done.
                assert!(shared.let_run(Duration::from_millis(1), || false));
                word.store(old, Ordering::Relaxed);
                assert!(shared.let_run(Duration::from_millis(20), || false));
            }
            shared.stop();
            thread.join().unwrap().unwrap()
        });
        assert!(written.compared.words > 4096);
        // The next store hides it, and so a store that is lost is known by a second look at once.
        assert_eq!((written.compared.lost > 0, written.compared.stale), (lose, 0), "{tlb:?}");
        assert_eq!(told.into_inner().unwrap().first(), written.compared.first.as_ref(), "{tlb:?}");
    }
}

#[test]
fn a_writer_that_panics_ends_the_others() {
    let base = base(TlbKind::Soft);
    let world = world(&base);
    let shared = Shared::new(1);
    let writer = writers::choose(&world, 1, writers::MOST, 1, &Default::default()).remove(0);
    thread::scope(|scope| {
        // Its processes aren't there.
        let thread = writer.start(scope, 0, &[], &shared, &|_| ());
        assert!(!shared.let_run(Duration::from_secs(3600), || false));
        assert!(thread.join().is_err());
    });
}

/// Does something while writers write to a small machine.
fn under_fire(damage: &Damage, act: impl FnOnce(&World<'_>)) -> Result<(), RunError> {
    let base = base(TlbKind::Soft);
    let world = world(&base);
    let shape = shape(TlbKind::Soft);
    let (layout, stop, progress) = (Layout::sample(), Stop::default(), Progress::new(true));
    let common = Common { seed: 9, layout: &layout, shape, stop: &stop, progress: &progress, damage };
    policy::under_fire(&common, Policy::Any, &world, |_| act(&world)).map(drop)
}

#[test]
fn a_panic_under_fire_ends_all_and_names_the_seed() {
    let error = under_fire(&Damage::none(9), |_| panic!("as an assertion of the engine does")).unwrap_err();
    assert_eq!(error.exit_code(), 1);
    assert!(error.to_string().ends_with("repeat with --seed 9"), "{error}");
}

#[test]
fn damage_is_known_at_once_and_outlasts_a_panic() {
    let damage = Damage::none(9);
    let error = under_fire(&damage, |world| {
        let (pfn, place) = first(world, 0);
        let start = Instant::now();
        // Again and again, since a store of the writer's may hide it.
        while !damage.is_seen() && start.elapsed() < Duration::from_secs(60) {
            world.host.access(pfn, place, |word| word.store(0, Ordering::Relaxed)).unwrap();
            thread::yield_now();
        }
        assert!(damage.is_seen());
        panic!("afterwards");
    });
    assert!(damage.is_seen());
    assert!(matches!(damage.verdict(error), Ok(false)));
}

#[test]
fn what_is_freed_is_gone_from_memory() {
    let base = base(TlbKind::Soft);
    let mut world = world(&base);
    world.host.engine.physical().drain_cpu_lists();
    let free = world.host.engine.physical().free_frames();
    let World { regions, host, .. } = &mut world;
    for region in regions.iter_mut() {
        region.free(host, 1, 3).unwrap();
        assert_eq!(region.live, [true, false, false, false]);
        region.check(host, 0, FIRST, true, &mut Compared::default()).unwrap();
    }
    // Three pages each, and those of the private mapping's file.
    host.engine.physical().drain_cpu_lists();
    assert_eq!(host.engine.physical().free_frames(), free + 3 * 6);
    host.engine.physical().validate().unwrap();
}
