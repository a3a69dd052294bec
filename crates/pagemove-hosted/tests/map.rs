//! mmap and munmap: where things are mapped, what is refused, what is left, and that page tables go when they are empty.
mod common;

use common::*;
use pagemove::{
    frame::Kind,
    space::{FaultError, Map, Orders, PageCache, Protection, Source, SpaceError},
    units::{VirtAddr, VirtRange},
};
use pagemove_drivers::CharDevice;
use pagemove_hosted::{Process, TlbKind};
use rand::RngExt;

fn map_at(process: &Process, at: VirtAddr, pages: u32) -> Result<VirtRange, SpaceError> {
    let source = Source::Anonymous { orders: Orders::BASE };
    process.space().mmap(&Map { at: Some(at), pages, protection: RW, source })
}

fn at(process: &Process, page: u32) -> VirtAddr {
    process.space().bounds().start().up(page)
}

#[test]
fn anonymous_memory_is_zero_then_what_was_stored() {
    on_both(2, |lab| {
        let process = lab.process();
        let at = anonymous(&process, 64);
        for (number, page) in at.iter().enumerate() {
            let word = VirtAddr::new(page.get() + 4088).unwrap();
            assert_eq!((process.load(page).unwrap(), process.load(word).unwrap()), (0, 0));
            process.store(word, number as u64).unwrap();
        }
        for (number, page) in at.iter().enumerate() {
            assert_eq!(process.load(VirtAddr::new(page.get() + 4088).unwrap()).unwrap(), number as u64);
        }
        assert_eq!(lab.count_kind(Kind::Anon), 64);
    });
}

/// A frame that another process has used holds his data still; none of it must be seen.
#[test]
fn reused_frames_are_cleared() {
    on_both(1, |lab| {
        for _ in 0..3 {
            let process = lab.process();
            for page in anonymous(&process, 400).iter() {
                assert_eq!(process.load(page).unwrap(), 0);
                process.store(page, u64::MAX).unwrap();
            }
        }
    });
}

#[test]
fn mappings_go_where_they_are_asked_or_to_the_first_gap() {
    on_both(1, |lab| {
        let process = lab.process();
        let fixed = map_at(&process, at(&process, 10), 5).unwrap();
        assert_eq!((fixed.start(), fixed.pages()), (at(&process, 10), 5));
        assert_eq!(anonymous(&process, 10).start(), at(&process, 0));
        assert_eq!(anonymous(&process, 1).start(), at(&process, 15));
        assert_eq!(process.space().vmas().len(), 3);
        process.space().munmap(part(fixed, 1, 2)).unwrap();
        assert_eq!(anonymous(&process, 3).start(), at(&process, 16));
        assert_eq!(anonymous(&process, 2).start(), at(&process, 11));
    });
}

#[test]
fn wrong_ranges_are_refused_and_change_nothing() {
    on_both(1, |lab| {
        let process = lab.process();
        let bounds = process.space().bounds();
        let bad = Err(SpaceError::BadRange { stage: "mmap" });
        let misaligned = VirtAddr::new(bounds.start().get() + 8).unwrap();
        let below = VirtAddr::new(bounds.start().get() - 4096).unwrap();
        let last = bounds.start().up(bounds.pages() - 1);
        assert_eq!(map_at(&process, misaligned, 1), bad);
        assert_eq!(map_at(&process, bounds.start(), 0), bad);
        assert_eq!(map_at(&process, below, 1), bad);
        assert_eq!(map_at(&process, last, 2), bad);
        assert_eq!(map_at(&process, bounds.end(), 1), bad);
        assert_eq!(map_at(&process, VirtAddr::default(), 1), bad);
        let source = Source::Anonymous { orders: Orders::BASE };
        let none = Map { at: None, pages: 0, protection: RW, source: source.clone() };
        assert_eq!(process.space().mmap(&none), bad);
        let too_many = Map { at: None, pages: bounds.pages() + 1, protection: RW, source };
        let no_room = Err(SpaceError::NoRoom { stage: "mmap", pages: bounds.pages() + 1 });
        assert_eq!(process.space().mmap(&too_many), no_room);
        assert!(process.space().vmas().is_empty());
        // The very last page, and then all that is left before it.
        map_at(&process, last, 1).unwrap();
        process.store(last, 1).unwrap();
        assert_eq!(anonymous(&process, bounds.pages() - 1).start(), bounds.start());
        let full = Map { at: None, pages: 1, protection: RW, source: Source::Anonymous { orders: Orders::BASE } };
        assert_eq!(process.space().mmap(&full), Err(SpaceError::NoRoom { stage: "mmap", pages: 1 }));
    });
}

#[test]
fn overlaps_are_refused_with_the_first_address_in_the_way() {
    on_both(1, |lab| {
        let process = lab.process();
        map_at(&process, at(&process, 10), 5).unwrap();
        for (page, pages, in_the_way) in [(10, 5, 10), (0, 11, 10), (12, 1, 12), (14, 9, 14), (0, 100, 10)] {
            let overlap = SpaceError::Overlap { stage: "mmap", at: at(&process, in_the_way) };
            assert_eq!(map_at(&process, at(&process, page), pages), Err(overlap));
        }
        map_at(&process, at(&process, 15), 1).unwrap();
        map_at(&process, at(&process, 0), 10).unwrap();
        assert_eq!(process.space().vmas().len(), 3);
    });
}

#[test]
fn file_offsets_must_not_wrap() {
    on_both(1, |lab| {
        let process = lab.process();
        let file = CharDevice::new(&lab.engine, "chardev").open(4);
        let map = |first, pages| {
            let source = Source::Shared { file: file.clone(), first };
            process.space().mmap(&Map { at: None, pages, protection: RW, source })
        };
        assert_eq!(map(u32::MAX - 1, 3), Err(SpaceError::TooFar { stage: "mmap" }));
        assert_eq!(map(u32::MAX, u32::MAX >> 8), Err(SpaceError::TooFar { stage: "mmap" }));
        assert!(process.space().vmas().is_empty());
        assert!(map(u32::MAX - 3, 3).is_ok());
        assert_eq!(map(2, 2).unwrap().pages(), 2);
        file.write(3, 0, 77).unwrap();
        let at = process.space().vmas()[1].range;
        assert_eq!(process.load(at.start().up(1)).unwrap(), 77);
    });
}

#[test]
fn unmapping_the_middle_leaves_both_sides() {
    on_both(2, |lab| {
        let process = lab.process();
        let file = PageCache::new(&lab.engine, "file", 32);
        let anonymous = |process: &Process| anonymous(process, 16);
        let shared_file = |process: &Process| shared(process, file.clone(), 16, RW);
        let private_file = |process: &Process| private(process, file.clone(), 16);
        for map in [&anonymous as &dyn Fn(&Process) -> VirtRange, &shared_file, &private_file] {
            let at = map(&process);
            at.iter().for_each(|page| process.store(page, page.get()).unwrap());
            process.space().munmap(part(at, 4, 8)).unwrap();
            for (number, page) in at.iter().enumerate() {
                let left = !(4..12).contains(&number);
                assert_eq!(process.space().entry(page).is_present(), left);
                if left {
                    assert_eq!(process.load(page).unwrap(), page.get());
                } else if lab.machine.config().tlb == TlbKind::Soft {
                    assert_eq!(process.load(page), Err(FaultError::NotMapped(page)));
                    assert_eq!(process.store(page, 1), Err(FaultError::NotMapped(page)));
                }
            }
            assert_eq!(process.space().vmas().len(), 2);
            // Once more over all of it, the holes included.
            process.space().munmap(at).unwrap();
            assert!(process.space().vmas().is_empty());
        }
        // What was stored through the shared mapping stays in the file.
        let again = shared(&process, file.clone(), 16, RW);
        assert!(again.iter().all(|page| process.load(page).unwrap() == page.get()));
    });
}

#[test]
fn one_unmapping_takes_parts_of_several_mappings() {
    on_both(1, |lab| {
        let process = lab.process();
        let file = PageCache::new(&lab.engine, "file", 8);
        for page in [0, 8, 24] {
            map_at(&process, at(&process, page), 8).unwrap();
        }
        let source = Source::Shared { file: file.clone(), first: 0 };
        process.space().mmap(&Map { at: Some(at(&process, 16)), pages: 8, protection: RW, source }).unwrap();
        (0..32).for_each(|page| process.store(at(&process, page), u64::from(page)).unwrap());
        process.space().munmap(VirtRange::new(at(&process, 4), 24).unwrap()).unwrap();
        let ranges: Vec<_> = process.space().vmas().iter().map(|vma| (vma.range.start(), vma.range.pages())).collect();
        assert_eq!(ranges, [(at(&process, 0), 4), (at(&process, 28), 4)]);
        for page in (0..4).chain(28..32) {
            assert_eq!(process.load(at(&process, page)).unwrap(), u64::from(page));
        }
        assert_eq!(file.index().len(), 8);
        assert_eq!(lab.count_kind(Kind::Anon), 8);
    });
}

#[test]
fn unmapping_nothing_is_fine_and_beyond_the_bounds_is_not() {
    on_both(1, |lab| {
        let process = lab.process();
        let bounds = process.space().bounds();
        process.space().munmap(VirtRange::new(at(&process, 100), 1).unwrap()).unwrap();
        process.space().munmap(bounds).unwrap();
        let beyond = VirtRange::new(bounds.end(), 1).unwrap();
        assert_eq!(process.space().munmap(beyond), Err(SpaceError::BadRange { stage: "munmap" }));
        let over = VirtRange::new(bounds.start().up(bounds.pages() - 1), 2).unwrap();
        assert_eq!(process.space().munmap(over), Err(SpaceError::BadRange { stage: "munmap" }));
    });
}

#[test]
fn a_remapped_address_never_shows_the_old_page() {
    on_both(1, |lab| {
        let process = lab.process();
        let start = at(&process, 0);
        for turn in 1..20 {
            let range = map_at(&process, start, 2).unwrap();
            assert_eq!(process.load(start).unwrap(), 0);
            process.store(start, turn).unwrap();
            assert_eq!(process.load(start).unwrap(), turn);
            process.space().munmap(range).unwrap();
        }
    });
}

#[test]
fn tables_go_with_the_last_mapping_that_they_serve() {
    on_both(2, |lab| {
        let process = lab.process();
        assert_eq!(lab.count_kind(Kind::PageTable), 1);
        // Two in one lowest table; one in another lowest table; one below another third-level table (1 GiB on).
        let places = [0, 100, 600, 1 << 18];
        for page in places {
            map_at(&process, at(&process, page), 1).unwrap();
            process.store(at(&process, page), u64::from(page)).unwrap();
        }
        // Root, third, two second, three lowest.
        assert_eq!(lab.count_kind(Kind::PageTable), 7 - FEWER);
        let unmap = |page| process.space().munmap(VirtRange::new(at(&process, page), 1).unwrap()).unwrap();
        unmap(0);
        assert_eq!(lab.count_kind(Kind::PageTable), 7 - FEWER);
        assert_eq!(process.load(at(&process, 100)).unwrap(), 100);
        unmap(100);
        assert_eq!(lab.count_kind(Kind::PageTable), 6 - FEWER);
        unmap(1 << 18);
        assert_eq!(lab.count_kind(Kind::PageTable), 4 - FEWER);
        assert_eq!(process.load(at(&process, 600)).unwrap(), 600);
        // The root alone is left.
        unmap(600);
        assert_eq!(lab.count_kind(Kind::PageTable), 1);
        // And they come back.
        map_at(&process, at(&process, 600), 1).unwrap();
        process.store(at(&process, 600), 6).unwrap();
        assert_eq!(lab.count_kind(Kind::PageTable), 4 - FEWER);
    });
}

#[test]
fn running_out_of_frames_is_an_error_and_loses_nothing() {
    // The soft TLB only: on the host's, a process dies of it.
    let lab = Lab::new(TlbKind::Soft, 1);
    let process = lab.process();
    let at = anonymous(&process, 1024);
    let mut stored = 0;
    let error = loop {
        match process.store(at.start().up(stored), u64::from(stored) + 1) {
            Ok(()) => stored += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, FaultError::OutOfMemory(_)));
    assert!(stored > 500);
    assert!(lab.process_error().is_some());
    (0..stored).for_each(|page| assert_eq!(process.load(at.start().up(page)).unwrap(), u64::from(page) + 1));
    lab.validate();
    process.space().munmap(part(at, 0, 1)).unwrap();
    process.store(at.start().up(stored), 9).unwrap();
    drop(process);
    lab.assert_all_free(512);
}

/// Random mappings and unmappings against a model of which page holds what.
#[test]
fn random_histories_agree_with_a_model() {
    for (seed, tlb) in [(1, BOTH[0]), (2, BOTH[0]), (3, BOTH[1])] {
        let lab = Lab::new(tlb, 2);
        let mut rng = rng(seed);
        let process = lab.process();
        const PAGES: u32 = 700;
        let mut model: Vec<Option<u64>> = vec![None; PAGES as usize];
        for step in 1..600u64 {
            let first = rng.random_range(0..PAGES);
            let pages = rng.random_range(1..=(PAGES - first).min(40));
            let slice = first as usize..(first + pages) as usize;
            match rng.random_range(0..10) {
                0..4 => {
                    let free = model[slice.clone()].iter().all(Option::is_none);
                    assert_eq!(map_at(&process, at(&process, first), pages).is_ok(), free, "seed {seed}");
                    if free {
                        model[slice].fill(Some(0));
                    }
                }
                4..6 => {
                    process.space().munmap(VirtRange::new(at(&process, first), pages).unwrap()).unwrap();
                    model[slice].fill(None);
                }
                _ => {
                    for page in slice.filter(|&page| model[page].is_some()).collect::<Vec<_>>() {
                        let address = at(&process, page as u32);
                        assert_eq!(process.load(address).unwrap(), model[page].unwrap(), "seed {seed}, step {step}");
                        process.store(address, step).unwrap();
                        model[page] = Some(step);
                    }
                }
            }
            if step % 100 == 0 {
                lab.validate();
                let read_only = process.space().mmap(&Map {
                    at: Some(at(&process, PAGES)),
                    pages: 1,
                    protection: Protection::READ,
                    source: Source::Anonymous { orders: Orders::BASE },
                });
                process.space().munmap(read_only.unwrap()).unwrap();
            }
        }
        drop(process);
        lab.assert_all_free(1024);
    }
}

/// Also the tables of the upper levels, which serve addresses outside the bounds as well.
#[test]
fn a_process_that_ends_gives_all_its_page_tables_back() {
    let lab = Lab::new(TlbKind::Soft, 1);
    let process = lab.process();
    process.store(anonymous(&process, 1).start(), 1).unwrap();
    drop(process);
    assert_eq!((lab.count_kind(Kind::PageTable), lab.free_frames()), (0, 512));
}

/// A machine may serve several engines, and knows spaces by their numbers.
#[test]
fn spaces_of_two_engines_have_different_numbers() {
    let labs = [Lab::new(TlbKind::Soft, 2), Lab::new(TlbKind::Soft, 2)];
    let [one, two] = labs.each_ref().map(|lab| lab.process().space().id());
    assert_ne!(one, two);
}
