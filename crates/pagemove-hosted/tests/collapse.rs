//! Collapse of base pages into 2 MiB pages, with `MADV_COLLAPSE`'s results. Varies what is mapped (pages, holes, folios of other orders),
//! sharers, pins, movers, rights and marks.
mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use common::*;
use pagemove::{
    frame::Kind,
    migrate::{Mode, Options},
    paging::Flags,
    report::Counter,
    space::{CollapseError, Map, Orders, PageCache, Protection, Source},
    units::{VirtAddr, VirtRange},
};
use pagemove_hosted::{Process, enter_cpu};
use rand::RngExt;

/// `blocks` aligned 2 MiB of anonymous memory, whose folios have `orders`.
fn aligned(process: &Process, blocks: u32, orders: Orders) -> VirtRange {
    let at = Some(process.space().bounds().start().up(512 * 64).align_down_huge());
    let source = Source::Anonymous { orders };
    process.space().mmap(&Map { at, pages: 512 * blocks, protection: RW, source }).unwrap()
}

fn is_huge(process: &Process, at: VirtAddr) -> bool {
    process.space().entry(at).has(Flags::HUGE)
}

#[test]
fn base_pages_become_one_page() {
    for orders in [0, 2, 5, 8].map(|size| Orders::only(order(size))) {
        on_both(6, |lab| {
            let process = lab.process();
            let at = aligned(&process, 2, orders);
            fill(&process, at);
            for cpu in 0..4 {
                enter_cpu(cpu);
                assert_holds(&process, at, 0);
            }
            let tables = lab.count_kind(Kind::PageTable);
            process.space().collapse(at).unwrap();
            assert!(is_huge(&process, at.start()) && is_huge(&process, at.start().up(512)));
            assert_eq!((lab.count_kind(Kind::Anon), lab.count_kind(Kind::PageTable)), (2, tables - 2));
            for cpu in 0..4 {
                enter_cpu(cpu);
                assert_holds(&process, at, 0);
            }
            process.store(at.start().up(700), 701).unwrap();
            let head = pfn_at(&process, at.start());
            lab.migrate(head, Mode::Sync).unwrap();
            assert_holds(&process, at, 0);
            process.space().collapse(at).unwrap();
            let counters = lab.physical().counters();
            assert_eq!(counters.get(Counter::ThpCollapseAlloc), 2, "the second time there was nothing to do");
            lab.validate();
        });
    }
}

/// Holes are zeroes; edges that don't fill 2 MiB are left alone.
#[test]
fn holes_and_edges() {
    on_both(6, |lab| {
        let process = lab.process();
        let at = aligned(&process, 3, Orders::BASE);
        for page in [3, 511, 512 + 7, 1024] {
            process.store(at.start().up(page), u64::from(page)).unwrap();
        }
        process.space().collapse(part(at, 1, 1300)).unwrap();
        assert_eq!([0, 512, 1024].map(|page| is_huge(&process, at.start().up(page))), [false, true, false]);
        for page in 0..at.pages() {
            let expected = if [3, 511, 519, 1024].contains(&page) { u64::from(page) } else { 0 };
            assert_eq!(process.load(at.start().up(page)).unwrap(), expected);
        }
        process.space().collapse(part(at, 100, 3)).unwrap();
        assert!(!is_huge(&process, at.start()));
    });
}

#[test]
fn what_cannot_be_collapsed_says_why() {
    let lab = Lab::new(BOTH[0], 6);
    let process = lab.process();
    let at = aligned(&process, 2, Orders::BASE);
    let space = process.space();
    let start = at.start();
    assert_eq!(space.collapse(at), Err(CollapseError::Unsuitable(start.up(512))), "the last failure; no page");
    fill(&process, at);
    // Pinned, by the process or by number.
    let pin = lab.get(pfn_at(&process, start.up(9))).pin(true, "nic");
    assert_eq!(space.collapse(at), Err(CollapseError::Again(start.up(9))));
    assert!(!is_huge(&process, start) && is_huge(&process, start.up(512)), "goes on after a failure");
    drop(pin);
    let held = lab.get(pfn_at(&process, start.up(5)));
    assert_eq!(space.collapse(at), Err(CollapseError::Again(start.up(5))));
    let locked = held.lock();
    assert_eq!(space.collapse(at), Err(CollapseError::Again(start.up(5))));
    drop(locked);
    // Two mappings.
    space.mprotect(part(at, 100, 1), Protection::READ).unwrap();
    assert_eq!(space.collapse(part(at, 0, 512)), Err(CollapseError::Unsuitable(start)));
    space.mprotect(part(at, 100, 1), RW).unwrap();
    space.munmap(part(at, 0, 512)).unwrap();
    assert_eq!(space.collapse(part(at, 0, 512)), Err(CollapseError::NotMapped(start)));
    let file = PageCache::new(&lab.engine, "a file", 512);
    let source = Source::Private { file, first: 0 };
    space.mmap(&Map { at: Some(start), pages: 512, protection: RW, source }).unwrap();
    process.store(start, 1).unwrap();
    assert_eq!(space.collapse(part(at, 0, 512)), Err(CollapseError::Unsuitable(start)));
    assert_eq!(process.load(start.up(512)).unwrap(), 513);
    lab.validate();
}

#[test]
fn without_a_free_block_nothing_changes() {
    let lab = Lab::new(BOTH[0], 2);
    let process = lab.process();
    let at = aligned(&process, 1, Orders::BASE);
    part(at, 0, 200).iter().for_each(|page| process.store(page, 7).unwrap());
    let _held = [7, 512 + 300].map(|at| lab.physical().alloc_exactly(pfn(at), Kind::Kernel));
    let before = Snapshot::of(&lab, [&process]);
    assert!(matches!(process.space().collapse(at), Err(CollapseError::OutOfMemory(_))));
    Snapshot::of(&lab, [&process]).assert_same(&before, "a collapse without memory");
    // What can't be collapsed anyway isn't allocated for, which compacts.
    let space = process.space();
    space.munmap(part(at, 0, 1)).unwrap();
    assert_eq!(space.collapse(at), Err(CollapseError::NotMapped(at.start())));
}

/// A child keeps the shared pages, whatever the parent stores to its copy.
#[test]
fn sharers_keep_their_pages() {
    on_both(6, |lab| {
        let parent = lab.process();
        let at = aligned(&parent, 1, Orders::only(order(3)));
        fill(&parent, at);
        let child = parent.fork().unwrap();
        parent.space().collapse(at).unwrap();
        assert!(is_huge(&parent, at.start()) && !is_huge(&child, at.start()));
        parent.store(at.start(), 100).unwrap();
        child.store(at.start().up(1), 200).unwrap();
        assert_eq!([0, 1].map(|page| parent.load(at.start().up(page)).unwrap()), [100, 2]);
        assert_eq!([0, 1].map(|page| child.load(at.start().up(page)).unwrap()), [1, 200]);
        child.space().collapse(at).unwrap();
        assert_eq!([0, 1].map(|page| child.load(at.start().up(page)).unwrap()), [1, 200]);
        drop(parent);
        assert_holds(&child, part(at, 0, 1), 0);
        lab.validate();
    });
}

/// Rights are those of the mapping, and a store after the marks were cleared is marked again.
#[test]
fn rights_and_marks() {
    let lab = Lab::new(BOTH[0], 6);
    let process = lab.process();
    let at = aligned(&process, 1, Orders::BASE);
    fill(&process, at);
    process.space().clear_soft_dirty();
    process.space().collapse(at).unwrap();
    assert!(!process.space().entry(at.start()).has(Flags::SOFT_DIRTY));
    process.store(at.start(), 1).unwrap();
    assert!(process.space().entry(at.start()).has(Flags::SOFT_DIRTY | Flags::DIRTY));
    process.space().munmap(part(at, 0, 512)).unwrap();
    let at = aligned(&process, 1, Orders::BASE);
    fill(&process, at);
    process.space().mprotect(at, Protection::READ).unwrap();
    process.space().collapse(at).unwrap();
    assert!(process.store(at.start(), 9).is_err());
    assert_holds(&process, at, 0);
}

/// Stores by sequence numbers, forks, pins and splits, while one thread collapses and another moves.
#[test]
fn threads_store_while_others_collapse_and_move() {
    for (seed, tlb) in [(1, BOTH[0]), (2, BOTH[1])] {
        let lab = Lab::new(tlb, 8);
        let free = lab.free_frames();
        {
            let process = lab.process();
            let at = aligned(&process, 1, Orders::up_to(order(4)));
            let (over, moved) = (AtomicBool::new(false), AtomicU64::new(0));
            let (lab, process) = (&lab, &process);
            std::thread::scope(|scope| {
                let (over, moved) = (&over, &moved);
                scope.spawn(move || {
                    while !over.load(Ordering::Relaxed) {
                        let _ = process.space().collapse(at);
                        std::thread::yield_now();
                    }
                });
                scope.spawn(move || {
                    let mut rng = rng(seed);
                    while !over.load(Ordering::Relaxed) {
                        let mut pages = Vec::new();
                        process.space().for_each_entry(|_, entry| pages.push(entry.pfn()));
                        let mode = MODES[rng.random_range(0..3)];
                        moved.fetch_add(lab.migrate_all(&pages, Options::new(mode)).moved, Ordering::Relaxed);
                    }
                });
                let _end = SetAtEnd(over);
                std::thread::scope(|scope| {
                    for thread in 0..2 {
                        scope.spawn(move || {
                            let mut rng = rng(seed * 100 + thread as u64);
                            enter_cpu(thread);
                            let mut stored = [0; 512];
                            for _ in 0..2000 {
                                let page = rng.random_range(0..512);
                                let address = word(at.start().up(page), thread as u64);
                                match rng.random_range(0..100) {
                                    0 => {
                                        let child = process.fork().unwrap();
                                        assert_eq!(child.load(address).unwrap(), stored[page as usize]);
                                    }
                                    1 => drop(process.space().pin(part(at, page, 1), true, "nic")),
                                    2 => process.space().clear_soft_dirty(),
                                    _ => {
                                        assert_eq!(
                                            process.load(address).unwrap(),
                                            stored[page as usize],
                                            "page {page}"
                                        );
                                        stored[page as usize] += 1;
                                        process.store(address, stored[page as usize]).unwrap();
                                    }
                                }
                            }
                        });
                    }
                });
            });
            lab.validate();
            process.space().collapse(at).unwrap();
            assert!(is_huge(process, at.start()));
            lab.validate();
        }
        lab.assert_all_free(free);
    }
}
