//! mremap: shorter, longer in place, longer elsewhere, to a fixed place; what is refused; contents and marks go along.
mod common;

use common::*;
use pagemove::{
    frame::Kind,
    migrate::Mode,
    paging::Flags,
    space::{FaultError, Map, Orders, PageCache, Source, SpaceError},
    units::{VirtAddr, VirtRange},
};
use pagemove_drivers::CharDevice;
use pagemove_hosted::{Process, TlbKind, enter_cpu};

fn store_all(process: &Process, at: VirtRange) {
    at.iter().enumerate().for_each(|(number, page)| process.store(page, 100 + number as u64).unwrap());
}

fn assert_holds(process: &Process, at: VirtRange, first: u64) {
    for (number, page) in at.iter().enumerate() {
        assert_eq!(process.load(page).unwrap(), 100 + first + number as u64, "page {number} of {at:?}");
    }
}

fn assert_unmapped(lab: &Lab, process: &Process, at: VirtAddr) {
    assert!(process.space().entry(at).is_none());
    if lab.machine.config().tlb == TlbKind::Soft {
        for cpu in 0..4 {
            enter_cpu(cpu);
            assert_eq!(process.load(at), Err(FaultError::NotMapped(at)));
        }
    }
}

#[test]
fn shorter_keeps_the_first_pages() {
    on_both(1, |lab| {
        let process = lab.process();
        let at = anonymous(&process, 8);
        store_all(&process, at);
        let short = process.space().mremap(at, 3, None).unwrap();
        assert_eq!(short, part(at, 0, 3));
        assert_holds(&process, short, 0);
        assert_unmapped(lab, &process, at.start().up(3));
        assert_eq!(lab.count_kind(Kind::Anon), 3);
    });
}

#[test]
fn longer_stays_in_place_where_there_is_room() {
    on_both(1, |lab| {
        let process = lab.process();
        let at = anonymous(&process, 4);
        store_all(&process, at);
        let long = process.space().mremap(at, 9, None).unwrap();
        assert_eq!((long.start(), long.pages()), (at.start(), 9));
        assert_holds(&process, at, 0);
        assert_eq!(process.load(long.start().up(8)).unwrap(), 0);
        assert_eq!(process.space().vmas().len(), 1);
        lab.migrate(pfn_at(&process, long.start().up(8)), Mode::Sync).unwrap();
    });
}

#[test]
fn longer_goes_elsewhere_where_there_is_none() {
    on_both(1, |lab| {
        let process = lab.process();
        let at = anonymous(&process, 4);
        let behind = anonymous(&process, 1);
        store_all(&process, at);
        process.store(behind.start(), 7).unwrap();
        let long = process.space().mremap(at, 6, None).unwrap();
        assert!(!long.overlaps(at) && !long.overlaps(behind));
        assert_holds(&process, part(long, 0, 4), 0);
        assert_eq!(process.load(long.start().up(5)).unwrap(), 0);
        assert_unmapped(lab, &process, at.start());
        assert_eq!(process.load(behind.start()).unwrap(), 7);
        for page in part(long, 0, 4).iter() {
            lab.migrate(pfn_at(&process, page), Mode::Sync).unwrap();
        }
        assert_holds(&process, part(long, 0, 4), 0);
    });
}

#[test]
fn a_fixed_place_with_marks_rights_and_frames_kept() {
    on_both(1, |lab| {
        let process = lab.process();
        let at = anonymous(&process, 4);
        store_all(&process, at);
        process.space().mprotect(part(at, 0, 4), pagemove::space::Protection::READ).unwrap();
        let entries: Vec<_> = at.iter().map(|page| process.space().entry(page)).collect();
        let to = at.start().up(1000);
        let new = process.space().mremap(at, 4, Some(to)).unwrap();
        assert_eq!(new.start(), to);
        for (page, entry) in new.iter().zip(entries) {
            assert_eq!(process.space().entry(page), entry);
            assert!(entry.has(Flags::DIRTY | Flags::SOFT_DIRTY));
        }
        assert_holds(&process, new, 0);
        assert_unmapped(lab, &process, at.start());
        if lab.machine.config().tlb == TlbKind::Soft {
            assert_eq!(process.store(to, 1), Err(FaultError::Protection(to)));
        }
    });
}

#[test]
fn shorter_and_elsewhere_at_once() {
    on_both(1, |lab| {
        let process = lab.process();
        let at = anonymous(&process, 8);
        store_all(&process, at);
        let new = process.space().mremap(at, 5, Some(at.start().up(100))).unwrap();
        assert_eq!(new.pages(), 5);
        assert_holds(&process, new, 0);
        assert_unmapped(lab, &process, at.start().up(7));
        assert_eq!(lab.count_kind(Kind::Anon), 5);
    });
}

#[test]
fn a_part_leaves_the_rest_where_it_is() {
    on_both(1, |lab| {
        let process = lab.process();
        let device = CharDevice::new(&lab.engine, "chardev").open(16);
        for at in [anonymous(&process, 8), shared(&process, device.clone(), 8, RW)] {
            store_all(&process, at);
            let to = at.start().up(64);
            let new = process.space().mremap(part(at, 2, 3), 3, Some(to)).unwrap();
            assert_holds(&process, new, 2);
            assert_holds(&process, part(at, 0, 2), 0);
            assert_holds(&process, part(at, 5, 3), 5);
            assert_unmapped(lab, &process, at.start().up(3));
            // The reverse map still finds every page.
            for page in new.iter().chain(part(at, 0, 2).iter()).chain(part(at, 5, 3).iter()) {
                lab.migrate(pfn_at(&process, page), Mode::Sync).unwrap();
            }
            assert_holds(&process, new, 2);
            assert_holds(&process, part(at, 5, 3), 5);
        }
        assert_eq!(device.moves(), 8);
    });
}

#[test]
fn file_offsets_go_along() {
    on_both(1, |lab| {
        let process = lab.process();
        let (file, _) = stored_file(lab, 32);
        let source = Source::Shared { file: file.clone(), first: 10 };
        let at = process.space().mmap(&Map { at: None, pages: 4, protection: RW, source }).unwrap();
        assert_eq!(process.load(at.start()).unwrap(), 1010);
        // Longer elsewhere, with pages before and behind what was touched.
        anonymous(&process, 1);
        let new = process.space().mremap(at, 8, None).unwrap();
        for (number, page) in new.iter().enumerate() {
            assert_eq!(process.load(page).unwrap(), 1010 + number as u64);
        }
        let tail = process.space().mremap(part(new, 6, 2), 4, Some(at.start().up(5000))).unwrap();
        let loaded: Vec<u64> = tail.iter().map(|page| process.load(page).unwrap()).collect();
        assert_eq!(loaded, [1016, 1017, 1018, 1019]);
        process.store(tail.start(), 5).unwrap();
        assert_eq!(lab.process_reading(&file, 16), 5);
    });
}

#[test]
fn wrong_calls_are_refused_and_change_nothing() {
    on_both(1, |lab| {
        let process = lab.process();
        let space = process.space();
        let stage = "mremap";
        let at = anonymous(&process, 8);
        store_all(&process, at);
        let file = PageCache::new(&lab.engine, "file", 8);
        let other = shared(&process, file.clone(), 4, RW);
        let free = at.start().up(100);
        let bad = Err(SpaceError::BadRange { stage });
        assert_eq!(space.mremap(at, 0, None), bad);
        assert_eq!(space.mremap(at, 0, Some(free)), bad);
        assert_eq!(space.mremap(at, 8, Some(at.start().up(4))), bad);
        assert_eq!(space.mremap(at, 8, Some(at.start())), bad);
        assert_eq!(space.mremap(at, 8, VirtAddr::new(free.get() + 8)), bad);
        assert_eq!(space.mremap(at, 8, Some(space.bounds().end())), bad);
        let overlap = Err(SpaceError::Overlap { stage, at: other.start() });
        assert_eq!(space.mremap(part(at, 0, 2), 2, Some(other.start())), overlap);
        assert_eq!(
            space.mremap(part(at, 0, 1), 3, Some(at.start().up(6))),
            Err(SpaceError::Overlap { stage, at: at.start().up(6) })
        );
        let unmapped = Err(SpaceError::NotMapped { stage, at: free });
        assert_eq!(space.mremap(VirtRange::new(free, 1).unwrap(), 1, None), unmapped);
        let over_the_end = Err(SpaceError::NotMapped { stage, at: at.end() });
        assert_eq!(space.mremap(VirtRange::new(at.start(), 10).unwrap(), 20, None), over_the_end);
        let far = Source::Shared { file, first: u32::MAX - 10 };
        let far = space.mmap(&Map { at: Some(free), pages: 5, protection: RW, source: far }).unwrap();
        assert_eq!(space.mremap(far, 11, None), Err(SpaceError::TooFar { stage }));
        assert_eq!(
            space.mremap(part(at, 0, 1), space.bounds().pages(), None),
            Err(SpaceError::NoRoom { stage, pages: space.bounds().pages() })
        );
        assert_eq!(space.vmas().len(), 3);
        assert_holds(&process, at, 0);
    });
}

#[test]
fn forks_keep_their_own_places() {
    on_both(1, |lab| {
        let parent = lab.process();
        let at = anonymous(&parent, 4);
        store_all(&parent, at);
        let child = parent.fork().unwrap();
        let new = child.space().mremap(at, 4, Some(at.start().up(50))).unwrap();
        // One frame, at two addresses of two processes: both are found.
        for (one, other) in at.iter().zip(new.iter()) {
            let before = pfn_at(&parent, one);
            assert_eq!(before, pfn_at(&child, other));
            lab.migrate(before, Mode::Sync).unwrap();
            assert_ne!(pfn_at(&parent, one), before);
            assert_eq!(pfn_at(&parent, one), pfn_at(&child, other));
        }
        child.store(new.start(), 1).unwrap();
        assert_holds(&parent, at, 0);
        assert_holds(&child, part(new, 1, 3), 1);
        assert_unmapped(lab, &child, at.start());
    });
}

#[test]
fn a_place_left_can_be_used_again() {
    on_both(1, |lab| {
        let process = lab.process();
        let mut at = anonymous(&process, 4);
        store_all(&process, at);
        for turn in 1..20u32 {
            let old = at;
            let to = process.space().bounds().start().up(turn * 700);
            at = process.space().mremap(at, 4, Some(to)).unwrap();
            let source = Source::Anonymous { orders: Orders::BASE };
            let map = Map { at: Some(old.start()), pages: 4, protection: RW, source };
            let again = process.space().mmap(&map).unwrap();
            assert_eq!(process.load(again.start()).unwrap(), 0);
            process.space().munmap(again).unwrap();
        }
        assert_holds(&process, at, 0);
    });
}

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

/// Also of a part in the middle.
#[test]
fn mremap_to_the_same_size_changes_nothing() {
    let lab = Lab::new(TlbKind::Soft, 1);
    let process = lab.process();
    let at = anonymous(&process, 8);
    process.store(at.start().up(2), 1).unwrap();
    assert_eq!(process.space().mremap(part(at, 2, 2), 2, None), Ok(part(at, 2, 2)));
}
