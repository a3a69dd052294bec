//! Mapped files: private copies, ends of files, truncation, and dropping clean pages without losing what is dirty.
mod common;

use std::sync::atomic::Ordering;

use common::*;
use pagemove::{
    frame::{Kind, Marks},
    migrate::Mode,
    paging::Flags,
    report::{Counter, Reason},
    space::{FaultError, Map, PageCache, Protection, Source},
};
use pagemove_drivers::{Balloon, CharDevice};
use pagemove_hosted::TlbKind;

#[test]
fn a_private_store_does_not_reach_the_file() {
    on_both(1, |lab| {
        let (file, reads) = stored_file(lab, 3);
        let (one, two) = (lab.process(), lab.process());
        let (at_one, at_two) = (private(&one, file.clone(), 3), private(&two, file.clone(), 3));
        // Stored to at once; after a load; never.
        one.store(at_one.start(), 1).unwrap();
        assert_eq!(one.load(at_one.start().up(1)).unwrap(), 1001);
        one.store(at_one.start().up(1), 2).unwrap();
        let of = |page| [one.load(at_one.start().up(page)).unwrap(), two.load(at_two.start().up(page)).unwrap()];
        assert_eq!([of(0), of(1), of(2)], [[1, 1000], [2, 1001], [1002, 1002]]);
        assert_eq!(lab.process_reading(&file, 0), 1000);
        assert_eq!(reads.load(Ordering::Relaxed), 3);
        // What a file's page becomes later is seen where there is no copy.
        let writer = lab.process();
        let at = shared(&writer, file.clone(), 3, RW);
        at.iter().for_each(|page| writer.store(page, 50).unwrap());
        assert_eq!([of(0), of(1), of(2)], [[1, 50], [2, 50], [50, 50]]);
        // The rest of the page was copied as well: it's a page, not a word.
        assert_eq!(lab.count_kind(Kind::Anon), 2);
    });
}

#[test]
fn behind_the_end_there_is_nothing() {
    // On the host TLB this kills a process; see `kill.rs`.
    let lab = Lab::new(TlbKind::Soft, 1);
    {
        let process = lab.process();
        let file = PageCache::new(&lab.engine, "file", 2);
        let device = CharDevice::new(&lab.engine, "chardev").open(2);
        for at in [
            shared(&process, file.clone(), 4, RW),
            private(&process, file.clone(), 4),
            shared(&process, device.clone(), 4, RW),
            private(&process, device.clone(), 4),
        ] {
            process.store(at.start().up(1), 1).unwrap();
            for page in [2, 3] {
                let page = at.start().up(page);
                assert_eq!(process.load(page), Err(FaultError::BeyondEnd(page)));
                assert_eq!(process.store(page, 1), Err(FaultError::BeyondEnd(page)));
            }
        }
        assert_eq!(file.index().len() + device.peek(1).iter().count(), 2);
    }
    lab.assert_all_free(512);
}

#[test]
fn truncation_takes_pages_from_all_who_map_them_but_not_their_copies() {
    on_both(1, |lab| {
        let (file, reads) = stored_file(lab, 4);
        let (one, two) = (lab.process(), lab.process());
        let (at_one, at_two) = (shared(&one, file.clone(), 4, RW), private(&two, file.clone(), 4));
        at_one.iter().for_each(|page| one.store(page, 5).unwrap());
        at_two.iter().for_each(|page| assert_eq!(two.load(page).unwrap(), 5));
        two.store(at_two.start().up(3), 6).unwrap();
        file.index().truncate(1..4);
        assert_eq!(file.index().len(), 1);
        for page in 1..4 {
            assert!(one.space().entry(at_one.start().up(page)).is_none());
        }
        assert!(two.space().entry(at_two.start().up(2)).is_none());
        assert_eq!(two.load(at_two.start().up(3)).unwrap(), 6);
        // Read again from the store, not from an old translation.
        assert_eq!(one.load(at_one.start()).unwrap(), 5);
        assert_eq!(one.load(at_one.start().up(2)).unwrap(), 1002);
        assert_eq!(two.load(at_two.start().up(1)).unwrap(), 1001);
        assert_eq!(reads.load(Ordering::Relaxed), 6);
        assert!(!file.index().remove(3));
    });
}

/// A lost dirty mark loses data: the page is dropped, and read again as it was.
#[test]
fn what_is_dirty_is_never_dropped() {
    on_both(1, |lab| {
        let (file, reads) = stored_file(lab, 8);
        let process = lab.process();
        let at = shared(&process, file.clone(), 8, RW);
        // Each odd page is stored to; all are moved, in every order of store, move and unmapping.
        at.iter().for_each(|page| assert!(process.load(page).unwrap() >= 1000));
        for page in [1, 5] {
            process.store(at.start().up(page), 7).unwrap();
        }
        for page in 0..4 {
            lab.migrate(pfn_at(&process, at.start().up(page)), Mode::Sync).unwrap();
        }
        for page in [3, 7] {
            process.store(at.start().up(page), 7).unwrap();
        }
        assert_eq!(file.index().drop_clean(0..8), 0, "mapped pages are in use");
        process.space().munmap(at).unwrap();
        for page in 4..8 {
            lab.migrate(file.index().peek(page).unwrap(), Mode::Async).unwrap();
        }
        for page in 0..8 {
            let marks = lab.engine.physical().frame(file.index().peek(page).unwrap()).state().marks();
            assert_eq!(marks.contains(Marks::DIRTY), page % 2 == 1, "page {page}");
        }
        assert_eq!(file.index().drop_clean(0..8), 4);
        assert_eq!(file.index().drop_clean(0..8), 0);
        for page in 0..8 {
            let expected = if page % 2 == 1 { 7 } else { 1000 + u64::from(page) };
            assert_eq!(lab.process_reading(&file, page), expected, "page {page}");
        }
        assert_eq!(reads.load(Ordering::Relaxed), 12);
    });
}

/// The mark of a store by one of several processes, whichever unmaps first, also if the page moves in between.
#[test]
fn dirt_of_one_of_several_processes_is_kept() {
    on_both(1, |lab| {
        for order in [[0, 1], [1, 0]] {
            let (file, _) = stored_file(lab, 1);
            let mut processes = [lab.process(), lab.process()].map(Some);
            let at = processes.each_ref().map(|process| shared(process.as_ref().unwrap(), file.clone(), 1, RW));
            for (process, at) in processes.iter().zip(at) {
                process.as_ref().unwrap().load(at.start()).unwrap();
            }
            processes[0].as_ref().unwrap().store(at[0].start(), 9).unwrap();
            let dirty = |number: usize| processes[number].as_ref().unwrap().space().entry(at[number].start());
            assert!(dirty(0).has(Flags::DIRTY) && !dirty(1).has(Flags::DIRTY));
            for leaver in order {
                lab.migrate(file.index().peek(0).unwrap(), Mode::Sync).unwrap();
                processes[leaver] = None;
            }
            assert_eq!(file.index().drop_clean(0..1), 0);
            assert_eq!(lab.process_reading(&file, 0), 9);
        }
    });
}

/// Dirt survives what else is done to an entry: taken rights, a fork, mremap, cleared soft-dirty marks.
#[test]
fn dirt_survives_changes_of_the_entry() {
    on_both(1, |lab| {
        let (file, _) = stored_file(lab, 4);
        let process = lab.process();
        let at = shared(&process, file.clone(), 4, RW);
        at.iter().for_each(|page| process.store(page, 8).unwrap());
        process.space().mprotect(part(at, 0, 1), Protection::READ).unwrap();
        let new = process.space().mremap(part(at, 1, 1), 1, Some(at.start().up(50))).unwrap();
        process.space().clear_soft_dirty();
        let child = process.fork().unwrap();
        lab.migrate(file.index().peek(2).unwrap(), Mode::SyncLight).unwrap();
        assert_eq!(process.load(new.start()).unwrap(), 8);
        drop(process);
        drop(child);
        assert_eq!(file.index().drop_clean(0..4), 0);
    });
}

#[test]
fn writes_by_the_driver_itself_are_seen_and_kept() {
    on_both(1, |lab| {
        let device = CharDevice::new(&lab.engine, "chardev").open(2);
        device.populate().unwrap();
        let process = lab.process();
        let at = shared(&process, device.clone(), 2, RW);
        device.write(0, 511, 3).unwrap();
        lab.migrate(device.peek(0).unwrap(), Mode::Async).unwrap();
        device.write(0, 0, 4).unwrap();
        assert_eq!(process.load(at.start()).unwrap(), 4);
        assert_eq!(device.read(0, 511).unwrap(), 3);
        assert!(device.read(2, 0).is_err() && device.read(0, 512).is_err() && device.write(2, 0, 1).is_err());
        assert!(device.free(0));
        assert!(!device.free(0) || device.peek(0).is_none());
        assert_eq!(process.load(at.start()).unwrap(), 0);
    });
}

#[test]
fn one_file_mapped_twice_in_one_process_is_one_page() {
    on_both(1, |lab| {
        let process = lab.process();
        let file = PageCache::new(&lab.engine, "file", 4);
        let first = shared(&process, file.clone(), 4, RW);
        let source = Source::Shared { file: file.clone(), first: 1 };
        let second = process.space().mmap(&Map { at: None, pages: 3, protection: RW, source }).unwrap();
        process.store(first.start().up(2), 5).unwrap();
        assert_eq!(process.load(second.start().up(1)).unwrap(), 5);
        let pfn = pfn_at(&process, second.start().up(1));
        assert_eq!(lab.engine.physical().frame(pfn).maps(), 2);
        lab.migrate(pfn, Mode::Async).unwrap();
        process.store(second.start().up(1), 6).unwrap();
        assert_eq!(process.load(first.start().up(2)).unwrap(), 6);
        process.space().munmap(first).unwrap();
        assert_eq!(process.load(second.start().up(1)).unwrap(), 6);
    });
}

#[test]
fn files_live_as_long_as_they_are_mapped() {
    on_both(1, |lab| {
        let process = lab.process();
        let at = shared(&process, CharDevice::new(&lab.engine, "chardev").open(2), 2, RW);
        process.store(at.start(), 4).unwrap();
        lab.migrate(pfn_at(&process, at.start()), Mode::Sync).unwrap();
        assert_eq!(process.load(at.start()).unwrap(), 4);
        assert_eq!(process.space().vmas()[0].file_name(), Some("chardev"));
        process.space().munmap(at).unwrap();
        assert_eq!(lab.count_kind(Kind::Driver), 0);
    });
}

#[test]
fn a_balloon_moves_inflates_and_deflates() {
    on_both(1, |lab| {
        let balloon = Balloon::new(&lab.engine);
        balloon.inflate(100).unwrap();
        assert_eq!((balloon.pages(), lab.free_frames()), (100, 412));
        let physical = lab.engine.physical();
        let pages: Vec<_> =
            range(0, 512).iter().filter(|&pfn| physical.frame(pfn).state().kind() == Kind::Driver).collect();
        let outcome = lab.migrate_all(&pages, pagemove::migrate::Options::new(Mode::Async));
        assert_eq!((outcome.moved, outcome.stayed), (100, vec![]));
        assert_eq!(balloon.deflate(30), 30);
        assert!(balloon.inflate(1000).is_err());
        assert_eq!(balloon.pages(), 70);
        lab.validate();
        assert_eq!(balloon.deflate(1000), 70);
        assert_eq!(lab.migrate(pages[0], Mode::Sync), Ok(()), "freed: neither moved nor stayed");
        assert_eq!(physical.counters().stayed_for(Reason::Unmovable), 0);
    });
}

/// The index of a file with a store can't be made to give a page that isn't read.
#[test]
fn a_page_made_by_the_index_is_read_as_well() {
    on_both(1, |lab| {
        let (file, reads) = stored_file(lab, 8);
        let page = file.index().lock_or_insert(3).unwrap();
        let word = page.words(0)[0].load(std::sync::atomic::Ordering::Relaxed);
        assert_eq!((word, reads.load(std::sync::atomic::Ordering::Relaxed)), (1003, 1));
    });
}

/// One flush for a batch of pages, not for each.
#[test]
fn truncation_flushes_once_for_many_pages() {
    on_both(2, |lab| {
        let file = PageCache::new(&lab.engine, "file", 600);
        let processes = [lab.process(), lab.process()];
        let at = processes.each_ref().map(|process| shared(process, file.clone(), 600, RW).start());
        for (process, at) in processes.iter().zip(at) {
            (0..600).for_each(|page| process.store(at.up(page), 1).unwrap());
        }
        let flushes = || lab.engine.physical().counters().get(Counter::TlbFlush);
        let before = flushes();
        file.index().truncate(300..500);
        assert_eq!((flushes() - before, file.index().len()), (200_u64.div_ceil(64), 400));
        for (process, at) in processes.iter().zip(at) {
            assert_eq!([299, 300, 499, 500].map(|page| process.load(at.up(page)).unwrap()), [1, 0, 0, 1]);
        }
    });
}

/// A page that somebody has locked is waited for alone: its holder may want another one of the range.
#[test]
fn truncation_waits_for_a_locked_page_with_no_other_in_its_hands() {
    on_both(1, |lab| {
        let file = PageCache::new(&lab.engine, "file", 100);
        (0..100).for_each(|page| drop(file.index().lock_or_insert(page).unwrap()));
        let held = file.index().lock_page(50).unwrap();
        std::thread::scope(|scope| {
            let truncating = scope.spawn(|| file.index().truncate(0..100));
            while file.index().peek(49).is_some() {
                std::thread::yield_now();
            }
            // Not in its hands: they can be locked, below and above.
            assert!(file.index().lock_page(49).is_none());
            drop(file.index().lock_page(51).unwrap());
            assert!(!truncating.is_finished() && file.index().len() == 50);
            drop(held);
        });
        assert!(file.index().is_empty());
    });
}
