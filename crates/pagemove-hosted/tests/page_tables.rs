//! Page tables move, of every level and while threads run on them: what a process sees, its marks and rights, and memory's
//! accounts stay as they were.
//!
//! Varied: level, mode, TLB, several tables of a batch (some below others), 2 MiB entries, faults, unmapping, forks and other
//! moves beside, a process that ends, lack of memory, a held lock. Not varied: a machine whose CPUs have several roots loaded.
mod common;

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use common::*;
use pagemove::{
    compact::{Goal, Observation, compact},
    frame::{Class, Kind},
    migrate::{Mode, Options, Policy},
    paging::{Flags, Format},
    report::{Counter, Reason},
    space::{Map, Orders, PageCache, Protection, Source},
    units::{FrameRange, HUGE_ORDER, Pfn, VirtRange},
};
use pagemove_hosted::{Process, TableFormat, TlbKind, enter_cpu};
use rand::RngExt;

fn zone(lab: &Lab) -> FrameRange {
    lab.physical().zones().next().unwrap()
}

/// The page tables of all processes, upwards.
fn tables(lab: &Lab) -> Vec<Pfn> {
    zone(lab).iter().filter(|&pfn| lab.physical().frame(pfn).state().is_space_table()).collect()
}

/// A mapping with base pages in two lowest-level tables, and one of 2 MiB; page `n` holds `n`.
struct Subject {
    process: Process,
    base: VirtRange,
    huge: VirtRange,
}

impl Subject {
    fn new(lab: &Lab) -> Self {
        let process = lab.process();
        let start = process.space().bounds().start().align_down_huge().up(512 - 3);
        let source = Source::Anonymous { orders: Orders::BASE };
        let base = process.space().mmap(&Map { at: Some(start), pages: 6, protection: RW, source }).unwrap();
        let huge = huge(&process, 512);
        for at in [base, huge] {
            fill(&process, at);
        }
        Self { process, base, huge }
    }

    /// All entries, with rights and marks.
    fn entries(&self) -> Vec<(u64, u64)> {
        let mut all = Vec::new();
        self.process.space().for_each_entry(|address, entry| all.push((address.get(), entry.bits())));
        all
    }

    fn check(&self) {
        for cpu in 0..4 {
            enter_cpu(cpu);
            assert_holds(&self.process, self.base, 0);
            assert_holds(&self.process, self.huge, 0);
        }
    }
}

#[test]
fn each_table_moves_alone_in_every_mode() {
    on_both(6, |lab| {
        let subject = Subject::new(lab);
        subject.check();
        let free = lab.free_frames();
        // The root, one of each upper level, and two of the lowest.
        assert_eq!(tables(lab).len() as u32, 5 - FEWER);
        for mode in MODES {
            let entries = subject.entries();
            let root = subject.process.space().table().root();
            for table in tables(lab) {
                assert_eq!(lab.migrate(table, mode), Ok(()));
                assert!(!lab.physical().frame(table).state().is_space_table(), "{table} is still in use");
                assert_eq!(tables(lab).len() as u32, 5 - FEWER);
                subject.check();
                lab.validate();
            }
            assert_ne!(subject.process.space().table().root(), root);
            assert_eq!(subject.entries(), entries, "an entry, a right or a mark changed");
        }
        assert_eq!(lab.free_frames(), free);
        let moved = lab.physical().counters().get(Counter::PagetableMigrationSuccess);
        assert_eq!(moved, 3 * u64::from(5 - FEWER));
        // The tables still grow and shrink.
        let more = anonymous(&subject.process, 2000);
        fill(&subject.process, more);
        assert_holds(&subject.process, more, 0);
        for range in [more, subject.base, subject.huge] {
            subject.process.space().munmap(range).unwrap();
        }
        assert_eq!(tables(lab), [subject.process.space().table().root()]);
        lab.validate();
    });
}

/// Tables below others in one batch, those of two processes, pages among them, and some listed twice.
#[test]
fn all_tables_move_in_one_call_with_pages() {
    on_both(8, |lab| {
        let subject = Subject::new(lab);
        let child = subject.process.fork().unwrap();
        child.store(subject.base.start(), 77).unwrap();
        for mode in MODES {
            let before = tables(lab);
            let mut sources = before.clone();
            sources.extend(subject.base.iter().map(|page| pfn_at(&subject.process, page)));
            sources.extend(before.iter().rev());
            let outcome = lab.migrate_all(&sources, Options::new(mode));
            assert_eq!((outcome.moved, outcome.stayed), (before.len() as u64 + 6, vec![]));
            assert!(tables(lab).iter().all(|table| !before.contains(table)));
            subject.check();
            assert_eq!(child.load(subject.base.start()).unwrap(), 77);
            assert_holds(&child, part(subject.base, 1, 5), 1);
            lab.validate();
        }
    });
}

/// A CPU that has a translation sets the dirty mark through tables that it keeps: never in a table that has moved away.
#[test]
fn marks_of_later_stores_are_not_lost() {
    on_both(4, |lab| {
        let process = lab.process();
        let at = anonymous(&process, 8);
        fill(&process, at);
        for table in tables(lab) {
            process.space().clear_soft_dirty();
            // Loads only, so that each CPU has a translation without the right to store.
            for cpu in 0..4 {
                enter_cpu(cpu);
                assert_holds(&process, at, 0);
            }
            lab.migrate(table, Mode::Sync).unwrap();
            for (page, cpu) in at.iter().zip([0, 1, 2, 3].into_iter().cycle()) {
                assert!(!process.space().entry(page).has(Flags::SOFT_DIRTY));
                enter_cpu(cpu);
                process.store(page, process.load(page).unwrap()).unwrap();
                assert!(process.space().entry(page).has(Flags::SOFT_DIRTY | Flags::DIRTY));
            }
        }
    });
}

#[test]
fn without_a_free_frame_a_table_stays_and_says_so() {
    on_both(1, |lab| {
        let process = lab.process();
        let at = anonymous(&process, 3);
        fill(&process, at);
        let before = tables(lab);
        let all = lab.take_all(Kind::Kernel);
        for &table in &before {
            assert_eq!(lab.migrate(table, Mode::Sync), Err(Reason::NoDestination));
        }
        assert_eq!(tables(lab), before);
        drop(all);
        assert_holds(&process, at, 0);
        lab.validate();
    });
}

/// As Linux leaves page tables where they are, so do the policies that stand for it; and those of a device stay in any case.
#[test]
fn policies_and_the_tables_of_devices() {
    on_both(2, |lab| {
        let process = lab.process();
        fill(&process, anonymous(&process, 3));
        let root = process.space().table().root();
        for policy in [Policy::Unmovable, Policy::Unmapped] {
            let outcome = lab.migrate_all(&[root], Options { policy, ..Options::new(Mode::Sync) });
            assert_eq!(outcome.stayed, [(root, Reason::Unmovable)]);
        }
        let of_device = lab.physical().alloc(order(0), Kind::PageTable).unwrap();
        assert_eq!(lab.physical().frame(of_device.pfn()).state().class(), Class::PageTable);
        assert_eq!(lab.migrate(of_device.pfn(), Mode::Sync), Err(Reason::Unmovable));
        assert_eq!(process.space().table().root(), root);
    });
}

/// A move never waits for an address space, here for a fault: others' faults would wait with it, and the holder may want the frames
/// that the move has set aside. It leaves the table.
#[test]
fn a_move_leaves_a_locked_address_space_in_every_mode() {
    for tlb in BOTH {
        let lab: &'static Lab = keep(Lab::new(tlb, 2));
        let seen: &'static AtomicU64 = keep(AtomicU64::new(0));
        let deed = move || {
            for table in tables(lab) {
                for mode in MODES {
                    assert_eq!(lab.migrate(table, mode), Err(Reason::Locked));
                }
                seen.fetch_add(1, Ordering::Relaxed);
            }
        };
        let file = Watched::new(PageCache::new(&lab.engine, "file", 4), deed, || ());
        let process = lab.process();
        let at = shared(&process, file, 4, Protection::READ);
        process.load(at.start()).unwrap();
        assert!(seen.load(Ordering::Relaxed) > 0, "nothing was tried");
        for table in tables(lab) {
            assert_eq!(lab.migrate(table, Mode::Async), Ok(()));
        }
    }
}

/// Tables of several processes that lie between each other: a batch is of one process, and has one flush.
#[test]
fn tables_of_one_process_share_a_flush_wherever_they_lie() {
    let lab = &Lab::new(TlbKind::Soft, 8);
    let processes = [lab.process(), lab.process()];
    let source = Source::Anonymous { orders: Orders::BASE };
    let map = Map { at: None, pages: 16 * 512, protection: RW, source };
    let ranges: Vec<_> = processes.iter().map(|process| process.space().mmap(&map).unwrap()).collect();
    for page in 0..16 {
        for (process, range) in processes.iter().zip(&ranges) {
            process.store(range.start().up(page * 512), 1).unwrap();
        }
    }
    let flushes = || lab.physical().counters().get(Counter::TlbFlush);
    let (all, before) = (tables(lab), flushes());
    assert_eq!(lab.migrate_all(&all, Options::new(Mode::Sync)).moved, all.len() as u64);
    // Each process has fewer than 32, and 16 move at once.
    assert!(flushes() - before <= 4, "{} flushes for {} tables", flushes() - before, all.len());
}

/// Without a free frame the CPUs' lists are drained once, not for each table.
#[test]
fn tables_without_a_destination_interrupt_once() {
    let (lab, hooked) = Hooked::lab(TlbKind::Soft, 4);
    let processes: Vec<_> = (0..60).map(|_| lab.process()).collect();
    for process in &processes {
        fill(process, anonymous(process, 1));
    }
    let held = lab.take_all(Kind::Kernel);
    let all = tables(&lab);
    let barriers: &'static AtomicU64 = keep(AtomicU64::new(0));
    fn count(hooked: &Arc<Hooked>, barriers: &'static AtomicU64) {
        let again = hooked.clone();
        hooked.at_next_barrier(move || {
            barriers.fetch_add(1, Ordering::Relaxed);
            count(&again, barriers);
        });
    }
    count(&hooked, barriers);
    let outcome = lab.migrate_all(&all, Options::new(Mode::Sync));
    assert_eq!((outcome.moved, outcome.stayed.len()), (0, processes.len() * TableFormat::LEVELS as usize));
    assert!(outcome.stayed.iter().all(|&(_, reason)| reason == Reason::NoDestination));
    assert_eq!(barriers.load(Ordering::Relaxed), 1);
    hooked.at_next_barrier(|| ());
    drop(held);
}

/// Compaction empties a pageblock that only page tables hold.
#[test]
fn compaction_empties_blocks_of_page_tables() {
    on_both(6, |lab| {
        // Processes whose tables fill a block, and of which most then end.
        let mut processes: Vec<_> = (0..120).map(|_| lab.process()).collect();
        for process in &processes {
            fill(process, anonymous(process, 1));
        }
        let mut number = 0;
        processes.retain(|_| {
            number += 1;
            number % 12 == 0
        });
        let blocks = lab.physical().blocks();
        let with_tables =
            || -> Vec<u32> { (0..6).filter(|&block| blocks.summary(block).of(Class::SpaceTable) > 0).collect() };
        // A block that can't be emptied, so the tables have a better place.
        let held = (0..6).find(|&block| blocks.summary(block).of(Class::Free) == 512).unwrap();
        let held = lab.physical().alloc_exactly(lab.frame_in(held, 0), Kind::Kernel).unwrap();
        let before = with_tables();
        let (left, free) = (tables(lab).len(), blocks.free_blocks(zone(lab)));
        assert_eq!(left, processes.len() * TableFormat::LEVELS as usize);
        let policy = Policy::Unmapped;
        compact(&lab.engine, zone(lab), Goal::All, Options { policy, ..Options::new(Mode::Sync) });
        assert_eq!(with_tables(), before);
        compact(&lab.engine, zone(lab), Goal::All, Options::new(Mode::Sync));
        assert_eq!(with_tables(), [blocks.number(held.pfn())], "tables hold a block of their own");
        assert_eq!(tables(lab).len(), left);
        assert!(blocks.free_blocks(zone(lab)) > free);
        for process in &processes {
            let at = process.space().vmas()[0].range;
            assert_holds(process, at, 0);
        }
        lab.validate();
        drop(held);
    });
}

/// A pageblock full of page tables has nothing free, and is a candidate nevertheless.
#[test]
fn compaction_finds_a_block_full_of_page_tables() {
    on_both(8, |lab| {
        let processes: Vec<_> = (0..190).map(|_| lab.process()).collect();
        for process in &processes {
            fill(process, anonymous(process, 1));
        }
        let blocks = lab.physical().blocks();
        let full = (0..8).find(|&block| blocks.summary(block).of(Class::SpaceTable) == 512).unwrap();
        let movable = |policy| {
            let observed = Observation::of(lab.physical(), zone(lab), policy);
            observed.blocks.iter().find(|seen| seen.block == full).map(|seen| seen.tally.movable)
        };
        assert_eq!(movable(Policy::Any), Some(512));
        assert_eq!(movable(Policy::Unmapped), Some(0));
        compact(&lab.engine, zone(lab), Goal::All, Options::new(Mode::Sync));
        lab.validate();
    });
}

/// Threads store, fault, unmap, fork and exit, others move pages, while two movers move all tables all the time.
#[test]
fn tables_move_under_load() {
    const PAGES: u32 = 700;
    for (seed, tlb) in [(1, TlbKind::Soft), (2, TlbKind::Host), (3, TlbKind::Soft), (4, TlbKind::Host)] {
        let lab = &Lab::new(tlb, 8);
        let free = lab.free_frames();
        {
            let process = &lab.process();
            let start = process.space().bounds().start().align_down_huge().up(300);
            let source = Source::Anonymous { orders: Orders::up_to(HUGE_ORDER) };
            let at = process.space().mmap(&Map { at: Some(start), pages: PAGES, protection: RW, source }).unwrap();
            let over = &AtomicBool::new(false);
            let moved = &AtomicU64::new(0);
            std::thread::scope(|scope| {
                for mover in 0..2 {
                    scope.spawn(move || {
                        let mut rng = rng(seed * 10 + mover);
                        while !over.load(Ordering::Relaxed) {
                            let mode = MODES[rng.random_range(0..3)];
                            let mut sources = tables(lab);
                            if rng.random_range(0..3) == 0 {
                                let page = process.space().frame(at.start().up(rng.random_range(0..PAGES)));
                                sources.extend(page);
                            }
                            let outcome = lab.migrate_all(&sources, Options::new(mode));
                            moved.fetch_add(outcome.moved, Ordering::Relaxed);
                        }
                    });
                }
                let _end = SetAtEnd(over);
                std::thread::scope(|scope| {
                    for thread in 0..3u32 {
                        scope.spawn(move || {
                            let mut rng = rng(seed * 100 + u64::from(thread));
                            enter_cpu(thread as usize);
                            let mut stored = vec![0; PAGES as usize];
                            let own = anonymous(process, 40);
                            for turn in 1..=2000 {
                                let page = rng.random_range(0..PAGES);
                                let address = word(at.start().up(page), u64::from(thread));
                                match rng.random_range(0..60) {
                                    0 => {
                                        let child = process.fork().unwrap();
                                        assert_eq!(child.load(address).unwrap(), stored[page as usize]);
                                        child.store(address, u64::MAX).unwrap();
                                    }
                                    // Of its own, so that nobody loads meanwhile.
                                    1 => {
                                        let page = part(own, rng.random_range(0..40), 1);
                                        process.space().munmap(page).unwrap();
                                        let source = Source::Anonymous { orders: Orders::BASE };
                                        let again = Map { at: Some(page.start()), pages: 1, protection: RW, source };
                                        process.space().mmap(&again).unwrap();
                                        assert_eq!(process.load(page.start()).unwrap(), 0);
                                        process.store(page.start(), turn).unwrap();
                                    }
                                    _ => {
                                        let before = stored[page as usize];
                                        assert_eq!(process.load(address).unwrap(), before, "page {page}");
                                        process.store(address, turn).unwrap();
                                        stored[page as usize] = turn;
                                    }
                                }
                            }
                            for (page, stored) in (0..).zip(stored) {
                                let address = word(at.start().up(page), u64::from(thread));
                                assert_eq!(process.load(address).unwrap(), stored);
                            }
                            process.space().munmap(own).unwrap();
                        });
                    }
                });
            });
            // Movers may have had no turn.
            let outcome = lab.migrate_all(&tables(lab), Options::new(Mode::Sync));
            assert_eq!(outcome.stayed, []);
            println!("{tlb:?}, seed {seed}: {} moved", moved.load(Ordering::Relaxed));
            lab.validate();
        }
        lab.assert_all_free(free);
    }
}
