//! Large folios of files and drivers: mapped whole by one fault, moved by one call of the owner, cut by truncation. Varies the order, the
//! owner, shared and private mappings, the mode, pins, and what is cut off.
mod common;

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use common::*;
use pagemove::{
    migrate::{Mode, Options, split},
    paging::Flags,
    report::{Counter, Reason},
    space::{Orders, PageCache},
    units::{HUGE_ORDER, Order, Pfn, VirtRange},
};
use pagemove_drivers::{CharDevice, DeviceFile};
use pagemove_hosted::{Process, TlbKind};
use rand::RngExt;

const SIZES: [u8; 4] = [1, 4, 8, 9];

fn device(lab: &Lab, pages: u32, order: Order) -> Arc<DeviceFile> {
    CharDevice::new(&lab.engine, "a device").open_with(pages, Orders::only(order))
}

/// A driver's file of one folio, mapped and filled.
fn filled(lab: &Lab, size: Order) -> (Arc<DeviceFile>, Process, VirtRange) {
    let file = device(lab, size.frames(), size);
    let process = lab.process();
    let at = shared(&process, file.clone(), size.frames(), RW);
    fill(&process, at);
    (file, process, at)
}

fn order_of(lab: &Lab, pfn: Pfn) -> Order {
    lab.get(pfn).order()
}

fn counter(lab: &Lab, counter: Counter) -> u64 {
    lab.physical().counters().get(counter)
}

/// One fault maps all of a folio, by base entries or one of 2 MiB; it moves whole, in one process and in two.
#[test]
fn a_drivers_folio_is_mapped_and_moved_whole() {
    for size in SIZES.map(order) {
        on_both(6, |lab| {
            let file = device(lab, 2 * size.frames(), size);
            let (one, two) = (lab.process(), lab.process());
            let at = shared(&one, file.clone(), 2 * size.frames(), RW);
            let faults = || counter(lab, Counter::Pgfault);
            one.store(at.start().up(1), 2).unwrap();
            let before = faults();
            assert!((0..size.frames()).all(|page| one.load(at.start().up(page)).is_ok()));
            assert_eq!(faults(), before, "the rest of the folio needs no fault");
            assert_eq!(one.space().entry(at.start()).has(Flags::HUGE), size == HUGE_ORDER);
            fill(&one, at);
            let there = shared(&two, file.clone(), 2 * size.frames(), RW);
            for mode in MODES {
                for batch in BATCHES {
                    let heads = [0, size.frames()].map(|page| pfn_at(&one, at.start().up(page)));
                    let moves = file.moves();
                    let outcome = lab.migrate_all(&heads, Options { batch, ..Options::new(mode) });
                    assert_eq!((outcome.moved, outcome.stayed), (2 * u64::from(size.frames()), vec![]));
                    assert_eq!(file.moves(), moves + 2, "folios");
                    assert_eq!(file.peek(size.frames() - 1), Some(file.peek(0).unwrap().up(size.frames() - 1)));
                    for (number, page) in at.iter().enumerate() {
                        assert_eq!(one.load(page).unwrap(), number as u64 + 1);
                        assert_eq!(two.load(there.start().up(number as u32)).unwrap(), number as u64 + 1);
                        assert_eq!(file.read(number as u32, 0).unwrap(), number as u64 + 1);
                    }
                    lab.validate();
                }
            }
            two.store(there.start(), 100).unwrap();
            file.write(1, 0, 200).unwrap();
            assert_eq!((one.load(at.start()).unwrap(), one.load(at.start().up(1)).unwrap()), (100, 200));
        });
    }
}

/// A folio doesn't reach beyond the end of its file, nor over pages that are there.
#[test]
fn orders_fall_back_in_a_file() {
    on_both(2, |lab| {
        let file = CharDevice::new(&lab.engine, "a device").open_with(21, Orders::up_to(order(4)));
        file.write(20, 0, 1).unwrap();
        file.write(17, 0, 1).unwrap();
        file.write(3, 0, 1).unwrap();
        assert_eq!([20, 17, 3].map(|page| order_of(lab, file.peek(page).unwrap()).get()), [0, 2, 4]);
        assert!(file.free(9));
        assert_eq!([8, 15].map(|page| order_of(lab, file.peek(page).unwrap()).get()), [0, 0], "split by the cut");
        file.write(9, 0, 7).unwrap();
        assert_eq!(order_of(lab, file.peek(9).unwrap()), Order::ZERO, "its neighbours are there");
        assert_eq!((file.read(3, 0).unwrap(), file.read(9, 0).unwrap()), (1, 7));
    });
}

/// A page that is freed leaves the others of its folio, in their processes and in the file.
#[test]
fn freeing_a_page_splits_its_folio() {
    for size in SIZES.map(order) {
        on_both(4, |lab| {
            let (file, process, at) = filled(lab, size);
            let free = lab.free_frames();
            assert!(file.free(1));
            let tables = u32::from(size == HUGE_ORDER);
            assert_eq!(lab.free_frames() + tables, free + 1);
            assert_eq!(process.load(at.start().up(1)).unwrap(), 0, "a new page");
            for (number, page) in at.iter().enumerate().filter(|(number, _)| *number != 1) {
                assert_eq!(process.load(page).unwrap(), number as u64 + 1);
                lab.migrate(pfn_at(&process, page), Mode::Sync).unwrap();
                assert_eq!(process.load(page).unwrap(), number as u64 + 1);
            }
            lab.validate();
        });
    }
}

/// While a device has pinned the folio it can't be cut: the page is unmapped, and reads as new.
#[test]
fn a_page_of_a_pinned_folio_is_cleared() {
    for size in SIZES.map(order) {
        on_both(4, |lab| {
            let (file, process, at) = filled(lab, size);
            let pins = process.space().pin(part(at, 0, 1), true, "nic").unwrap();
            assert_eq!(lab.migrate(file.peek(1).unwrap(), Mode::Sync), Err(Reason::Pinned));
            assert!(file.free(1));
            assert_eq!((process.load(at.start()).unwrap(), process.load(at.start().up(1)).unwrap()), (1, 0));
            pins[0].words(0)[0].store(9, Ordering::SeqCst);
            assert_eq!(process.load(at.start()).unwrap(), 9, "the device's page is the file's");
            drop(pins);
            lab.migrate(file.peek(1).unwrap(), Mode::Sync).unwrap();
            assert_eq!((process.load(at.start()).unwrap(), file.read(1, 0).unwrap()), (9, 0));
            lab.validate();
        });
    }
}

/// Truncation takes whole folios out, and cuts those at its ends.
#[test]
fn truncation_cuts_at_both_ends() {
    on_both(4, |lab| {
        let file = PageCache::new(&lab.engine, "a file", 64);
        file.index().set_orders(Orders::only(order(3)), 64);
        let process = lab.process();
        let at = shared(&process, file.clone(), 64, RW);
        fill(&process, at);
        file.index().truncate(5..43);
        assert_eq!(file.index().len(), 5 + 21);
        let is_kept = |page: usize| !(5..43).contains(&page);
        for (number, page) in at.iter().enumerate() {
            assert_eq!(
                process.load(page).unwrap(),
                if is_kept(number) { number as u64 + 1 } else { 0 },
                "page {number}"
            );
        }
        assert_eq!(order_of(lab, pfn_at(&process, at.start().up(50))), order(3), "not touched");
        lab.validate();
    });
}

/// Each page is read from its own place in the store. Clean folios are dropped whole.
#[test]
fn a_files_folio_is_read_page_by_page() {
    on_both(2, |lab| {
        let (file, reads) = stored_file(lab, 40);
        file.index().set_orders(Orders::only(order(4)), 40);
        let process = lab.process();
        let at = shared(&process, file.clone(), 40, RW);
        for (number, page) in at.iter().enumerate() {
            assert_eq!(process.load(page).unwrap(), 1000 + number as u64);
        }
        assert_eq!((reads.load(Ordering::Relaxed), file.index().drop_clean(0..40)), (40, 0));
        process.store(at.start(), 7).unwrap();
        process.space().munmap(at).unwrap();
        assert_eq!(file.index().drop_clean(0..40), 24, "the first folio is dirty");
        assert_eq!(lab.process_reading(&file, 0), 7);
    });
}

/// A store to a private mapping copies one page; the file keeps its own, moved or not.
#[test]
fn a_private_mapping_copies_pages() {
    for size in SIZES.map(order) {
        on_both(4, |lab| {
            let (file, _) = stored_file(lab, size.frames());
            file.index().set_orders(Orders::only(size), size.frames());
            let process = lab.process();
            let at = private(&process, file.clone(), size.frames());
            assert_eq!(process.load(at.start()).unwrap(), 1000);
            process.store(at.start().up(1), 5).unwrap();
            lab.migrate(file.index().peek(0).unwrap(), Mode::Sync).unwrap();
            lab.migrate(pfn_at(&process, at.start().up(1)), Mode::Sync).unwrap();
            assert_eq!([0, 1].map(|page| process.load(at.start().up(page)).unwrap()), [1000, 5]);
            assert_eq!(lab.process_reading(&file, 1), 1001);
            lab.validate();
        });
    }
}

/// Processes and the driver store by sequence numbers, pages are freed and pinned, while movers and splitters work.
#[test]
fn threads_store_and_free_while_movers_move() {
    const PAGES: u32 = 64;
    for (seed, tlb) in [(1, TlbKind::Soft), (2, TlbKind::Host)] {
        let lab = Lab::new(tlb, 4);
        let free = lab.free_frames();
        {
            let file = CharDevice::new(&lab.engine, "a device").open_with(PAGES, Orders::up_to(order(4)));
            let processes = [lab.process(), lab.process()];
            let at = processes.each_ref().map(|process| shared(process, file.clone(), PAGES, RW));
            let (over, moved) = (AtomicBool::new(false), AtomicU64::new(0));
            let moved = &moved;
            std::thread::scope(|scope| {
                for mover in 0..2 {
                    let (lab, file, over) = (&lab, &file, &over);
                    scope.spawn(move || {
                        let mut rng = rng(seed * 10 + mover);
                        while !over.load(Ordering::Relaxed) {
                            let page = rng.random_range(0..PAGES);
                            let Some(pfn) = file.peek(page) else { continue };
                            if rng.random_range(0..8) == 0 {
                                if let Some(folio) = lab.get_if(pfn) {
                                    let _ = split(&lab.engine, folio.lock());
                                }
                                continue;
                            }
                            let (mode, batch) = (MODES[rng.random_range(0..3)], BATCHES[rng.random_range(0..5)]);
                            let sources: Vec<Pfn> = (0..PAGES).filter_map(|page| file.peek(page)).collect();
                            let outcome = lab.migrate_all(&sources, Options { batch, ..Options::new(mode) });
                            moved.fetch_add(outcome.moved, Ordering::Relaxed);
                        }
                    });
                }
                let _end = SetAtEnd(&over);
                std::thread::scope(|scope| {
                    for thread in 0..2 {
                        let (processes, at, file) = (&processes, &at, &file);
                        scope.spawn(move || {
                            let mut rng = rng(seed * 100 + thread as u64);
                            pagemove_hosted::enter_cpu(thread);
                            // Thread n stores to word n of pages of the first half; those of the second half are freed.
                            let mut stored = [0; PAGES as usize];
                            for _ in 0..4000 {
                                let page = rng.random_range(0..PAGES);
                                let address = word(at[thread].start().up(page), thread as u64);
                                match rng.random_range(0..50) {
                                    0 => drop(processes[thread].space().pin(part(at[thread], page, 1), true, "nic")),
                                    1 => drop(file.free(PAGES / 2 + page / 2)),
                                    _ if page >= PAGES / 2 => drop(processes[thread].load(address)),
                                    2..10 => {
                                        assert_eq!(file.read(page, thread).unwrap(), stored[page as usize]);
                                        stored[page as usize] += 1;
                                        file.write(page, thread, stored[page as usize]).unwrap();
                                    }
                                    _ => {
                                        let found = processes[thread].load(address).unwrap();
                                        assert_eq!(found, stored[page as usize], "page {page}, thread {thread}");
                                        stored[page as usize] += 1;
                                        processes[thread].store(address, stored[page as usize]).unwrap();
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
