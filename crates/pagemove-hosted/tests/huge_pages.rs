//! 2 MiB anonymous pages: mapped and moved whole, split where a change needs part of one, contents kept throughout.
mod common;

use std::sync::{Arc, Mutex};

use common::*;
use pagemove::{
    frame::Kind,
    migrate::{Mode, Options, Purpose, split},
    paging::Flags,
    report::{Counter, Reason},
    space::{Map, Orders, Protection, Source},
    units::{HUGE_ORDER, VirtAddr, VirtRange},
};
use pagemove_hosted::{Process, TlbKind, enter_cpu};

/// A mapping of `pages` pages whose page `n` holds `n + 1`.
fn filled(process: &Process, pages: u32) -> VirtRange {
    let at = huge(process, pages);
    fill(process, at);
    at
}

fn is_huge(process: &Process, at: VirtAddr) -> bool {
    process.space().entry(at).has(Flags::HUGE)
}

#[test]
fn one_fault_maps_two_mebibytes_of_zeroes() {
    on_both(6, |lab| {
        let process = lab.process();
        let at = huge(&process, 1024);
        assert!(at.start().align_down_huge() == at.start());
        let faults = || lab.engine.physical().counters().get(pagemove::report::Counter::Pgfault);
        assert_eq!(process.load(at.start().up(511)).unwrap(), 0);
        let before = faults();
        assert!(at.iter().take(512).all(|page| process.load(page).unwrap() == 0));
        assert_eq!(faults(), before, "the 2 MiB need no further fault");
        let entry = process.space().entry(at.start());
        let frame = lab.engine.physical().frame(entry.pfn());
        assert!(entry.has(Flags::HUGE) && entry.pfn().is_aligned(HUGE_ORDER));
        assert_eq!((frame.state().order(), frame.refs(), frame.maps()), (HUGE_ORDER, 1, 1));
        fill(&process, at);
        assert_holds(&process, at, 0);
        assert_eq!(lab.count_kind(Kind::Anon), 2);
        lab.validate();
    });
}

#[test]
fn edges_that_do_not_fill_two_mebibytes_are_small() {
    on_both(4, |lab| {
        let process = lab.process();
        let start = process.space().bounds().start().up(300);
        let source = Source::Anonymous { orders: Orders::HUGE };
        let at = process.space().mmap(&Map { at: Some(start), pages: 1000, protection: RW, source }).unwrap();
        fill(&process, at);
        let huge: Vec<u32> = (0..1000).filter(|&page| is_huge(&process, start.up(page))).collect();
        assert_eq!((huge.len(), huge[0]), (512, 212));
        assert_holds(&process, at, 0);
        process.space().munmap(at).unwrap();
    });
}

#[test]
fn without_a_block_of_that_order_small_pages_do() {
    on_both(2, |lab| {
        let physical = lab.engine.physical();
        let held = [7, 512 + 7].map(|at| physical.alloc_exactly(pfn(at), Kind::Kernel).unwrap());
        let process = lab.process();
        let at = huge(&process, 512);
        process.store(at.start(), 1).unwrap();
        process.store(at.start().up(300), 2).unwrap();
        assert!(!is_huge(&process, at.start()));
        assert_eq!(lab.count_kind(Kind::Anon), 2);
        drop(held);
    });
}

#[test]
fn moves_whole_in_every_mode_with_rights_and_marks() {
    on_both(6, |lab| {
        let process = lab.process();
        let at = filled(&process, 1024);
        for mode in [Mode::Async, Mode::SyncLight, Mode::Sync] {
            let heads = [at.start(), at.start().up(512)].map(|page| pfn_at(&process, page));
            let flags = process.space().entry(at.start()).flags();
            let outcome = lab.migrate_all(&heads, Options::new(mode));
            assert_eq!((outcome.moved, outcome.stayed), (1024, vec![]));
            assert_ne!(pfn_at(&process, at.start()), heads[0]);
            assert_eq!(process.space().entry(at.start()).flags(), flags);
            assert!(is_huge(&process, at.start().up(512)));
            for cpu in 0..4 {
                enter_cpu(cpu);
                assert_holds(&process, at, 0);
            }
            lab.validate();
        }
        process.store(at.start().up(700), 701).unwrap();
        assert_holds(&process, at, 0);
        assert_eq!(lab.free_frames(), 6 * 512 - 1024 - lab.count_kind(Kind::PageTable));
    });
}

#[test]
fn without_a_destination_it_stays_and_says_so() {
    on_both(2, |lab| {
        let process = lab.process();
        let at = filled(&process, 512);
        let before = pfn_at(&process, at.start());
        assert_eq!(lab.migrate(before, Mode::Sync), Err(Reason::Order));
        assert_eq!(lab.migrate(before.up(1), Mode::Sync), Err(Reason::Order), "a tail stands for its folio");
        assert_eq!(pfn_at(&process, at.start()), before);
        assert_holds(&process, at, 0);
        lab.validate();
    });
}

/// To empty memory it's split, except in a move that doesn't wait; to get a free block of its own size it isn't.
#[test]
fn without_a_destination_its_pages_move_where_that_helps() {
    on_both(2, |lab| {
        let process = lab.process();
        let at = filled(&process, 512);
        let head = pfn_at(&process, at.start());
        let purpose = |mode| Options { purpose: Purpose::Offlining, ..Options::new(mode) };
        let outcome = lab.migrate_all(&[head], purpose(Mode::Async));
        assert_eq!((outcome.moved, outcome.stayed), (0, vec![(head, Reason::Order)]));
        assert!(is_huge(&process, at.start()));
        assert!(lab.free_frames() < 512, "page tables are in the other block");
        // More than there is room for: frames of pages that have moved take others.
        let outcome = lab.migrate_all(&[head], purpose(Mode::Sync));
        assert_eq!((outcome.moved, outcome.stayed), (512, vec![]));
        let counter = |counter| lab.physical().counters().get(counter);
        assert_eq!([Counter::ThpSplitPage, Counter::ThpSplitPmd, Counter::ThpMigrationSplit].map(counter), [1; 3]);
        assert_holds(&process, at, 0);
        lab.validate();
    });
}

#[test]
fn unmapping_a_part_splits_the_entry_and_a_split_frees_just_that() {
    on_both(5, |lab| {
        let process = lab.process();
        let at = filled(&process, 1024);
        process.space().munmap(part(at, 100, 50)).unwrap();
        assert!(!is_huge(&process, at.start()) && is_huge(&process, at.start().up(512)));
        let head = pfn_at(&process, at.start());
        let frames = lab.physical().frames();
        assert_eq!((lab.count_kind(Kind::Anon), frames[head].maps(), frames.is_partly_mapped(head)), (2, 462, true));
        assert_holds(&process, part(at, 0, 100), 0);
        assert_holds(&process, part(at, 150, 874), 150);
        lab.validate();
        // Still one folio, which moves whole.
        lab.migrate(head.up(300), Mode::Async).unwrap();
        assert_ne!(pfn_at(&process, at.start()), head);
        assert_holds(&process, part(at, 150, 874), 150);
        lab.validate();
        let free = lab.free_frames();
        drop(split(&lab.engine, lab.get(pfn_at(&process, at.start())).lock()).unwrap());
        assert_eq!((lab.free_frames() - free, lab.count_kind(Kind::Anon)), (50, 462 + 1));
        lab.validate();
        // Small ones now, which move one by one.
        for page in [0, 99, 150, 511] {
            let before = pfn_at(&process, at.start().up(page));
            lab.migrate(before, Mode::Async).unwrap();
            assert_ne!(pfn_at(&process, at.start().up(page)), before);
        }
        assert_holds(&process, part(at, 150, 874), 150);
        process.space().munmap(part(at, 512, 512)).unwrap();
        assert_eq!(lab.count_kind(Kind::Anon), 462);
    });
}

#[test]
fn protecting_a_part_splits_and_takes_rights_from_just_that() {
    on_both(5, |lab| {
        let process = lab.process();
        let at = filled(&process, 512);
        for cpu in 0..4 {
            enter_cpu(cpu);
            process.store(at.start(), 1).unwrap();
        }
        process.space().mprotect(part(at, 10, 1), Protection::READ).unwrap();
        assert!(!is_huge(&process, at.start()));
        let writable = |page| process.space().entry(at.start().up(page)).has(Flags::WRITE);
        assert_eq!([9, 10, 11].map(writable), [true, false, true]);
        assert_holds(&process, at, 0);
        // All of one stays whole.
        let other = filled(&process, 512);
        process.space().mprotect(other, Protection::READ).unwrap();
        assert!(is_huge(&process, other.start()));
        process.space().mprotect(other, RW).unwrap();
        process.store(other.start().up(5), 6).unwrap();
        assert_holds(&process, other, 0);
    });
}

#[test]
fn a_fork_shares_and_a_store_splits_the_entry_and_copies() {
    on_both(6, |lab| {
        let parent = lab.process();
        let at = filled(&parent, 512);
        let child = parent.fork().unwrap();
        assert_eq!(lab.count_kind(Kind::Anon), 1, "shared whole");
        assert!(is_huge(&parent, at.start()) && is_huge(&child, at.start()));
        lab.migrate(pfn_at(&parent, at.start()), Mode::Sync).unwrap();
        assert_eq!(pfn_at(&parent, at.start()), pfn_at(&child, at.start()));
        lab.validate();
        child.store(at.start().up(5), 1000).unwrap();
        parent.store(at.start().up(6), 2000).unwrap();
        assert_eq!([parent.load(at.start().up(5)).unwrap(), child.load(at.start().up(5)).unwrap()], [6, 1000]);
        assert_eq!([parent.load(at.start().up(6)).unwrap(), child.load(at.start().up(6)).unwrap()], [2000, 7]);
        assert!(!is_huge(&parent, at.start()) && !is_huge(&child, at.start()));
        assert_eq!(lab.count_kind(Kind::Anon), 3);
        for page in [0, 7, 511] {
            let before = pfn_at(&parent, at.start().up(page));
            lab.migrate(before, Mode::Sync).unwrap();
            let after = pfn_at(&parent, at.start().up(page));
            assert!(after != before && pfn_at(&child, at.start().up(page)) == after);
        }
        drop(parent);
        assert_holds(&child, part(at, 6, 506), 6);
        // Only the child maps it now, so nothing is copied, except the page that the child has copied before.
        at.iter().for_each(|page| child.store(page, 9).unwrap());
        assert_eq!(lab.count_kind(Kind::Anon), 2);
    });
}

/// What is huge in a process that has forked before, and what a child maps huge by itself.
#[test]
fn huge_pages_of_a_family_move() {
    on_both(8, |lab| {
        let parent = lab.process();
        let early = filled(&parent, 512);
        let child = parent.fork().unwrap();
        let late = huge(&child, 512);
        fill(&child, late);
        assert!(is_huge(&child, late.start()) && is_huge(&child, early.start()));
        let before = pfn_at(&child, late.start());
        lab.migrate(before, Mode::Sync).unwrap();
        assert_ne!(pfn_at(&child, late.start()), before);
        assert_holds(&child, late, 0);
        assert_holds(&child, early, 0);
    });
}

#[test]
fn a_pin_holds_the_whole_and_splits_nothing() {
    on_both(5, |lab| {
        let process = lab.process();
        let at = filled(&process, 512);
        let pins = process.space().pin(part(at, 3, 1), true, "nic").unwrap();
        let head = pfn_at(&process, at.start());
        assert!(is_huge(&process, at.start()) && pins[0].pfn() == head.up(3));
        assert_eq!(lab.migrate(pins[0].pfn(), Mode::Sync), Err(Reason::Pinned));
        assert_eq!(lab.migrate(head, Mode::Sync), Err(Reason::Pinned));
        let (_, reason) = split(&lab.engine, lab.get(head).lock()).map(drop).unwrap_err();
        assert_eq!(reason, Reason::Pinned);
        pins[0].words(0)[0].store(4, std::sync::atomic::Ordering::Release);
        assert_holds(&process, at, 0);
        lab.validate();
    });
}

#[test]
fn mremap_keeps_it_whole_where_it_fits_and_splits_it_elsewhere() {
    on_both(6, |lab| {
        let process = lab.process();
        let at = filled(&process, 1024);
        let aligned = process.space().mremap(at, 1024, Some(at.start().up(8192))).unwrap();
        assert!(is_huge(&process, aligned.start()));
        assert_holds(&process, aligned, 0);
        let before = pfn_at(&process, aligned.start());
        lab.migrate(before, Mode::Sync).unwrap();
        assert_ne!(pfn_at(&process, aligned.start()), before);
        let odd = process.space().mremap(aligned, 1024, Some(at.start().up(16384 + 1))).unwrap();
        assert!(!is_huge(&process, odd.start()));
        assert_holds(&process, odd, 0);
        lab.migrate(pfn_at(&process, odd.start().up(600)), Mode::Sync).unwrap();
        assert_holds(&process, odd, 0);
        // A part of one, back to where the whole began.
        let piece = process.space().mremap(part(odd, 100, 10), 10, Some(at.start())).unwrap();
        assert_holds(&process, piece, 100);
        lab.validate();
    });
}

#[test]
fn shorter_cuts_through_one() {
    on_both(5, |lab| {
        let process = lab.process();
        let at = filled(&process, 1024);
        let short = process.space().mremap(at, 700, None).unwrap();
        assert!(is_huge(&process, at.start()) && !is_huge(&process, at.start().up(512)));
        assert_holds(&process, short, 0);
        assert_eq!(lab.count_kind(Kind::Anon), 2);
        let frames = lab.physical().frames();
        assert_eq!(frames[pfn_at(&process, at.start().up(512))].maps(), 188);
    });
}

/// Shorter and elsewhere at once, by part of a 2 MiB page.
#[test]
fn mremap_that_cuts_through_a_huge_page_keeps_the_pages_before_the_cut() {
    let lab = Lab::new(TlbKind::Soft, 4);
    let process = lab.process();
    let at = huge(&process, 512);
    at.iter().for_each(|page| process.store(page, 7).unwrap());
    let new = process.space().mremap(at, 300, Some(at.start().up(2048))).unwrap();
    assert_eq!(process.load(new.start()).unwrap(), 7);
}

/// No empty table of an earlier mapping may be in the way.
#[test]
fn mremap_of_a_huge_page_to_where_small_ones_have_been() {
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

/// No CPU has the large translation any more when there are small ones: some CPUs can't have both (Intel's erratum on
/// page sizes), and stores through both would be marked in two places.
#[test]
fn the_split_of_an_entry_breaks_and_flushes_before_it_makes() {
    let (lab, hooked) = Hooked::lab(TlbKind::Soft, 4);
    let process = lab.process();
    let at = filled(&process, 512);
    let (engine, root) = (lab.engine.clone(), process.space().table().root());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = seen.clone();
    hooked.before_next_flush(move |ranges| {
        let ranges = ranges.iter().map(|range| (range.start, range.pages, range.order));
        noted.lock().unwrap().extend(ranges.map(|range| (range, raw::leaf_table(engine.physical(), root, at.start()))));
    });
    process.space().munmap(part(at, 9, 1)).unwrap();
    assert_eq!(*seen.lock().unwrap(), [((at.start(), 512, HUGE_ORDER), None)], "the first flush, without a table");
    assert!(process.space().leaf_table(at.start()).is_some());
    assert_holds(&process, part(at, 0, 9), 0);
}
