//! What a reading by somebody else found in large folios: entries changed while they are split, the last index, a device's map, keys that
//! aren't aligned, memory that movers had set aside, ranges that can't be aligned. (That a page was taken for a process's own before its
//! last sharer had flushed shows in the model `reuse_of_a_page_against_unmap`.) And its trials that found nothing: all that can come at the flush
//! of a move, a split without memory, the ends of addresses and offsets.

use std::{
    sync::{Arc, Mutex, atomic::Ordering, mpsc::channel},
    thread,
};

use crate::common::*;
use pagemove::{
    frame::{Key, Kind},
    migrate::{Mode, Options, split},
    movable::{FolioToken, MigrationRun, MovableOps, PageIndex},
    paging::{Flags, PageTable},
    space::{Access, Map, Orders, PageCache, Protection, Source},
    units::{HUGE_ORDER, Order, VirtAddr, VirtRange},
};
use pagemove_hosted::{Process, Space, TableFormat, TlbKind};

fn filled_huge(process: &Process) -> VirtRange {
    let at = huge(process, 512);
    fill(process, at);
    at
}

/// Splits the folio of a process's 2 MiB page; while its entry is broken, does `deed` with the process. Gives both.
fn split_beside(deed: impl FnOnce(Arc<Process>, VirtRange) + Send + 'static) -> (Lab, Arc<Process>, VirtRange) {
    let (lab, hooked) = Hooked::lab(TlbKind::Soft, 6);
    let process = Arc::new(lab.process());
    let at = filled_huge(&process);
    let other = process.clone();
    hooked.before_next_flush(move |_| deed(other, at));
    drop(split(&lab.engine, lab.get(pfn_at(&process, at.start())).lock()).unwrap());
    assert!(hooked.has_run());
    (lab, process, at)
}

/// The process clears soft-dirty marks while a split of its folio has broken the 2 MiB entry.
#[test]
fn clear_soft_dirty_while_a_split_has_broken_the_entry() {
    let (lab, process, at) = split_beside(|process, _| process.space().clear_soft_dirty());
    assert_holds(&process, at, 0);
    lab.validate();
}

/// The same with mprotect of the whole 2 MiB.
#[test]
fn mprotect_while_a_split_has_broken_the_entry() {
    let (send, receive) = channel();
    let (lab, process, at) = split_beside(move |process, at| {
        // Not here: it ends only when the split has let go of the reverse map. Mostly it has changed the entry by then.
        send.send(thread::spawn(move || process.space().mprotect(at, Protection::READ).unwrap())).unwrap();
        thread::sleep(std::time::Duration::from_millis(20));
    });
    receive.recv().unwrap().join().unwrap();
    assert_holds(&process, at, 0);
    assert!(process.store(at.start(), 1).is_err(), "the small entries have the new rights");
    lab.validate();
}

/// The same when truncation cuts a file's folio.
#[test]
fn clear_soft_dirty_while_truncation_splits_a_files_entry() {
    let (lab, hooked) = Hooked::lab(TlbKind::Soft, 6);
    let file = PageCache::new(&lab.engine, "a file", 512);
    file.index().set_orders(Orders::HUGE, 512);
    let process = Arc::new(lab.process());
    let at = shared(&process, file.clone(), 512, RW);
    fill(&process, at);
    assert!(process.space().entry(at.start()).has(Flags::HUGE));
    let other = process.clone();
    hooked.before_next_flush(move |_| other.space().clear_soft_dirty());
    assert!(file.index().remove(511));
    assert!(hooked.has_run());
    assert_holds(&process, part(at, 0, 511), 0);
    lab.validate();
}

/// The last page that an index can have.
#[test]
fn the_page_at_the_last_index_is_removed() {
    on_both(4, |lab| {
        let index = lab.engine.new_index(Kind::File, "an index");
        let registration = lab.engine.owners().register(index.clone());
        index.set_owner(&registration);
        drop(index.lock_or_insert(u32::MAX).unwrap());
        assert!(index.remove(u32::MAX));
        assert_eq!((index.peek(u32::MAX), index.len()), (None, 0));
    });
}

#[test]
fn a_dropped_index_frees_the_page_at_the_last_index() {
    on_both(4, |lab| {
        let index = lab.engine.new_index(Kind::File, "an index");
        drop(index.lock_or_insert(u32::MAX).unwrap());
    });
}

#[test]
fn a_dropped_index_frees_the_folio_at_the_last_index() {
    on_both(4, |lab| {
        let index = lab.engine.new_index(Kind::File, "an index");
        let folio = lab.physical().alloc(order(4), Kind::File).unwrap();
        drop(index.insert(u32::MAX - 15, folio).unwrap());
    });
}

/// A page at the last index with many mappings.
#[test]
fn the_page_at_the_last_index_moves_with_many_mappings() {
    on_both(4, |lab| {
        let file = PageCache::new(&lab.engine, "a file", u32::MAX);
        let process = lab.process();
        for _ in 0..10 {
            shared(&process, file.clone(), 1, RW);
        }
        let pfn = file.index().lock_or_insert(u32::MAX).unwrap().pfn();
        lab.migrate(pfn, Mode::Sync).unwrap();
        assert!(file.index().remove(u32::MAX));
    });
}

/// A driver with an index, and a folio by token whose key isn't aligned.
struct Both {
    index: Arc<PageIndex>,
    token: Mutex<Option<FolioToken>>,
}

impl MovableOps for Both {
    fn name(&self) -> &str {
        "both"
    }

    fn migrate(&self, run: &mut MigrationRun<'_>) {
        run.for_each(|folio| {
            if let Some(token) = &mut *self.token.lock().unwrap() {
                let _ = folio.exchange(token);
            }
            Ok(())
        });
        self.index.repoint(run);
    }
}

fn repoint_skips(size: Order, number: u32) {
    let lab = Lab::new(TlbKind::Soft, 8);
    let index = lab.engine.new_index(Kind::Driver, "both");
    let both = Arc::new(Both { index, token: Mutex::default() });
    let registration = lab.engine.owners().register(both.clone());
    both.index.set_owner(&registration);
    drop(both.index.lock_or_insert(3).unwrap());
    let folio = lab.physical().alloc(size, Kind::Driver).unwrap();
    let (token, locked) = registration.own(folio, Key { rmap: 0, index: number });
    let pfn = locked.pfn();
    *both.token.lock().unwrap() = Some(token);
    drop(locked);
    lab.migrate(pfn, Mode::Sync).unwrap();
    let token = both.token.lock().unwrap().take().unwrap();
    let folio = registration.get(&token).unwrap().lock();
    registration.release(token, &folio);
}

#[test]
fn repoint_skips_an_order_10_folio_of_its_drivers_other_table() {
    repoint_skips(order(10), 0);
}

#[test]
fn repoint_skips_an_unaligned_folio_of_its_drivers_other_table() {
    repoint_skips(order(1), 511);
}

/// A device's reverse map must pass on `split`, or the processes' 2 MiB entries stay.
#[test]
fn a_folio_that_a_device_maps_is_cut() {
    let lab = Lab::new(TlbKind::Soft, 6);
    let device = Device::open(&lab);
    device.driver.index.set_orders(Orders::HUGE, 512);
    let accelerator = Accelerator::attach(&lab.engine, &device.driver.index);
    let process = lab.process();
    let at = shared(&process, device.clone(), 512, RW);
    fill(&process, at);
    assert!(process.space().entry(at.start()).has(Flags::HUGE));
    assert!(device.driver.index.remove(511));
    assert_holds(&process, part(at, 0, 511), 0);
    lab.validate();
    drop(accelerator);
}

/// Alignment must not make mmap fail.
#[test]
fn an_unaligned_range_serves_where_no_aligned_one_is_free() {
    let lab = Lab::new(TlbKind::Soft, 4);
    let first = lab.process().space().bounds().start();
    let bounds = VirtRange::new(first.up(1), 600).unwrap();
    let space = Space::with_format(&lab.engine, bounds).unwrap();
    let file = PageCache::new(&lab.engine, "a file", 512);
    file.index().set_orders(Orders::HUGE, 512);
    let source = Source::Shared { file, first: 0 };
    let result = space.mmap(&Map { at: None, pages: 512, protection: RW, source });
    assert!(result.is_ok(), "{result:?}");
}

/// A page cut out of a pinned folio of a stored file is read again, as any page that was taken out.
#[test]
fn a_page_cut_out_of_a_pinned_stored_folio_is_read_again() {
    for size in [0, 4] {
        on_both(4, |lab| {
            let (file, _) = stored_file(lab, 16);
            file.index().set_orders(Orders::only(order(size)), 16);
            let process = lab.process();
            let at = shared(&process, file.clone(), 16, RW);
            at.iter().for_each(|page| process.store(page, 7).unwrap());
            let pins = process.space().pin(part(at, 0, 1), true, "nic").unwrap();
            assert!(file.index().remove(1));
            assert_eq!(process.load(at.start().up(1)), Ok(1001), "order {size}");
            drop(pins);
        });
    }
}

/// A split that finds memory for the table of one process only.
#[test]
fn a_split_out_of_memory_in_the_middle() {
    for left in 0..4 {
        on_both(8, |lab| {
            let parent = lab.process();
            let at = filled_huge(&parent);
            let children = [parent.fork().unwrap(), parent.fork().unwrap()];
            let head = pfn_at(&parent, at.start());
            let mut held = lab.take_all(Kind::Kernel);
            held.truncate(held.len() - left);
            lab.physical().drain_cpu_lists();
            let result = split(&lab.engine, lab.get(head).lock());
            assert_eq!(result.is_ok(), left == 3, "{left}");
            drop(result);
            lab.validate();
            for process in children.iter().chain([&parent]) {
                assert_holds(process, at, 0);
            }
            let fork = parent.fork();
            drop(fork);
            let _ = parent.space().munmap(part(at, 3, 1));
            let _ = parent.space().mremap(part(at, 4, 10), 10, Some(at.start().up(4096)));
            lab.validate();
            drop(held);
            lab.migrate(pfn_at(&parent, at.start()), Mode::Sync).unwrap();
            children.iter().for_each(|process| assert_holds(process, at, 0));
            lab.validate();
        });
    }
}

/// Somebody who just waits for the folio's lock must not keep a page from being taken out.
#[test]
fn a_page_is_taken_out_while_a_reader_waits() {
    for size in [0u8, 4] {
        let (lab, hooked) = Hooked::lab(TlbKind::Soft, 4);
        let file = PageCache::new(&lab.engine, "a file", 16);
        file.index().set_orders(Orders::only(order(size)), 16);
        let process = lab.process();
        let at = shared(&process, file.clone(), 16, RW);
        at.iter().for_each(|page| process.store(page, 7).unwrap());
        let free = lab.free_frames();
        let other = file.clone();
        let (send, receive) = channel();
        let page = if size == 0 { 1 } else { 0 };
        hooked.before_next_flush(move |_| {
            send.send(thread::spawn(move || drop(other.index().lock_page(page)))).unwrap();
            thread::sleep(std::time::Duration::from_millis(50));
        });
        assert!(file.index().remove(1));
        receive.recv().unwrap().join().unwrap();
        lab.physical().drain_cpu_lists();
        assert_eq!((file.index().peek(1), lab.free_frames()), (None, free + 1), "order {size}");
    }
}

/// At the end of the address space, and of page offsets.
#[test]
fn at_the_ends() {
    let lab = Lab::new(TlbKind::Soft, 12);
    let free = lab.free_frames();
    {
        let end = PageTable::<TableFormat>::LIMIT;
        let start = VirtAddr::new(end - (4 << 20)).unwrap();
        let bounds = VirtRange::new(start, 1024).unwrap();
        let space = Space::with_format(&lab.engine, bounds).unwrap();
        let source = Source::Anonymous { orders: Orders::up_to(HUGE_ORDER) };
        let at = space.mmap(&Map { at: None, pages: 1024, protection: RW, source }).unwrap();
        space.fault(at.start().up(1023), Access::Write).unwrap();
        space.fault(at.start().up(3), Access::Write).unwrap();
        let child = space.fork().unwrap();
        space.fault(at.start().up(1023), Access::Write).unwrap();
        let head = space.entry(at.start()).pfn();
        lab.migrate(head, Mode::Sync).unwrap();
        drop(split(&lab.engine, lab.get(child.entry(at.start().up(1023)).pfn()).lock()).unwrap());
        space.mprotect(part(at, 1023, 1), Protection::READ).unwrap();
        space.munmap(part(at, 1020, 4)).unwrap();
        lab.validate();
        drop((space, child));

        let file = PageCache::new(&lab.engine, "a file", u32::MAX);
        file.index().set_orders(Orders::up_to(HUGE_ORDER), u32::MAX);
        let folio = lab.physical().alloc(order(8), Kind::File).unwrap();
        drop(file.index().insert(u32::MAX - 255, folio).unwrap());
        let process = lab.process();
        let mut maps = Vec::new();
        for _ in 0..8 {
            let source = Source::Shared { file: file.clone(), first: u32::MAX - 600 };
            let at = process.space().mmap(&Map { at: None, pages: 600, protection: RW, source }).unwrap();
            at.iter().for_each(|page| process.store(page, page.vpn()).unwrap());
            maps.push(at);
        }
        lab.migrate(pfn_at(&process, maps[0].start().up(599)), Mode::Sync).unwrap();
        file.index().truncate(u32::MAX - 3..u32::MAX);
        assert!(maps.iter().all(|at| at.iter().all(|page| process.load(page).is_ok())));
        lab.validate();
        drop(process);
        file.index().truncate(0..u32::MAX - 200);
        file.index().drop_clean(0..u32::MAX);
        lab.validate();
    }
    assert_eq!(lab.free_frames(), free);
}

/// What may come at the flush of a move of a large folio that base entries map.
#[test]
fn deeds_at_the_flush_of_a_move() {
    for size in [1u8, 4, 9] {
        for kind in 0..3 {
            for deed in 0..12 {
                let _doing = Doing::new(format!("size {size}, kind {kind}, deed {deed}"));
                let (lab, hooked) = Hooked::lab(TlbKind::Soft, 14);
                let free = lab.free_frames();
                {
                    let pages = order(size).frames();
                    let file = PageCache::new(&lab.engine, "a file", pages);
                    file.index().set_orders(Orders::only(order(size)), pages);
                    let process = Arc::new(lab.process());
                    let second = Arc::new(lab.process());
                    let source = match kind {
                        0 => Source::Anonymous { orders: Orders::only(order(size)) },
                        1 => Source::Shared { file: file.clone(), first: 0 },
                        _ => Source::Private { file: file.clone(), first: 0 },
                    };
                    let at = process.space().mmap(&Map { at: None, pages, protection: RW, source }).unwrap();
                    if kind < 2 {
                        at.iter()
                            .enumerate()
                            .for_each(|(number, page)| process.store(page, number as u64 + 1).unwrap());
                    } else {
                        for page in 0..pages {
                            let folio = file.index().lock_or_insert(page).unwrap();
                            folio.words(folio.number_of(page).unwrap())[0]
                                .store(u64::from(page) + 1, Ordering::Relaxed);
                        }
                        assert!(at.iter().all(|page| process.load(page).is_ok()));
                    }
                    // Base entries.
                    if size == 9 && kind == 0 {
                        let child = process.fork().unwrap();
                        process.store(at.start(), 1).unwrap();
                        drop(child);
                    }
                    let head = pfn_at(&process, at.start().up(1)).align_down(order(size));
                    let (other, file2, second2) = (process.clone(), file.clone(), second.clone());
                    let (send, receive) = channel();
                    let away = at.start().up(4096);
                    let deed_of = move || match deed {
                        0 => other.space().munmap(part(at, 1, 1)).unwrap(),
                        1 => other.space().munmap(at).unwrap(),
                        2 => assert!(other.space().mremap(at, pages, Some(away)).is_ok()),
                        3 => assert!(other.space().mremap(at, pages, Some(away.up(1))).is_ok()),
                        4 => {
                            let child = other.fork().unwrap();
                            for (number, page) in at.iter().enumerate() {
                                assert_eq!(child.load(page), Ok(number as u64 + 1), "child's {number}");
                                child.store(page, number as u64 + 1).unwrap();
                            }
                        }
                        5 => other.store(word(at.start(), 2), 5).unwrap(),
                        6 => drop(other.space().pin(part(at, 1, 1), true, "nic").unwrap()),
                        7 => other.space().mprotect(part(at, 1, 1), Protection::READ).unwrap(),
                        8 => other.space().clear_soft_dirty(),
                        9 => assert_eq!(file2.index().remove(1), kind > 0),
                        10 => file2.index().truncate(1..pages),
                        _ => {
                            let there = shared(&second2, file2, pages, RW);
                            second2.load(there.start().up(1)).unwrap();
                        }
                    };
                    hooked.before_next_flush(move |_| {
                        send.send(thread::spawn(deed_of)).unwrap();
                        thread::sleep(std::time::Duration::from_millis(10));
                    });
                    let mode = MODES[deed % 3];
                    let _ = lab.migrate_all(&[head.up(1)], Options::new(mode));
                    receive.recv().unwrap().join().unwrap();
                    let start = match deed {
                        2 => away,
                        3 => away.up(1),
                        _ => at.start(),
                    };
                    for number in 0..pages {
                        let is_gone = match deed {
                            0 => number == 1,
                            1 => true,
                            9 => kind > 0 && number == 1,
                            10 => kind > 0 && number >= 1,
                            _ => false,
                        };
                        if deed == 1 || deed == 0 && number == 1 {
                            continue;
                        }
                        let want = if is_gone { 0 } else { u64::from(number) + 1 };
                        assert_eq!(process.load(start.up(number)), Ok(want), "page {number}");
                    }
                    lab.validate();
                }
                lab.assert_all_free(free);
            }
        }
    }
}

/// The device has gone; only processes' mappings are left.
#[test]
fn a_page_is_taken_out_after_the_device_has_gone() {
    for size in [0u8, 4] {
        let lab = Lab::new(TlbKind::Soft, 6);
        let device = Device::open(&lab);
        device.driver.index.set_orders(Orders::only(order(size)), 16);
        let accelerator = Accelerator::attach(&lab.engine, &device.driver.index);
        let process = lab.process();
        let at = shared(&process, device.clone(), 16, RW);
        fill(&process, at);
        drop(accelerator);
        assert!(device.driver.index.remove(1));
        assert_eq!(device.driver.index.peek(1), None, "order {size}");
    }
}

fn huge_file(lab: &Lab, pages: u32) -> Arc<PageCache> {
    let file = PageCache::new(&lab.engine, "a file", pages);
    file.index().set_orders(Orders::HUGE, pages);
    file
}

/// mremap keeps the alignment that mmap gives.
#[test]
fn mremap_keeps_2mib_entries_of_a_file() {
    let lab = Lab::new(TlbKind::Soft, 12);
    let process = lab.process();
    let at = shared(&process, huge_file(&lab, 1024), 512, RW);
    process.store(at.start(), 1).unwrap();
    let _behind = anonymous(&process, 3);
    let moved = process.space().mremap(at, 600, None).unwrap();
    assert!(process.space().entry(moved.start()).has(Flags::HUGE), "{moved:?}");
}

/// The address is chosen so that a mapping from the middle of a file has 2 MiB entries, too.
#[test]
fn a_mapping_from_the_middle_of_a_file_has_2mib_entries() {
    let lab = Lab::new(TlbKind::Soft, 12);
    let process = lab.process();
    let source = Source::Shared { file: huge_file(&lab, 2048), first: 256 };
    let at = process.space().mmap(&Map { at: None, pages: 1024, protection: RW, source }).unwrap();
    at.iter().for_each(|page| process.store(page, 1).unwrap());
    assert!(at.iter().any(|page| process.space().entry(page).has(Flags::HUGE)));
}
