//! Defects found in the core, each by the least that shows it. These tests fail until their defect is mended; then they
//! are to be moved to the file of their subject.
mod common;

use std::{
    sync::{Arc, mpsc::channel},
    time::Duration,
};

use common::*;
use pagemove::{
    frame::Kind,
    migrate::{AnyFree, Mode, Mover, Options},
    paging::Flags,
    report::Event,
    space::{PageCache, Protection},
    units::{VirtAddr, VirtRange},
};
use pagemove_hosted::{Process, TlbKind, enter_cpu};

/// The tables of the second and third level are pruned only if all addresses that they serve lie in the gap, and gaps
/// end at the bounds of the address space. Those begin at 4 MiB, so the first table of each of these levels, which
/// serves addresses from 0 on, is never given back: every process leaks two frames.
#[test]
fn a_process_that_ends_gives_all_its_page_tables_back() {
    let lab = Lab::new(TlbKind::Soft, 1);
    let process = lab.process();
    process.store(anonymous(&process, 1).start(), 1).unwrap();
    drop(process);
    assert_eq!((lab.count_kind(Kind::PageTable), lab.free_frames()), (0, 512));
}

/// Does `deed` between the blocking of a page's entry and the flush of its move, on the thread that moves it, when the
/// processor still has a translation for stores from before. Gives the process, and what was found.
fn before_the_flush<R: Send + 'static>(deed: impl FnOnce(&Process, VirtRange) -> R + Send + 'static) -> R {
    let (lab, hooked) = Hooked::lab(TlbKind::Soft, 2);
    let process = Arc::new(lab.process());
    // Between neighbours, so that no table goes with it, which would be flushed.
    let at = part(anonymous(&process, 3), 1, 1);
    process.store(at.start(), 7).unwrap();
    let (send, receive) = channel();
    let other = process.clone();
    hooked.before_next_flush(move |_| send.send(deed(&other, at)).unwrap());
    lab.migrate(pfn_at(&process, at.start()), Mode::Sync).unwrap();
    receive.recv().unwrap()
}

/// Whoever changes or removes a **migration entry** owes no flush (`zap`, `change_entries`, `move_entries`, `copy_entry` do
/// for present entries only). But the move that blocked it may not have flushed yet; so the call returns while processors
/// still have the old translation. Here: what was unmapped is still there, and shows through what is mapped next.
#[test]
fn munmap_of_a_moving_page_flushes() {
    let found = before_the_flush(|process, at| {
        process.space().munmap(at).unwrap();
        let after = process.load(at.start());
        let again = anonymous(process, 1);
        assert_eq!(again, at);
        (after.is_err(), process.load(again.start()).unwrap())
    });
    assert_eq!(found, (true, 0), "(the load after munmap fails, new memory is zero)");
}

/// The same: rights are not taken when mprotect returns.
#[test]
fn mprotect_of_a_moving_page_flushes() {
    let stored = before_the_flush(|process, at| {
        process.space().mprotect(at, Protection::READ).unwrap();
        process.store(at.start(), 8)
    });
    assert!(stored.is_err(), "a store to a read-only mapping went through");
}

/// The same: the old address still works.
#[test]
fn mremap_of_a_moving_page_flushes() {
    let loaded = before_the_flush(|process, at| {
        process.space().mremap(at, 1, Some(at.start().up(9))).unwrap();
        process.load(at.start())
    });
    assert!(loaded.is_err(), "the page is still at its old address");
}

/// The same: the parent's stores after the fork, by a translation from before it, go to the frame that both share.
#[test]
fn fork_of_a_moving_page_flushes() {
    let (lab, hooked) = Hooked::lab(TlbKind::Soft, 2);
    let parent = Arc::new(lab.process());
    let at = anonymous(&parent, 1);
    parent.store(at.start(), 7).unwrap();
    let (send, receive) = channel();
    let other = parent.clone();
    hooked.before_next_flush(move |_| {
        let child = other.fork().unwrap();
        // If the translation is gone, as it should be, this waits for the page; so on a thread of its own.
        let storing = std::thread::spawn(move || {
            enter_cpu(0);
            other.store(at.start(), 8).unwrap();
        });
        std::thread::sleep(Duration::from_millis(50));
        send.send((child, storing)).unwrap();
    });
    enter_cpu(0);
    parent.store(at.start(), 7).unwrap();
    lab.migrate(pfn_at(&parent, at.start()), Mode::Sync).unwrap_or_default();
    let (child, storing) = receive.recv().unwrap();
    storing.join().unwrap();
    assert_eq!(parent.load(at.start()).unwrap(), 8);
    assert_eq!(child.load(at.start()).unwrap(), 7, "a store of the parent shows in its child");
}

/// The same: a store after `clear_soft_dirty` sets no mark.
#[test]
fn clear_soft_dirty_of_a_moving_page_flushes() {
    let (lab, hooked) = Hooked::lab(TlbKind::Soft, 2);
    let process = Arc::new(lab.process());
    let at = anonymous(&process, 1);
    enter_cpu(0);
    process.store(at.start(), 7).unwrap();
    let (send, receive) = channel();
    let other = process.clone();
    hooked.before_next_flush(move |_| {
        other.space().clear_soft_dirty();
        let storing = std::thread::spawn(move || {
            enter_cpu(0);
            other.store(at.start(), 8).unwrap();
        });
        std::thread::sleep(Duration::from_millis(50));
        send.send(storing).unwrap();
    });
    lab.migrate(pfn_at(&process, at.start()), Mode::Sync).unwrap();
    receive.recv().unwrap().join().unwrap();
    assert_eq!(process.load(at.start()).unwrap(), 8);
    assert!(process.space().entry(at.start()).has(Flags::SOFT_DIRTY), "a store left no soft-dirty mark");
}

/// `mremap` moves the entries, lets go of the reverse maps, and flushes the old addresses only then. A move that comes in
/// between finds the page at its new address, flushes that one, and copies, while another thread goes on storing by its
/// translation of the old address: that store is lost. (Linux had it as CVE-2018-18281.)
#[test]
fn a_store_by_the_old_address_is_not_lost_when_the_page_moves_in_the_midst_of_mremap() {
    let (lab, hooked) = Hooked::lab(TlbKind::Soft, 2);
    let process = Arc::new(lab.process());
    let at = anonymous(&process, 1);
    enter_cpu(1);
    process.store(at.start(), 1).unwrap();
    enter_cpu(0);
    let (engine, other, old) = (lab.engine.clone(), process.clone(), pfn_at(&process, at.start()));
    let (send, receive) = channel();
    // Where mremap is about to flush.
    hooked.before_next_flush(move |_| {
        let mut to = AnyFree::new(engine.physical(), 1);
        Mover::new(&engine).migrate(&[old], &mut to, Options::new(Mode::Async));
        send.send(stores_at_once(&other, at.start())).unwrap();
    });
    let new = process.space().mremap(at, 1, Some(at.start().up(10))).unwrap();
    let expected = if receive.recv().unwrap() { 2 } else { 1 };
    assert_eq!(process.load(new.start()).unwrap(), expected, "a store that completed was lost");
}

/// As above with truncation, which frees the frame: the old translation then reaches a frame that is free, or another's.
#[test]
fn a_frame_is_not_free_while_an_old_translation_reaches_it_in_the_midst_of_mremap() {
    let (lab, hooked) = Hooked::lab(TlbKind::Soft, 1);
    let process = Arc::new(lab.process());
    let file = PageCache::new(&lab.engine, "file", 1);
    let at = shared(&process, file.clone(), 1, RW);
    enter_cpu(1);
    process.store(at.start(), 1).unwrap();
    enter_cpu(0);
    let frame = pfn_at(&process, at.start());
    let (engine, index, other) = (lab.engine.clone(), file.index().clone(), process.clone());
    let (send, receive) = channel();
    hooked.before_next_flush(move |_| {
        // Truncation finds the entry at its new address, and flushes that.
        index.remove(0);
        let free = engine.physical().frame(frame).refs() == 0;
        send.send(free && stores_at_once(&other, at.start())).unwrap();
    });
    process.space().mremap(at, 1, Some(at.start().up(10))).unwrap();
    assert!(!receive.recv().unwrap(), "a store went to a frame that was free");
}

/// Tells whether processor 1 stores 2 at `at` by a translation that it has. Without one it would fault and wait for the
/// address space, which its caller has locked; so it's tried on a thread of its own, and not waited for in that case.
fn stores_at_once(process: &Arc<Process>, at: VirtAddr) -> bool {
    let (send, receive) = channel();
    let process = process.clone();
    std::thread::spawn(move || {
        enter_cpu(1);
        let _ = send.send(process.store(at, 2).is_ok());
    });
    receive.recv_timeout(Duration::from_millis(200)).unwrap_or(false)
}

/// `mremap` to a fixed place, and shorter by part of a 2 MiB page: the edges of the old range are split, the place of the
/// cut is not, so zapping the rest takes the whole 2 MiB entry and with it pages that were to be kept.
#[test]
fn mremap_that_cuts_through_a_huge_page_keeps_the_pages_before_the_cut() {
    let lab = Lab::new(TlbKind::Soft, 4);
    let process = lab.process();
    let at = huge(&process, 512);
    at.iter().for_each(|page| process.store(page, 7).unwrap());
    let new = process.space().mremap(at, 300, Some(at.start().up(2048))).unwrap();
    assert_eq!(process.load(new.start()).unwrap(), 7);
}

/// `mremap` leaves the empty tables of the old range where they are, and nothing prunes them before the next unmapping
/// around; so a 2 MiB entry that is moved there later finds a table in its place. Debug builds stop at an assertion,
/// release builds lose the page.
#[test]
fn mremap_of_a_huge_page_to_where_small_ones_have_been() {
    // In a process of its own: the assertion leaves a debt unpaid, whose panic while unwinding aborts the program.
    if case().is_none() {
        let output = run_case("mremap_of_a_huge_page_to_where_small_ones_have_been", "run");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    let lab = Lab::new(TlbKind::Soft, 6);
    let process = lab.process();
    let small = anonymous(&process, 4);
    process.store(small.start(), 1).unwrap();
    let place = small.start().align_down_huge();
    process.space().mremap(small, 4, Some(place.up(4096))).unwrap();
    let at = huge(&process, 512);
    let away = process.space().mremap(at, 512, Some(place.up(2048))).unwrap();
    away.iter().for_each(|page| process.store(page, 7).unwrap());
    assert!(process.space().entry(away.start()).has(Flags::HUGE));
    let back = process.space().mremap(away, 512, Some(place)).unwrap();
    assert!(back.iter().all(|page| process.load(page).unwrap() == 7));
}

/// The same leftover, seen by itself.
#[test]
fn mremap_gives_the_tables_of_the_old_range_back() {
    let lab = Lab::new(TlbKind::Soft, 1);
    let process = lab.process();
    let mut at = anonymous(&process, 1);
    process.store(at.start(), 1).unwrap();
    let before = lab.count_kind(Kind::PageTable);
    for turn in 1..20 {
        at = process.space().mremap(at, 1, Some(process.space().bounds().start().up(turn * 512))).unwrap();
    }
    assert_eq!(lab.count_kind(Kind::PageTable), before);
}

/// A part of a mapping, asked to stay as long as it is, should stay where it is; instead it goes elsewhere, since only
/// the last part of a mapping may stay.
#[test]
fn mremap_to_the_same_size_changes_nothing() {
    let lab = Lab::new(TlbKind::Soft, 1);
    let process = lab.process();
    let at = anonymous(&process, 8);
    process.store(at.start().up(2), 1).unwrap();
    assert_eq!(process.space().mremap(part(at, 2, 2), 2, None), Ok(part(at, 2, 2)));
}

/// A load of a shared page maps it writable at once, without a soft-dirty mark; the store that follows needs no fault, and
/// so sets the dirty mark only. Who saves what changed since `clear_soft_dirty` loses that store.
#[test]
fn a_store_after_a_load_sets_the_soft_dirty_mark() {
    let lab = Lab::new(TlbKind::Soft, 1);
    let process = lab.process();
    let at = shared(&process, PageCache::new(&lab.engine, "file", 1), 1, RW);
    process.space().clear_soft_dirty();
    process.load(at.start()).unwrap();
    process.store(at.start(), 1).unwrap();
    assert!(process.space().entry(at.start()).has(Flags::DIRTY));
    assert!(process.space().entry(at.start()).has(Flags::SOFT_DIRTY));
}

/// A pin for reading makes a private page the process's own only while the mapping allows stores. Pinned while it does
/// not, a page shared by a fork stays shared, and the first store after the right is given back goes to a copy: the
/// device sees the old page from then on. (Linux unshares it when it's pinned, since 5.19.)
#[test]
fn a_device_sees_stores_after_the_right_to_store_was_given_back() {
    let lab = Lab::new(TlbKind::Soft, 1);
    let parent = lab.process();
    let at = anonymous(&parent, 1);
    parent.store(at.start(), 1).unwrap();
    let _child = parent.fork().unwrap();
    parent.space().mprotect(at, Protection::READ).unwrap();
    let pins = parent.space().pin(at, false, "nic").unwrap();
    parent.space().mprotect(at, RW).unwrap();
    parent.store(at.start(), 2).unwrap();
    assert_eq!(pins[0].words()[0].load(std::sync::atomic::Ordering::Acquire), 2);
}

/// With one processor an allocation does not look on its own lists of the other types, so frames that lie there can't be
/// had, however few are left.
#[test]
fn with_one_processor_the_last_frame_can_be_had_too() {
    let lab = Lab::boot(hosted(TlbKind::Soft, 512, 1), &one_zone(512, 9));
    let physical = lab.engine.physical();
    physical.alloc(order(0), Kind::PageTable).unwrap();
    while physical.alloc(order(0), Kind::Anon).is_ok() {}
    assert_eq!(lab.free_frames(), 0);
}

/// A move takes destinations from its own processor's list and from the buddy lists only: frames on other processors'
/// lists are no destinations, though an allocation would find them.
#[test]
fn frames_on_other_processors_lists_are_destinations_too() {
    let lab = Lab::boot(hosted(TlbKind::Soft, 512, 4), &one_zone(512, 9));
    let physical = lab.engine.physical();
    enter_cpu(0);
    let process = lab.process();
    let at = anonymous(&process, 1);
    process.store(at.start(), 1).unwrap();
    let mut held = Vec::new();
    while let Ok(pfn) = physical.alloc(order(0), Kind::Anon) {
        held.push(pfn);
    }
    enter_cpu(1);
    held.into_iter().take(10).for_each(|pfn| physical.put(pfn));
    enter_cpu(0);
    assert_eq!(lab.free_frames(), 10);
    assert_eq!(lab.migrate(pfn_at(&process, at.start()), Mode::Sync), Ok(()));
}

/// A frame that lies on a processor's list is free, but can't be had by its number.
#[test]
fn a_frame_on_a_processors_list_can_be_had_by_number() {
    let lab = Lab::boot(hosted(TlbKind::Soft, 512, 1), &one_zone(512, 9));
    let physical = lab.engine.physical();
    let pfn = physical.alloc(order(0), Kind::Anon).unwrap();
    physical.put(pfn);
    assert!(physical.alloc_exactly(pfn, Kind::Driver));
}

/// The ring of events knows moves, but nobody records any.
#[test]
fn moves_are_recorded_as_events() {
    let lab = Lab::new(TlbKind::Soft, 1);
    let process = lab.process();
    let at = anonymous(&process, 1);
    process.store(at.start(), 1).unwrap();
    let from = pfn_at(&process, at.start());
    lab.migrate(from, Mode::Sync).unwrap();
    let mut events = Vec::new();
    lab.engine.physical().events().for_each(|event| events.push(event));
    assert_eq!(events, [Event::Moved { from, to: pfn_at(&process, at.start()) }]);
}

/// With as many translations as the host allows, the oldest are evicted. One that was flushed stays in the list of ages;
/// filled anew, it is the oldest and the newest at once: evicting forgets it, and then it's mapped. No flush finds it any
/// more, and the process goes on storing to a frame that its page has left.
#[test]
fn a_translation_that_is_filled_anew_is_not_forgotten_by_evicting_it() {
    const TEST: &str = "a_translation_that_is_filled_anew_is_not_forgotten_by_evicting_it";
    if case().is_none() {
        // Alone in a process, since the number of translations is counted for all of it.
        let output = run_case(TEST, "evict");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    let areas = std::fs::read_to_string("/proc/sys/vm/max_map_count").unwrap().trim().parse::<u32>().unwrap();
    let pages = (areas / 2).min(40_000) + 1000;
    let lab = Lab::new(TlbKind::Host, pages / 512 + 4);
    let process = lab.process();
    // Filled, and flushed: the ages begin with it, and few others come behind.
    let first = anonymous(&process, 1);
    process.store(first.start(), 1).unwrap();
    lab.migrate(pfn_at(&process, first.start()), Mode::Sync).unwrap();
    // As many as there may be, each cut off from its neighbours.
    let most = anonymous(&process, pages);
    for page in most.iter() {
        process.load(page).unwrap();
        // Evicting has begun once the page's window forgets; till then the first one is filled anew each time.
        let before = pfn_at(&process, first.start());
        if page.vpn() % 64 == 0 {
            process.store(first.start(), page.get()).unwrap();
            lab.migrate(before, Mode::Sync).unwrap();
            process.store(first.start(), page.get() + 1).unwrap();
            let frame = pfn_at(&process, first.start());
            let held = lab.engine.physical().ram_words(frame)[0].load(std::sync::atomic::Ordering::SeqCst);
            assert_eq!(held, page.get() + 1, "a store went to a frame that the page has left");
        }
    }
}

/// A batch in SYNC mode waits for the writeback of one page while it holds the locks of the pages claimed before it. If
/// what ends the writeback needs one of these (here: the driver looks at a neighbour), both wait for ever. A batch is not
/// to wait at all; alone the page may.
#[test]
fn a_batch_that_waits_for_writeback_holds_no_other_page() {
    let lab = Arc::new(Lab::new(TlbKind::Soft, 1));
    let device = Device::open(&lab);
    let (neighbour, written) = (device.fill(0, 1), device.fill(1, 1));
    let mover = lab.clone();
    lab.engine.physical().frames().start_writeback(written);
    // On its way: the first page is isolated, and so locked.
    let (begun, wait_begun) = channel();
    device.driver.during_next(Stage::Isolate, move || begun.send(()).unwrap());
    let moving = std::thread::spawn(move || mover.migrate_all(&[neighbour, written], Options::new(Mode::Sync)));
    wait_begun.recv().unwrap();
    let (done, wait_done) = channel();
    let (driver, engine) = (device.driver.clone(), lab.engine.clone());
    let ending = std::thread::spawn(move || {
        drop(driver.index.lock_page(0));
        let _ = done.send(());
        engine.physical().frames().end_writeback(written);
    });
    let ended = wait_done.recv_timeout(Duration::from_secs(2)).is_ok();
    // Lets both go on if they wait for each other.
    lab.engine.physical().frames().end_writeback(written);
    ending.join().unwrap();
    assert_eq!(moving.join().unwrap().moved, 2);
    assert!(ended, "the move and the end of the writeback waited for each other");
}
