//! Under fire: threads store sequence numbers while pages move at full speed and while everything else that can happen to
//! a mapping happens. Every store must be found, at any time and in the end.
mod common;

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread::Scope,
    time::{Duration, Instant},
};

use common::*;
use pagemove::{
    frame::Kind,
    migrate::{Mode, Options},
    report::Counter,
    space::{Map, Orders, PageCache, Protection, Source},
    units::{Pfn, VirtAddr, VirtRange},
};
use pagemove_drivers::CharDevice;
use pagemove_hosted::{Process, enter_cpu};
use rand::RngExt;

const PAGES: u32 = 48;
const WRITERS: usize = 2;
/// Of each run, in milliseconds, unless the environment says otherwise.
const TIME: u64 = 200;

/// The end of a run: its time is over, or a thread has failed.
struct Fire<'l> {
    lab: &'l Lab,
    seed: u64,
    over: AtomicBool,
    stored: AtomicU64,
}

impl<'l> Fire<'l> {
    fn new(lab: &'l Lab) -> Self {
        println!("{:?} TLB", lab.machine.config().tlb);
        let seed = new_seed();
        Self { lab, seed, over: AtomicBool::new(false), stored: AtomicU64::new(0) }
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Starts a thread on virtual processor `cpu`, which does `work` again and again until the end.
    fn repeat<'s>(
        &'s self,
        scope: &'s Scope<'s, '_>,
        cpu: usize,
        mut work: impl FnMut(&mut rand_chacha::ChaCha8Rng) + Send + 's,
    ) {
        scope.spawn(move || {
            enter_cpu(cpu);
            let _failed = SetAtEnd(&self.over);
            let mut rng = rng(self.seed ^ cpu as u64);
            while !self.is_over() {
                work(&mut rng);
            }
        });
    }

    /// Starts the writers: each has a word of its own in every page, and checks it before each store.
    fn write<'s>(&'s self, scope: &'s Scope<'s, '_>, process: &'s Process, at: VirtRange) {
        for writer in 0..WRITERS {
            scope.spawn(move || {
                enter_cpu(writer);
                let _failed = SetAtEnd(&self.over);
                let mut rng = rng(self.seed ^ 100 ^ writer as u64);
                let mut last = vec![0u64; at.pages() as usize];
                let mut sequence = 0;
                while !self.is_over() {
                    let page = rng.random_range(0..at.pages());
                    let address = word(at, page, writer);
                    let found = process.load(address).unwrap();
                    assert_eq!(found, last[page as usize], "page {page}, seed {}", self.seed);
                    sequence += 1;
                    process.store(address, sequence).unwrap();
                    last[page as usize] = sequence;
                }
                for page in 0..at.pages() {
                    assert_eq!(
                        process.load(word(at, page, writer)).unwrap(),
                        last[page as usize],
                        "at the end, seed {}",
                        self.seed
                    );
                }
                self.stored.fetch_add(sequence, Ordering::Relaxed);
            });
        }
    }

    /// Starts the mover: all pages of the processes that are movable, in random modes and batches.
    fn move_all<'s>(&'s self, scope: &'s Scope<'s, '_>, processes: &'s [&'s Process]) {
        self.repeat(scope, 3, move |rng| {
            let mut pages: Vec<Pfn> = Vec::new();
            for process in processes {
                process.space().for_each_entry(|_, entry| {
                    if entry.is_present() {
                        pages.push(entry.pfn());
                    }
                });
            }
            let mode = [Mode::Async, Mode::SyncLight, Mode::Sync][rng.random_range(0..3)];
            let batch = BATCHES[rng.random_range(0..5)];
            self.lab.migrate_all(&pages, Options { batch, ..Options::new(mode) });
        });
    }

    /// Waits for the end: of the time, but not before something has moved.
    fn finish(&self, started: Instant) {
        let time = std::env::var("PAGEMOVE_FIRE_MS").ok().and_then(|text| text.parse().ok()).unwrap_or(TIME);
        while (started.elapsed() < Duration::from_millis(time) || self.moved() == 0) && !self.is_over() {
            std::thread::park_timeout(Duration::from_millis(5));
        }
        self.over.store(true, Ordering::SeqCst);
    }

    fn moved(&self) -> u64 {
        self.lab.engine.physical().counters().get(Counter::PgmigrateSuccess)
    }

    fn report(&self) {
        println!("{} stores, {} moves", self.stored.load(Ordering::Relaxed), self.moved());
    }
}

/// Maps `pages` pages at the first free address: mostly where something was unmapped a moment ago.
fn map(process: &Process, pages: u32, source: Source) -> VirtRange {
    process.space().mmap(&Map { at: None, pages, protection: RW, source }).unwrap()
}

fn word(at: VirtRange, page: u32, number: usize) -> VirtAddr {
    VirtAddr::new(at.start().up(page).get() + 8 * number as u64).unwrap()
}

/// Runs `scene` on both TLBs; checks afterwards that all is valid and nothing lost.
fn under_fire(scene: impl Fn(&Lab, &Fire<'_>)) {
    for tlb in BOTH {
        let lab = Lab::new(tlb, 3);
        let fire = Fire::new(&lab);
        scene(&lab, &fire);
        fire.report();
        lab.assert_all_free(3 * 512);
    }
}

/// The common part: writers in a mapping, a mover, and `other` beside them on processor 2.
fn with_writers(
    lab: &Lab,
    fire: &Fire<'_>,
    processes: &[&Process],
    at: VirtRange,
    other: impl FnMut(&mut rand_chacha::ChaCha8Rng) + Send,
) {
    std::thread::scope(|scope| {
        let started = Instant::now();
        // A thread that panics makes the scope panic.
        fire.write(scope, processes[0], at);
        fire.move_all(scope, processes);
        fire.repeat(scope, 2, other);
        fire.finish(started);
    });
    lab.validate();
}

#[test]
fn anonymous_memory() {
    under_fire(|lab, fire| {
        let process = lab.process();
        let at = anonymous(&process, PAGES);
        with_writers(lab, fire, &[&process], at, |rng| {
            // A reader on a processor of its own: never goes back.
            let address = word(at, rng.random_range(0..PAGES), 0);
            let one = process.load(address).unwrap();
            assert!(process.load(address).unwrap() >= one);
        });
    });
}

#[test]
fn driver_pages_in_two_processes_and_by_the_driver_itself() {
    under_fire(|lab, fire| {
        let (one, two) = (lab.process(), lab.process());
        let device = CharDevice::new(&lab.engine, "chardev").open(PAGES);
        let at = shared(&one, device.clone(), PAGES, RW);
        anonymous(&two, 5);
        let seen = shared(&two, device.clone(), PAGES, RW);
        let mut sequence = 0;
        with_writers(lab, fire, &[&one, &two], at, |rng| {
            let page = rng.random_range(0..PAGES);
            sequence += 1;
            two.store(word(seen, page, 9), sequence).unwrap();
            assert_eq!(one.load(word(at, page, 9)).unwrap(), sequence);
            device.write(page, 10, sequence).unwrap();
            assert_eq!(two.load(word(seen, page, 10)).unwrap(), sequence);
            assert_eq!(device.read(page, 9).unwrap(), sequence);
        });
    });
}

#[test]
fn munmap_and_mmap() {
    under_fire(|lab, fire| {
        let (one, two) = (lab.process(), lab.process());
        let file = PageCache::new(&lab.engine, "file", PAGES);
        let at = shared(&one, file.clone(), PAGES, RW);
        with_writers(lab, fire, &[&one, &two], at, |rng| {
            // In the same process beside the writers, and in another one.
            for process in [&one, &two] {
                let mine = map(process, 3, Source::Anonymous { orders: Orders::BASE });
                let seen = map(process, PAGES, Source::Shared { file: file.clone(), first: 0 });
                mine.iter().for_each(|page| assert_eq!(process.load(page).unwrap(), 0));
                mine.iter().for_each(|page| process.store(page, 7).unwrap());
                let page = rng.random_range(0..PAGES);
                let before = process.load(word(seen, page, 0)).unwrap();
                assert!(one.load(word(at, page, 0)).unwrap() >= before);
                mine.iter().for_each(|page| assert_eq!(process.load(page).unwrap(), 7));
                process.space().munmap(mine).unwrap();
                process.space().munmap(part(seen, 0, PAGES / 2)).unwrap();
                process.space().munmap(seen).unwrap();
            }
        });
    });
}

#[test]
fn mprotect_and_soft_dirty() {
    under_fire(|lab, fire| {
        let (one, two) = (lab.process(), lab.process());
        let device = CharDevice::new(&lab.engine, "chardev").open(PAGES);
        let at = shared(&one, device.clone(), PAGES, RW);
        let seen = shared(&two, device.clone(), PAGES, RW);
        let mut turn = 0;
        with_writers(lab, fire, &[&one, &two], at, |rng| {
            let first = rng.random_range(0..PAGES - 8);
            let some = [part(at, first, 8), part(seen, first, 8)];
            // The writers' process keeps its right to store.
            one.space().mprotect(some[0], RW | Protection::EXECUTE).unwrap();
            one.space().mprotect(at, RW).unwrap();
            one.space().clear_soft_dirty();
            two.space().mprotect(some[1], Protection::empty()).unwrap();
            two.space().mprotect(seen, Protection::READ).unwrap();
            let before = two.load(word(seen, first, 1)).unwrap();
            assert!(one.load(word(at, first, 1)).unwrap() >= before);
            two.space().mprotect(seen, RW).unwrap();
            turn += 1;
            two.store(word(seen, first, 9), turn).unwrap();
            assert_eq!(one.load(word(at, first, 9)).unwrap(), turn);
        });
    });
}

#[test]
fn mremap() {
    under_fire(|lab, fire| {
        let process = lab.process();
        let at = anonymous(&process, PAGES);
        let device = CharDevice::new(&lab.engine, "chardev").open(8);
        let mut own = anonymous(&process, 8);
        let mut of_device = shared(&process, device, 8, RW);
        let mut turn = 0;
        with_writers(lab, fire, &[&process], at, |rng| {
            turn += 1;
            own.iter().chain(of_device.iter()).for_each(|page| process.store(page, turn).unwrap());
            let base = process.space().bounds().start().up(1024);
            let places = [
                base.up(1024 * rng.random_range(0..4) + rng.random_range(0..64)),
                base.up(8192 + rng.random_range(0..64)),
            ];
            for (range, to) in [(&mut own, places[0]), (&mut of_device, places[1])] {
                if let Ok(new) = process.space().mremap(*range, 8, Some(to)) {
                    *range = new;
                }
            }
            own.iter().chain(of_device.iter()).for_each(|page| assert_eq!(process.load(page).unwrap(), turn));
        });
    });
}

#[test]
fn fork_and_exit() {
    under_fire(|lab, fire| {
        let process = lab.process();
        let at = anonymous(&process, PAGES);
        let device = CharDevice::new(&lab.engine, "chardev").open(4);
        let common = shared(&process, device, 4, RW);
        let mut turn = 0;
        with_writers(lab, fire, &[&process], at, |rng| {
            turn += 1;
            let child = process.fork().unwrap();
            let page = rng.random_range(0..PAGES);
            // What the child sees stays, whatever its parent stores.
            let seen = child.load(word(at, page, 0)).unwrap();
            child.store(word(common, page % 4, 3), turn).unwrap();
            assert_eq!(process.load(word(common, page % 4, 3)).unwrap(), turn);
            let grandchild = child.fork().unwrap();
            child.store(word(at, page, 9), turn).unwrap();
            let later = [&child, &grandchild].map(|process| process.load(word(at, page, 0)).unwrap());
            assert_eq!(later, [seen, seen]);
            assert_eq!(grandchild.load(word(at, page, 9)).unwrap(), 0);
            drop(child);
            assert_eq!(grandchild.load(word(at, page, 9)).unwrap(), 0);
        });
    });
}

#[test]
fn pins() {
    under_fire(|lab, fire| {
        let process = lab.process();
        let device = CharDevice::new(&lab.engine, "chardev").open(PAGES / 2);
        let at = anonymous(&process, PAGES / 2);
        let of_device = shared(&process, device, PAGES / 2, RW);
        let both = VirtRange::new(at.start(), PAGES).unwrap();
        assert_eq!(at.end(), of_device.start());
        let mut turn = 0;
        with_writers(lab, fire, &[&process], both, |rng| {
            turn += 1;
            let first = rng.random_range(0..PAGES - 4);
            let pins = process.space().pin(part(both, first, 4), true, "nic").unwrap();
            for (page, pin) in (first..).zip(&pins) {
                pin.words(0)[9].store(turn, Ordering::Release);
                assert_eq!(process.load(word(both, page, 9)).unwrap(), turn);
                process.store(word(both, page, 10), turn).unwrap();
                assert_eq!(pin.words(0)[10].load(Ordering::Acquire), turn);
                assert_eq!(process.space().entry(both.start().up(page)).pfn(), pin.pfn());
            }
        });
        assert!(lab.engine.physical().pins().all().is_empty());
    });
}

/// Pages that are freed lose their stores by right; but none may show another page's, or one from before it was freed.
#[test]
fn freeing_and_truncation() {
    under_fire(|lab, fire| {
        let process = lab.process();
        let device = CharDevice::new(&lab.engine, "chardev").open(PAGES);
        let file = PageCache::new(&lab.engine, "file", PAGES);
        let mappings = [shared(&process, device.clone(), PAGES, RW), shared(&process, file.clone(), PAGES, RW)];
        std::thread::scope(|scope| {
            let started = Instant::now();
            for (writer, at) in mappings.into_iter().enumerate() {
                let mut sequence = 0u64;
                let process = &process;
                fire.repeat(scope, writer, move |rng| {
                    let page = rng.random_range(0..PAGES);
                    sequence += 1;
                    let mine =
                        |found: u64| found == 0 || (found >> 32 == u64::from(page) && found as u32 as u64 <= sequence);
                    process.store(word(at, page, writer), u64::from(page) << 32 | sequence).unwrap();
                    let found = process.load(word(at, page, writer)).unwrap();
                    assert!(mine(found), "page {page} shows {found:#x}, seed {}", fire.seed);
                    fire.stored.fetch_add(1, Ordering::Relaxed);
                });
            }
            fire.repeat(scope, 2, |rng| {
                let page = rng.random_range(0..PAGES);
                device.free(page);
                file.index().truncate(page..page + rng.random_range(1..5));
                file.index().drop_clean(0..PAGES);
            });
            fire.move_all(scope, &[]);
            // Movers look at all of memory, not only at what is mapped.
            fire.repeat(scope, 3, |_| {
                let kinds = [Kind::Driver, Kind::File];
                let all = range(0, 1536)
                    .iter()
                    .filter(|&pfn| kinds.contains(&lab.engine.physical().frame(pfn).state().kind()));
                let all: Vec<Pfn> = all.collect();
                lab.migrate_all(&all, Options::new(Mode::SyncLight));
            });
            fire.finish(started);
        });
    });
}

/// 2 MiB pages that move whole, are split by others, and mapped anew.
#[test]
fn huge_pages() {
    for tlb in BOTH {
        let lab = Lab::new(tlb, 8);
        let fire = Fire::new(&lab);
        {
            let process = lab.process();
            let at = huge(&process, 512);
            with_writers(&lab, &fire, &[&process], at, |rng| {
                let other = map(&process, 512, Source::Anonymous { orders: Orders::HUGE });
                let page = rng.random_range(1..511);
                process.store(word(other, page, 3), 5).unwrap();
                if rng.random_bool(0.5) {
                    process.space().munmap(part(other, page - 1, 1)).unwrap();
                }
                assert_eq!(process.load(word(other, page, 3)).unwrap(), 5);
                process.space().munmap(other).unwrap();
            });
        }
        fire.report();
        lab.assert_all_free(8 * 512);
    }
}

/// Faults for which there is no page yet, from several threads at once, while others move and free.
#[test]
fn first_touches() {
    under_fire(|lab, fire| {
        let process = lab.process();
        let at = anonymous(&process, PAGES);
        with_writers(lab, fire, &[&process], at, |rng| {
            let fresh = map(&process, 16, Source::Anonymous { orders: Orders::BASE });
            std::thread::scope(|scope| {
                for writer in 0..2 {
                    let process = &process;
                    scope.spawn(move || {
                        enter_cpu(writer);
                        (0..16).for_each(|page| process.store(word(fresh, page, writer), 1).unwrap());
                    });
                }
            });
            let page = rng.random_range(0..16);
            assert_eq!([0, 1].map(|writer| process.load(word(fresh, page, writer)).unwrap()), [1, 1]);
            process.space().munmap(fresh).unwrap();
        });
    });
}
