//! Under fire: threads write sequence-numbered words through real mappings, while others move, unmap, remap, fork, pin,
//! free and protect the same pages. Every store must be found, no load may see an overwritten value, and all invariants
//! hold at the end. Seeds are printed; PAGEMOVE_SEED repeats one, PAGEMOVE_SECONDS runs longer.
mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use common::*;
use pagemove::{
    compact::{Goal, compact},
    migrate::{Mode, Options},
    report::Counter,
    space::{Map, Orders, Protection, Source},
    units::{Pfn, VirtAddr, VirtRange},
};
use pagemove_drivers::{CharDevice, DeviceFile};
use pagemove_hosted::{Process, TlbKind};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn seed() -> u64 {
    let seed = std::env::var("PAGEMOVE_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(rand::random);
    println!("PAGEMOVE_SEED={seed}");
    seed
}

fn duration() -> Duration {
    let seconds = std::env::var("PAGEMOVE_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs_f64(seconds.unwrap_or(0.5))
}

/// What a thread does, again and again.
type Act<'a> = Box<dyn FnMut(&mut ChaCha8Rng) + Send + 'a>;

/// Runs `threads` until the time is over, but not before something has moved; each gets its own seeded random numbers, and is
/// called again and again.
fn fire(lab: &Lab, seed: u64, threads: Vec<Act<'_>>) {
    let stop = AtomicBool::new(false);
    let nothing_moved = || lab.engine.physical().counters().get(Counter::PgmigrateSuccess) == 0;
    thread::scope(|scope| {
        for (number, mut act) in threads.into_iter().enumerate() {
            let stop = &stop;
            scope.spawn(move || {
                let mut random = ChaCha8Rng::seed_from_u64(seed.wrapping_add(number as u64));
                // A panic elsewhere ends all: else the scope would wait for ever.
                struct StopAll<'a>(&'a AtomicBool);
                impl Drop for StopAll<'_> {
                    fn drop(&mut self) {
                        if thread::panicking() {
                            self.0.store(true, Ordering::Relaxed);
                        }
                    }
                }
                let _guard = StopAll(stop);
                while !stop.load(Ordering::Relaxed) {
                    act(&mut random);
                }
            });
        }
        let end = Instant::now() + duration();
        while (Instant::now() < end || nothing_moved()) && !stop.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(5));
        }
        stop.store(true, Ordering::Relaxed);
    });
}

/// One writer's word in each page of a range, and what it must hold.
struct Words {
    at: VirtRange,
    word: u64,
    shadow: Vec<u64>,
}

impl Words {
    fn new(at: VirtRange, word: u64) -> Self {
        Self { at, word, shadow: vec![0; at.pages() as usize] }
    }

    fn address(&self, page: u32) -> VirtAddr {
        VirtAddr::new(self.at.start().up(page).get() + self.word * 8).unwrap()
    }

    /// Checks a random word, and stores the next number.
    fn step(&mut self, process: &Process, random: &mut ChaCha8Rng) {
        let page = random.random_range(0..self.at.pages());
        let seen = process.load(self.address(page)).unwrap();
        let shadow = &mut self.shadow[page as usize];
        assert_eq!(seen, *shadow, "page {page} word {}: a store was lost, or a stale value seen", self.word);
        *shadow += 1;
        let next = *shadow;
        process.store(self.address(page), next).unwrap();
    }

    fn check(&self, process: &Process) {
        for page in 0..self.at.pages() {
            assert_eq!(process.load(self.address(page)).unwrap(), self.shadow[page as usize], "page {page}");
        }
    }
}

/// Moves whatever moves: a random stretch of memory, in a random mode and batch.
fn mover(lab: &Lab) -> Act<'_> {
    Box::new(|random| {
        let frames = lab.engine.physical().frames().len();
        let first = random.random_range(0..frames);
        let pfns: Vec<Pfn> = (first..(first + 300).min(frames)).map(pfn).collect();
        let mode = [Mode::Async, Mode::SyncLight, Mode::Sync][random.random_range(0..3)];
        let batch = BATCHES[random.random_range(0..5)];
        lab.migrate_all(&pfns, Options { batch, ..Options::new(mode) });
    })
}

fn compactor(lab: &Lab) -> Act<'_> {
    Box::new(|_| {
        let zone = lab.engine.physical().zones().next().unwrap();
        compact(&lab.engine, zone, Goal::All, Options::new(Mode::SyncLight));
    })
}

fn for_both(test: impl Fn(&Lab, u64)) {
    for tlb in BOTH {
        let seed = seed();
        let lab = Lab::new(tlb, 8);
        let before = lab.free_frames();
        test(&lab, seed);
        lab.validate();
        assert_eq!(lab.free_frames(), before, "frames leaked");
    }
}

#[test]
fn writers_of_anonymous_and_driver_pages_while_two_movers_and_a_compactor_run() {
    for_both(|lab, seed| {
        let file = CharDevice::new(&lab.engine, "chardev").open(40);
        let (one, two) = (lab.process(), lab.process());
        let at = shared(&one, file.clone(), 40, RW);
        anonymous(&two, 5);
        let at_two = shared(&two, file.clone(), 40, RW);
        let own = anonymous(&one, 200);
        let mut words = [Words::new(at, 1), Words::new(at_two, 2), Words::new(own, 3)];
        let [first, second, third] = &mut words;
        fire(
            lab,
            seed,
            vec![
                Box::new(|random| first.step(&one, random)),
                Box::new(|random| second.step(&two, random)),
                Box::new(|random| third.step(&one, random)),
                mover(lab),
                mover(lab),
                compactor(lab),
            ],
        );
        for (words, process) in words.iter().zip([&one, &two, &one]) {
            words.check(process);
        }
    });
}

#[test]
fn driver_and_processes_use_the_same_pages_and_the_driver_frees_some() {
    for_both(|lab, seed| {
        let file = CharDevice::new(&lab.engine, "chardev").open(64);
        let process = lab.process();
        let at = shared(&process, file.clone(), 64, RW);
        // The lower half is written by both sides, the upper half freed again and again.
        let lower = VirtRange::new(at.start(), 32).unwrap();
        let mut words = Words::new(lower, 0);
        let driver = AtomicU64::new(0);
        fire(
            lab,
            seed,
            vec![
                Box::new(|random| words.step(&process, random)),
                Box::new(|random| {
                    let page = random.random_range(0..32);
                    let next = driver.load(Ordering::Relaxed) + 1;
                    file.write(page, 9, next).unwrap();
                    driver.store(next, Ordering::Relaxed);
                    assert_eq!(file.read(page, 9).unwrap(), next);
                }),
                Box::new(|random| {
                    file.free(random.random_range(32..64));
                }),
                Box::new(|random| {
                    let page = random.random_range(32..64);
                    let address = at.start().up(page);
                    // Freed between the two, it reads as a cleared page.
                    process.store(address, 77).unwrap();
                    let seen = process.load(address).unwrap();
                    assert!(seen == 77 || seen == 0, "page {page} holds {seen}");
                }),
                mover(lab),
                mover(lab),
            ],
        );
        words.check(&process);
    });
}

#[test]
fn mappings_come_go_and_change_while_pages_move() {
    for_both(|lab, seed| {
        let file = CharDevice::new(&lab.engine, "chardev").open(32);
        let process = lab.process();
        let stable = shared(&process, file.clone(), 32, RW);
        let mut words = Words::new(stable, 0);
        let other = lab.process();
        fire(
            lab,
            seed,
            vec![
                Box::new(|random| words.step(&process, random)),
                // Maps, uses, protects, moves and unmaps the same pages elsewhere.
                Box::new(|random| {
                    let at = shared(&other, file.clone(), 32, RW);
                    let page = random.random_range(0..32);
                    other.store(VirtAddr::new(at.start().up(page).get() + 80).unwrap(), 5).unwrap();
                    other.space().mprotect(at, Protection::READ).unwrap();
                    other.load(at.start().up(page)).unwrap();
                    let at = other.space().mremap(at, 32, Some(VirtAddr::new(0x1_0000_0000).unwrap())).unwrap();
                    assert_eq!(other.load(VirtAddr::new(at.start().up(page).get() + 80).unwrap()).unwrap(), 5);
                    let half = VirtRange::new(at.start().up(random.random_range(0..16)), 16).unwrap();
                    other.space().munmap(half).unwrap();
                    other.space().munmap(at).unwrap();
                }),
                mover(lab),
                mover(lab),
            ],
        );
        words.check(&process);
    });
}

#[test]
fn forks_and_exits_while_pages_move() {
    for_both(|lab, seed| {
        let file = CharDevice::new(&lab.engine, "chardev").open(16);
        let process = lab.process();
        let at = shared(&process, file.clone(), 16, RW);
        let own = anonymous(&process, 32);
        let mut words = [Words::new(at, 0), Words::new(own, 0)];
        let [first, second] = &mut words;
        fire(
            lab,
            seed,
            vec![
                Box::new(|random| first.step(&process, random)),
                Box::new(|random| second.step(&process, random)),
                Box::new(|random| {
                    let child = process.fork().unwrap();
                    let page = random.random_range(0..32);
                    let address = VirtAddr::new(own.start().up(page).get() + 8).unwrap();
                    // The child's own from now on: the parent does not see it, nor a grandchild's.
                    child.store(address, 1).unwrap();
                    let grandchild = child.fork().unwrap();
                    grandchild.store(address, 2).unwrap();
                    assert_eq!(child.load(address).unwrap(), 1);
                    assert_eq!(process.load(address).unwrap(), 0);
                    drop(child);
                    assert_eq!(grandchild.load(address).unwrap(), 2);
                    let shared = VirtAddr::new(at.start().up(page % 16).get() + 16).unwrap();
                    grandchild.store(shared, 6).unwrap();
                    assert_eq!(process.load(shared).unwrap(), 6);
                }),
                mover(lab),
                mover(lab),
            ],
        );
        words.iter().for_each(|words| words.check(&process));
    });
}

#[test]
fn pins_hold_pages_while_everything_else_moves() {
    for_both(|lab, seed| {
        let file = CharDevice::new(&lab.engine, "chardev").open(32);
        let process = lab.process();
        let at = shared(&process, file.clone(), 32, RW);
        let own = anonymous(&process, 32);
        let mut words = [Words::new(at, 0), Words::new(own, 0)];
        let [first, second] = &mut words;
        let pin = |range: VirtRange, word: usize| {
            let process = &process;
            move |random: &mut ChaCha8Rng| {
                let page = random.random_range(0..32);
                let one = VirtRange::new(range.start().up(page), 1).unwrap();
                let pinned = process.space().pin(one, true, "fire").unwrap();
                let address = VirtAddr::new(one.start().get() + word as u64 * 8).unwrap();
                for value in 0..20 {
                    // What the device writes the process reads, and the other way round, all the time.
                    pinned[0].words(0)[word].store(value, Ordering::SeqCst);
                    assert_eq!(process.load(address).unwrap(), value);
                    process.store(address, value + 100).unwrap();
                    assert_eq!(pinned[0].words(0)[word].load(Ordering::SeqCst), value + 100);
                }
            }
        };
        fire(
            lab,
            seed,
            vec![
                Box::new(|random| first.step(&process, random)),
                Box::new(|random| second.step(&process, random)),
                Box::new(pin(at, 20)),
                Box::new(pin(own, 21)),
                mover(lab),
                mover(lab),
            ],
        );
        words.iter().for_each(|words| words.check(&process));
    });
}

/// 2 MiB pages are mapped, moved whole, split by unmapping and pinning, all at the same time.
#[test]
fn selftests_transhuge_stress() {
    for tlb in [TlbKind::Soft, TlbKind::Host] {
        let seed = seed();
        let lab = Lab::new(tlb, 24);
        let before = lab.free_frames();
        {
            let process = lab.process();
            let map = Map { at: None, pages: 1024, protection: RW, source: Source::Anonymous { orders: Orders::HUGE } };
            let stable = process.space().mmap(&map).unwrap();
            let mut words = Words::new(stable, 0);
            fire(
                &lab,
                seed,
                vec![
                    Box::new(|random| words.step(&process, random)),
                    Box::new(|random| {
                        let at = process.space().mmap(&Map { pages: 512, ..map.clone() }).unwrap();
                        let page = random.random_range(0..512);
                        process.store(at.start().up(page), 3).unwrap();
                        let cut = random.random_range(0..511);
                        process.space().munmap(VirtRange::new(at.start().up(cut), 1).unwrap()).unwrap();
                        if cut != page {
                            assert_eq!(process.load(at.start().up(page)).unwrap(), 3);
                        }
                        process.space().munmap(at).unwrap();
                    }),
                    mover(&lab),
                    mover(&lab),
                ],
            );
            words.check(&process);
        }
        lab.validate();
        assert_eq!(lab.free_frames(), before, "frames leaked");
    }
}

/// A file closed, with its driver unregistered, while its pages move.
#[test]
fn files_open_and_close_while_pages_move() {
    for_both(|lab, seed| {
        let device = CharDevice::new(&lab.engine, "chardev");
        let use_file = |random: &mut ChaCha8Rng| {
            let file: Arc<DeviceFile> = device.open(16);
            let process = lab.process();
            let at = shared(&process, file.clone(), 16, RW);
            for address in at.iter() {
                process.store(address, 4).unwrap();
            }
            if random.random() {
                file.registration().unregister();
            }
            for address in at.iter() {
                assert_eq!(process.load(address).unwrap(), 4);
            }
        };
        fire(lab, seed, vec![Box::new(use_file), Box::new(use_file), mover(lab), mover(lab)]);
    });
}
