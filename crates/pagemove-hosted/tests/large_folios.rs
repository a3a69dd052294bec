//! Folios of orders 1 to 8: allocated by one fault, mapped by base entries, moved whole, shared by forks, split. Varies the order, the
//! number of processes, pins, what is unmapped, the mode and the batch.
mod common;

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use common::*;
use pagemove::{
    compact::compact_for_allocations,
    frame::Kind,
    migrate::{Mode, Options, Purpose, split},
    paging::{Flags, Format},
    report::{Counter, Reason},
    space::{Map, Orders, Protection, Source},
    units::{Order, Pfn, VirtRange},
};
use pagemove_hosted::{Process, TableFormat, TlbKind, enter_cpu};
use rand::RngExt;

/// A mapping of one folio of `order`, whose page `n` holds `n + 1`.
fn filled(process: &Process, order: Order) -> VirtRange {
    let at = large(process, order.frames(), Orders::only(order));
    fill(process, at);
    at
}

fn counter(lab: &Lab, counter: Counter) -> u64 {
    lab.physical().counters().get(counter)
}

const SMALL: [u8; 4] = [1, 2, 4, 8];

#[test]
fn one_fault_brings_a_whole_folio() {
    for size in SMALL.map(order) {
        on_both(3, |lab| {
            let process = lab.process();
            let at = large(&process, size.frames() * 2, Orders::only(size));
            process.load(at.start().up(size.frames() - 1)).unwrap();
            let (faults, head) = (counter(lab, Counter::Pgfault), pfn_at(&process, at.start()));
            for page in 0..size.frames() {
                let entry = process.space().entry(at.start().up(page));
                assert_eq!(entry.pfn(), head.up(page));
                let is_marked = page == size.frames() - 1 || !TableFormat::CPU_SETS_MARKS;
                assert_eq!(entry.has(Flags::ACCESSED), is_marked, "only the page that was used");
                assert_eq!(process.load(at.start().up(page)).unwrap(), 0);
            }
            assert_eq!(counter(lab, Counter::Pgfault), faults);
            let frame = lab.physical().frame(head);
            assert_eq!((frame.state().order(), frame.refs(), frame.maps()), (size, size.frames(), size.frames()));
            assert!(process.space().entry(at.start().up(size.frames())).is_none(), "the next folio");
            lab.validate();
        });
    }
}

/// Where an order doesn't fit, or part of the place is taken, or memory is fragmented, a smaller one does.
#[test]
fn the_order_falls_back() {
    on_both(2, |lab| {
        let process = lab.process();
        let order_at = |page: u32, at: VirtRange| {
            lab.physical().frame(lab.get(pfn_at(&process, at.start().up(page))).pfn()).state().order()
        };
        // 13 pages: 8, 4 and 1.
        let at = large(&process, 13, Orders::up_to(order(4)));
        at.iter().for_each(|page| process.store(page, 1).unwrap());
        assert_eq!([0, 8, 12].map(|page| order_at(page, at).get()), [3, 2, 0]);
        process.space().munmap(part(at, 1, 1)).unwrap();
        let source = Source::Anonymous { orders: Orders::up_to(order(4)) };
        let again = Map { at: Some(at.start().up(1)), pages: 1, protection: RW, source };
        process.space().mmap(&again).unwrap();
        process.store(at.start().up(1), 2).unwrap();
        assert_eq!(order_at(1, at), Order::ZERO, "its neighbours are there");
        // No two neighbours are free.
        let held: Vec<_> = lab.take_all(Kind::Kernel);
        let (kept, freed): (Vec<_>, Vec<_>) = held.into_iter().partition(|folio| folio.pfn().get() % 2 == 0);
        drop(freed);
        let other = large(&process, 16, Orders::up_to(order(4)));
        fill(&process, other);
        assert!((0..16).all(|page| order_at(page, other) == Order::ZERO));
        assert_holds(&process, other, 0);
        drop(kept);
    });
}

#[test]
fn moves_whole_in_every_mode_and_batch() {
    for size in SMALL.map(order) {
        on_both(4, |lab| {
            let process = lab.process();
            let at = filled(&process, size);
            let child = process.fork().unwrap();
            process.space().clear_soft_dirty();
            for mode in MODES {
                for batch in BATCHES {
                    let before = pfn_at(&process, at.start());
                    let flags: Vec<_> = at.iter().map(|page| process.space().entry(page).flags()).collect();
                    let whole = counter(lab, Counter::ThpMigrationSuccess);
                    // By any of its frames.
                    let source = before.up(size.frames() / 2);
                    let outcome = lab.migrate_all(&[source], Options { batch, ..Options::new(mode) });
                    assert_eq!((outcome.moved, outcome.stayed), (u64::from(size.frames()), vec![]));
                    assert_eq!(counter(lab, Counter::ThpMigrationSuccess), whole + 1);
                    let now = pfn_at(&process, at.start());
                    assert_ne!(now, before);
                    for (number, page) in at.iter().enumerate() {
                        let entry = process.space().entry(page);
                        assert_eq!((entry.pfn(), entry.flags()), (now.up(number as u32), flags[number]));
                    }
                    for cpu in 0..4 {
                        enter_cpu(cpu);
                        assert_holds(&process, at, 0);
                        assert_holds(&child, at, 0);
                    }
                    lab.validate();
                }
            }
        });
    }
}

/// A store after a fork copies just its page. Once only one process is left, nothing is copied that nobody else maps.
#[test]
fn a_fork_shares_it_and_a_store_copies_one_page() {
    for size in SMALL.map(order) {
        on_both(3, |lab| {
            let parent = lab.process();
            let at = filled(&parent, size);
            let head = pfn_at(&parent, at.start());
            let child = parent.fork().unwrap();
            assert_eq!(lab.physical().frame(head).maps(), 2 * size.frames());
            child.store(at.start(), 100).unwrap();
            assert_eq!((parent.load(at.start()).unwrap(), child.load(at.start()).unwrap()), (1, 100));
            let frames = lab.physical().frames();
            assert_eq!([0, 1].map(|page| frames.page_maps(head.up(page))), [1, 2]);
            // Only the parent maps page 0 now: not copied.
            parent.store(at.start(), 200).unwrap();
            assert_eq!(pfn_at(&parent, at.start()), head);
            drop(parent);
            assert!(frames.is_partly_mapped(head));
            let last = at.start().up(size.frames() - 1);
            child.store(last, 300).unwrap();
            assert_eq!(pfn_at(&child, last), head.up(size.frames() - 1), "nobody else maps it");
            lab.validate();
        });
    }
}

/// Pinned by one page, all of it stays; a fork copies it, so that the device keeps the parent's.
#[test]
fn a_pin_of_one_page_holds_the_whole() {
    for size in SMALL.map(order) {
        on_both(3, |lab| {
            let parent = lab.process();
            let at = filled(&parent, size);
            let head = pfn_at(&parent, at.start());
            let last = size.frames() - 1;
            let pins = parent.space().pin(part(at, last, 1), true, "nic").unwrap();
            assert_eq!(pins[0].pfn(), head.up(last));
            assert_eq!(lab.physical().pins().of(head.up(last))[0].who, "nic");
            for mode in MODES {
                assert_eq!(lab.migrate(head, mode), Err(Reason::Pinned));
            }
            let (_, reason) = split(&lab.engine, lab.get(head).lock()).map(drop).unwrap_err();
            assert_eq!(reason, Reason::Pinned);
            let child = parent.fork().unwrap();
            assert!(at.iter().all(|page| pfn_at(&child, page) != pfn_at(&parent, page)));
            pins[0].words(0)[0].store(77, Ordering::SeqCst);
            parent.store(at.start(), 78).unwrap();
            assert_eq!((parent.load(at.start().up(last)).unwrap(), parent.load(at.start()).unwrap()), (77, 78));
            assert_holds(&child, at, 0);
            drop(pins);
            lab.migrate(head, Mode::Sync).unwrap();
            assert_eq!(parent.load(at.start().up(last)).unwrap(), 77);
            lab.validate();
        });
    }
}

/// What is left of one still moves whole; a split frees what nobody maps, and leaves contents, marks and sharers.
#[test]
fn a_part_of_one() {
    for size in [2, 4, 8].map(order) {
        on_both(3, |lab| {
            let process = lab.process();
            let at = filled(&process, size);
            let child = process.fork().unwrap();
            // The parent has no page 1, the child no page 1 and 2.
            process.space().munmap(part(at, 1, 1)).unwrap();
            child.space().munmap(part(at, 1, 2)).unwrap();
            let head = pfn_at(&process, at.start());
            assert!(lab.physical().frames().is_partly_mapped(head));
            let rest = part(at, 3, size.frames() - 3);
            let check = || {
                assert_eq!(process.load(at.start().up(2)).unwrap(), 3);
                assert_holds(&process, rest, 3);
                assert_holds(&child, rest, 3);
                lab.validate();
            };
            lab.migrate(head, Mode::Sync).unwrap();
            check();
            let (head, free) = (pfn_at(&process, at.start()), lab.free_frames());
            assert_eq!(lab.physical().frame(head).state().order(), size);
            let parts = split(&lab.engine, lab.get(head).lock()).unwrap();
            assert_eq!(parts.len(), size.frames() as usize);
            drop(parts);
            assert_eq!(lab.free_frames(), free + 1);
            assert!(rest.iter().all(|page| lab.physical().frame(pfn_at(&process, page)).maps() == 2));
            check();
            for page in rest.iter() {
                lab.migrate(pfn_at(&process, page), Mode::Async).unwrap();
            }
            check();
        });
    }
}

/// mprotect, mremap (also to where it isn't aligned) and soft-dirty act on pages; a move finds them all.
#[test]
fn changes_of_parts() {
    for size in [2, 4, 8].map(order) {
        on_both(3, |lab| {
            let process = lab.process();
            let at = filled(&process, size);
            process.space().mprotect(part(at, 1, 1), Protection::READ).unwrap();
            let away = process.space().mremap(part(at, 2, 2), 2, Some(at.end().up(1001))).unwrap();
            assert_holds(&process, away, 2);
            let head = pfn_at(&process, at.start());
            lab.migrate(head, Mode::Sync).unwrap();
            let now = pfn_at(&process, at.start());
            assert_eq!((now != head, pfn_at(&process, away.start())), (true, now.up(2)));
            assert_holds(&process, part(at, 0, 2), 0);
            assert_holds(&process, away, 2);
            assert!(!process.space().entry(at.start().up(1)).has(Flags::WRITE));
            process.space().mprotect(part(at, 1, 1), RW).unwrap();
            process.store(at.start().up(1), 2).unwrap();
            lab.validate();
        });
    }
}

/// If nothing of its order is free its pages move, except in a move that doesn't wait.
#[test]
fn without_a_destination_it_is_split() {
    on_both(2, |lab| {
        let process = lab.process();
        let at = filled(&process, order(4));
        let head = pfn_at(&process, at.start());
        // Every other free frame.
        let held: Vec<_> = lab.take_all(Kind::Kernel);
        let (kept, freed): (Vec<_>, Vec<_>) = held.into_iter().partition(|folio| folio.pfn().get() % 2 == 0);
        drop(freed);
        lab.physical().drain_cpu_lists();
        assert_eq!(lab.migrate(head.up(3), Mode::Async), Err(Reason::Order));
        let outcome = lab.migrate_all(&[head], Options::new(Mode::SyncLight));
        assert_eq!((outcome.moved, outcome.stayed), (16, vec![]));
        assert_eq!(counter(lab, Counter::ThpMigrationSplit), 1);
        assert!(at.iter().all(|page| pfn_at(&process, page).get().wrapping_sub(head.get()) >= 16));
        assert_holds(&process, at, 0);
        lab.validate();
        drop(kept);
    });
}

/// Compaction fills holes of a folio's order with whole folios.
#[test]
fn compaction_moves_it_whole() {
    on_both(6, |lab| {
        let process = lab.process();
        let ranges: Vec<_> = (0..40).map(|_| filled(&process, order(4))).collect();
        // Free some, so that no block is full.
        for range in ranges.iter().step_by(2) {
            process.space().munmap(*range).unwrap();
        }
        let plan_of = lab.physical().zones().next().unwrap();
        let options = Options::new(Mode::Sync);
        let outcomes = pagemove::compact::compact(&lab.engine, plan_of, pagemove::compact::Goal::All, options);
        let moved: u64 = outcomes.iter().map(|outcome| outcome.moved).sum();
        let tables = counter(lab, Counter::PagetableMigrationSuccess);
        assert_eq!(counter(lab, Counter::ThpMigrationSuccess) * 16 + tables, moved);
        assert_eq!(counter(lab, Counter::ThpSplitPage), 0);
        for range in ranges.iter().skip(1).step_by(2) {
            assert_holds(&process, *range, 0);
            assert_eq!(lab.physical().frame(pfn_at(&process, range.start())).state().order(), order(4));
        }
        lab.validate();
    });
}

/// What nobody maps of a folio is memory for a fault that would fail otherwise.
#[test]
fn partly_mapped_folios_are_split_when_memory_is_wanted() {
    for is_wanted in [false, true] {
        let lab = Lab::new(TlbKind::Soft, 2);
        let free = lab.free_frames();
        {
            if is_wanted {
                compact_for_allocations(&lab.engine, Options::new(Mode::Sync));
            }
            let process = lab.process();
            let at = large(&process, 16 * 20, Orders::only(order(4)));
            fill(&process, at);
            // One page in each folio, but for three folios.
            for folio in 3..20 {
                process.space().munmap(part(at, folio * 16 + 1, 15)).unwrap();
            }
            assert_eq!(lab.physical().partly_mapped(), 17);
            // Moved, it's still known.
            lab.migrate(pfn_at(&process, at.start().up(16 * 5)), Mode::Sync).unwrap();
            process.space().munmap(part(at, 16 * 6, 1)).unwrap();
            assert_eq!(lab.physical().partly_mapped(), 16);
            let held = lab.take_all(Kind::Kernel);
            let more = large(&process, 16 * 15 + 1, Orders::BASE);
            let stored = more.iter().take_while(|&page| process.store(page, 1).is_ok()).count();
            assert_eq!(stored, if is_wanted { 16 * 15 - 1 } else { 0 }, "one frame is a table");
            assert_eq!(lab.physical().partly_mapped(), if is_wanted { 0 } else { 16 });
            assert_holds(&process, part(at, 0, 48), 0);
            assert_eq!(process.load(at.start().up(16 * 5)).unwrap(), 16 * 5 + 1);
            lab.validate();
            drop(held);
        }
        assert_eq!(lab.physical().partly_mapped(), 0);
        lab.assert_all_free(free);
    }
}

/// Threads that fault the same folios, fork, unmap parts, pin, and store by sequence numbers, while movers and splitters work.
#[test]
fn threads_fault_fork_and_split_while_movers_move() {
    const PAGES: u32 = 96;
    for (seed, tlb) in [(1, BOTH[0]), (2, BOTH[1]), (3, BOTH[0])] {
        let lab = Lab::new(tlb, 6);
        let free = lab.free_frames();
        {
            let process = lab.process();
            let at = large(&process, PAGES, Orders::up_to(order(5)));
            let (over, moved) = (AtomicBool::new(false), AtomicU64::new(0));
            let stores: Vec<AtomicU64> = (0..PAGES * 2).map(|_| AtomicU64::new(0)).collect();
            let (lab, process, stores) = (&lab, &process, &stores);
            let moved = &moved;
            std::thread::scope(|scope| {
                for mover in 0..2 {
                    let over = &over;
                    scope.spawn(move || {
                        let mut rng = rng(seed * 10 + mover);
                        while !over.load(Ordering::Relaxed) {
                            let page = at.start().up(rng.random_range(0..PAGES));
                            let entry = process.space().entry(page);
                            if !entry.is_present() {
                                continue;
                            }
                            if rng.random_range(0..6) == 0 {
                                if let Some(folio) = lab.get_if(entry.pfn()) {
                                    let _ = split(&lab.engine, folio.lock());
                                }
                                continue;
                            }
                            let mode = MODES[rng.random_range(0..3)];
                            let batch = BATCHES[rng.random_range(0..5)];
                            let purpose = Purpose::ALL[rng.random_range(0..5)];
                            let options = Options { batch, purpose, ..Options::new(mode) };
                            let sources: Vec<Pfn> =
                                (0..40).map(|number| Pfn::new(entry.pfn().get() ^ number)).collect();
                            moved.fetch_add(lab.migrate_all(&sources, options).moved, Ordering::Relaxed);
                        }
                    });
                }
                let _end = SetAtEnd(&over);
                std::thread::scope(|scope| {
                    for thread in 0..2 {
                        scope.spawn(move || {
                            let mut rng = rng(seed * 100 + thread);
                            enter_cpu(thread as usize);
                            // Each thread has a word of its own in every page; pages of the last third go and come.
                            let mine = |page: u32| (page * 2) as usize + thread as usize;
                            for _ in 0..3000 {
                                let page = rng.random_range(0..PAGES);
                                let address = word(at.start().up(page), thread);
                                match rng.random_range(0..60) {
                                    0 => {
                                        let child = process.fork().unwrap();
                                        let want = stores[mine(page)].load(Ordering::Relaxed);
                                        if page < PAGES / 3 * 2 {
                                            assert_eq!(child.load(address).unwrap(), want);
                                            child.store(address, u64::MAX).unwrap();
                                        }
                                    }
                                    1 => drop(process.space().pin(part(at, page, 1), true, "nic")),
                                    2 if thread == 0 => {
                                        let first = PAGES / 3 * 2 + rng.random_range(0..PAGES / 3);
                                        process.space().munmap(part(at, first, 1)).unwrap();
                                        let source = Source::Anonymous { orders: Orders::up_to(order(5)) };
                                        let again =
                                            Map { at: Some(at.start().up(first)), pages: 1, protection: RW, source };
                                        process.space().mmap(&again).unwrap();
                                    }
                                    // With the host TLB a load of an unmapped page would end the program.
                                    _ if page >= PAGES / 3 * 2 && thread > 0 && tlb == BOTH[1] => {}
                                    _ if page >= PAGES / 3 * 2 => drop(process.load(address)),
                                    _ => {
                                        let before = stores[mine(page)].load(Ordering::Relaxed);
                                        assert_eq!(
                                            process.load(address).unwrap(),
                                            before,
                                            "page {page}, thread {thread}"
                                        );
                                        process.store(address, before + 1).unwrap();
                                        stores[mine(page)].store(before + 1, Ordering::Relaxed);
                                    }
                                }
                            }
                            // As long as it takes: with nobody at the pages, some move.
                            while moved.load(Ordering::Relaxed) == 0 {
                                std::thread::yield_now();
                            }
                        });
                    }
                });
            });
            lab.validate();
        }
        lab.assert_all_free(free);
    }
}

/// Two threads that touch a folio's pages at once get one folio, not two halves.
#[test]
fn threads_that_touch_one_place_share_a_folio() {
    let lab = Lab::new(TlbKind::Soft, 6);
    let process = Arc::new(lab.process());
    let at = large(&process, 64 * 16, Orders::only(order(4)));
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let process = process.clone();
            scope.spawn(move || {
                enter_cpu(thread);
                at.iter().skip(thread * 7).step_by(8).for_each(|page| process.store(page, 1).unwrap());
            });
        }
    });
    assert_eq!(lab.count_kind(Kind::Anon), 64);
    lab.validate();
}
