//! Cases of the Linux Test Project about moving pages, again. What `move_pages` does there to the pages of a process, by
//! address, is done here by looking the frame up and moving that; a node is a zone.
//!
//! | not here | why |
//! | --- | --- |
//! | `move_pages` 04: the shared zero page | there is none: memory that was only read has a frame of its own, and moves |
//! | `move_pages` 05 and 11, `migrate_pages` 02: EACCES and EPERM without the right to move what others map | who may move is the caller's business; the core moves what it's told to |
//! | `move_pages` 08 (too long a list) | any number of pages is moved, in batches: `moves.rs` |
//! | `move_pages` 12: soft-offline of huge pages | no page is taken out of service |
//! | `migrate_pages` 01 | errors of the system call's arguments |
//! | `migrate_pages` 03, `ksm` 01 to 07 | no pages are merged |
//! | `vma` 02 and 04 | placement of mappings by node (`mbind`), and their merging |
//! | `vma` 05 | the kernel's own page in each process (vDSO) |
mod common;

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use common::*;
use pagemove::{
    frame::Kind,
    migrate::{Batch, Mode, Mover, Options, TheseFrames},
    report::{Counter, Reason},
    space::{Map, Orders, PageCache, Source, SpaceError},
    units::{Pfn, VirtRange},
};
use pagemove_drivers::CharDevice;
use pagemove_hosted::{Process, enter_cpu};

const PAGES: u32 = 8;

fn on_nodes(test: impl Fn(&Nodes)) {
    for tlb in BOTH {
        let nodes = Nodes::new(tlb, 2);
        let free = nodes.lab.free_frames();
        test(&nodes);
        nodes.lab.assert_all_free(free);
    }
}

fn fill(process: &Process, at: VirtRange) {
    at.iter().for_each(|page| process.store(page, page.get()).unwrap());
}

fn assert_filled(process: &Process, at: VirtRange) {
    at.iter().for_each(|page| assert_eq!(process.load(page).unwrap(), page.get()));
}

fn frames(process: &Process, at: VirtRange) -> Vec<Pfn> {
    at.iter().map(|page| pfn_at(process, page)).collect()
}

/// Where each page is.
#[test]
fn ltp_move_pages_01_tells_where_pages_are() {
    on_nodes(|nodes| {
        let process = nodes.lab.process();
        let at = anonymous(&process, PAGES);
        fill(&process, at);
        for node in [1, 0] {
            nodes.move_to(node, &frames(&process, part(at, 0, PAGES / 2)), Mode::Sync);
            nodes.move_to(1 - node, &frames(&process, part(at, PAGES / 2, PAGES / 2)), Mode::Sync);
            for (number, page) in (0..).zip(at.iter()) {
                let pfn = process.space().entry(page).pfn();
                assert_eq!(nodes.of(pfn), if number < PAGES / 2 { node } else { 1 - node });
                let folio = nodes.lab.get(pfn);
                assert_eq!(folio.words(0)[0].load(Ordering::SeqCst), page.get(), "the page is not there");
            }
        }
    });
}

#[test]
fn ltp_move_pages_02_to_another_node() {
    on_nodes(|nodes| {
        let process = nodes.lab.process();
        let device = CharDevice::new(&nodes.lab.engine, "chardev").open(PAGES);
        let (file, _) = stored_file(&nodes.lab, PAGES);
        let mappings = [
            anonymous(&process, PAGES),
            shared(&process, PageCache::new(&nodes.lab.engine, "memory file", PAGES), PAGES, RW),
            private(&process, file, PAGES),
            shared(&process, device, PAGES, RW),
        ];
        for at in mappings {
            fill(&process, at);
            for (node, mode) in [0, 1, 0].into_iter().zip(MODES) {
                let outcome = nodes.move_to(node, &frames(&process, at), mode);
                assert_eq!((outcome.moved, outcome.stayed), (u64::from(PAGES), vec![]));
                assert!(frames(&process, at).iter().all(|&pfn| nodes.of(pfn) == node));
                assert_filled(&process, at);
            }
        }
    });
}

#[test]
fn ltp_move_pages_03_shared_memory_of_parent_and_child() {
    on_nodes(|nodes| {
        let parent = nodes.lab.process();
        let at = shared(&parent, PageCache::new(&nodes.lab.engine, "shared memory", PAGES), PAGES, RW);
        fill(&parent, at);
        let child = parent.fork().unwrap();
        for (node, of) in [(0, &child), (1, &parent)] {
            assert_eq!(nodes.move_to(node, &frames(of, at), Mode::SyncLight).moved, u64::from(PAGES));
            assert_eq!(frames(&parent, at), frames(&child, at));
            assert!(frames(&parent, at).iter().all(|&pfn| nodes.of(pfn) == node));
            assert_filled(&child, at);
        }
        child.store(at.start(), 3).unwrap();
        assert_eq!(parent.load(at.start()).unwrap(), 3);
    });
}

/// A page never touched has no frame, and gets none by a move; one only read has; a frame that is none is told so.
#[test]
fn ltp_move_pages_04_absent() {
    on_nodes(|nodes| {
        let process = nodes.lab.process();
        let at = anonymous(&process, 3);
        process.store(at.start(), 1).unwrap();
        assert_eq!(process.load(at.start().up(1)).unwrap(), 0);
        let entries = at.iter().map(|page| process.space().entry(page));
        let present: Vec<bool> = entries.map(|entry| entry.is_present()).collect();
        assert_eq!(present, [true, true, false]);
        let free = nodes.lab.free_frames();
        let none = Pfn::new(u64::MAX);
        let pages = [pfn_at(&process, at.start()), none, pfn_at(&process, at.start().up(1))];
        let outcome = nodes.move_to(0, &pages, Mode::Sync);
        assert_eq!((outcome.moved, outcome.stayed), (2, vec![(none, Reason::CrossedZone)]));
        assert_eq!(nodes.lab.free_frames(), free);
        assert!(process.space().entry(at.start().up(2)).is_none());
        assert_eq!(at.iter().map(|page| process.load(page).unwrap()).collect::<Vec<_>>(), [1, 0, 0]);
    });
}

#[test]
fn ltp_move_pages_06_no_such_node() {
    on_nodes(|nodes| {
        let process = nodes.lab.process();
        let at = anonymous(&process, PAGES);
        fill(&process, at);
        let before = frames(&process, at);
        let blocks = nodes.lab.engine.physical().blocks().count();
        for node in [blocks..blocks + 2, 0..0] {
            let mut nowhere = TheseFrames::new(nodes.lab.engine.physical(), node);
            let outcome = Mover::new(&nodes.lab.engine).migrate(&before, &mut nowhere, Options::new(Mode::Sync));
            let expected: Vec<_> = before.iter().map(|&pfn| (pfn, Reason::NoDestination)).collect();
            assert_eq!((outcome.moved, outcome.stayed), (0, expected));
        }
        assert_eq!(frames(&process, at), before);
        assert_filled(&process, at);
    });
}

/// The process has gone: its pages are free, and so neither moved nor stayed.
#[test]
fn ltp_move_pages_07_no_such_process() {
    on_nodes(|nodes| {
        let process = nodes.lab.process();
        let at = anonymous(&process, PAGES);
        fill(&process, at);
        let pages = frames(&process, at);
        drop(process);
        let free = nodes.lab.free_frames();
        for mode in MODES {
            let outcome = nodes.move_to(0, &pages, mode);
            assert_eq!((outcome.moved, outcome.stayed), (0, vec![]));
        }
        assert_eq!(nodes.lab.free_frames(), free);
    });
}

/// Linux leaves such a page; here the caller says which frames to fill, and gets it in one of those.
#[test]
fn ltp_move_pages_09_already_there() {
    on_nodes(|nodes| {
        let process = nodes.lab.process();
        let at = anonymous(&process, PAGES);
        fill(&process, at);
        for node in [0, 0, 1, 1] {
            assert_eq!(nodes.move_to(node, &frames(&process, at), Mode::Async).moved, u64::from(PAGES));
            assert!(frames(&process, at).iter().all(|&pfn| nodes.of(pfn) == node));
            assert_filled(&process, at);
        }
    });
}

/// Options out of bounds are brought into them.
#[test]
fn ltp_move_pages_10_options_out_of_bounds() {
    on_nodes(|nodes| {
        let process = nodes.lab.process();
        let at = anonymous(&process, PAGES);
        fill(&process, at);
        for batch in [Batch::Folios(0), Batch::Folios(usize::MAX), Batch::Micros(0), Batch::Micros(u32::MAX)] {
            let outcome = nodes.lab.migrate_all(&frames(&process, at), Options { batch, ..Options::new(Mode::Sync) });
            assert_eq!((outcome.moved, outcome.stayed), (u64::from(PAGES), vec![]));
        }
        assert_filled(&process, at);
    });
}

/// 2 MiB pages come and go by faults, forks and unmappings while everything moves, and nothing is taken for what it was.
#[test]
fn ltp_move_pages_12_races_with_free_and_fault() {
    for tlb in BOTH {
        let lab = Lab::new(tlb, 12);
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            for user in 0..2 {
                let (lab, over) = (&lab, &over);
                scope.spawn(move || {
                    enter_cpu(user);
                    let _failed = SetAtEnd(over);
                    while !over.load(Ordering::Relaxed) {
                        let process = lab.process();
                        let at = huge(&process, 512);
                        for page in [0, 100, 511] {
                            process.store(at.start().up(page), 7).unwrap();
                        }
                        let child = process.fork().unwrap();
                        process.store(at.start(), 8).unwrap();
                        process.space().munmap(part(at, 0, 200)).unwrap();
                        assert_eq!([0, 100, 511].map(|page| child.load(at.start().up(page)).unwrap()), [7; 3]);
                        assert_eq!(process.load(at.start().up(511)).unwrap(), 7);
                    }
                });
            }
            let _end = SetAtEnd(&over);
            let all: Vec<Pfn> = range(0, 12 * 512).iter().collect();
            let moved = || lab.engine.physical().counters().get(Counter::PgmigrateSuccess);
            let mut turn = 0;
            while moved() < 3000 && !over.load(Ordering::Relaxed) {
                for pages in all.chunks(1024) {
                    lab.migrate_all(pages, Options::new(MODES[turn % 3]));
                }
                turn += 1;
            }
        });
        lab.assert_all_free(12 * 512);
    }
}

/// All that two processes have, of their own and shared, goes to one node; what can't move is what the kernel has.
#[test]
fn ltp_migrate_pages_02_whole_processes() {
    on_nodes(|nodes| {
        let parent = nodes.lab.process();
        let own = anonymous(&parent, PAGES);
        let common = shared(&parent, PageCache::new(&nodes.lab.engine, "shared memory", PAGES), PAGES, RW);
        fill(&parent, own);
        fill(&parent, common);
        let child = parent.fork().unwrap();
        child.store(own.start(), 1).unwrap();
        for node in [0, 1] {
            let mut pages: Vec<Pfn> = Vec::new();
            for process in [&parent, &child] {
                process.space().for_each_entry(|_, entry| pages.push(entry.pfn()));
            }
            pages.sort();
            pages.dedup();
            assert_eq!(pages.len() as u32, 2 * PAGES + 1);
            let outcome = nodes.move_to(node, &pages, Mode::Sync);
            assert_eq!((outcome.moved, outcome.stayed), (u64::from(2 * PAGES + 1), vec![]));
            for process in [&parent, &child] {
                process.space().for_each_entry(|_, entry| assert_eq!(nodes.of(entry.pfn()), node));
            }
        }
        let tables = nodes.lab.count_kind(Kind::PageTable);
        let root = parent.space().table().root();
        assert_eq!(nodes.move_to(0, &[root], Mode::Sync).stayed, []);
        assert_eq!(nodes.of(parent.space().table().root()), 0);
        assert_eq!(nodes.lab.count_kind(Kind::PageTable), tables);
        assert_filled(&parent, own);
        assert_eq!(child.load(own.start()).unwrap(), 1);
        assert_filled(&child, part(own, 1, PAGES - 1));
        assert_filled(&child, common);
    });
}

/// What a child maps beside what it got from its parent does not become part of that, and both are found by moves.
#[test]
fn ltp_vma_01_a_mapping_beside_a_cloned_one() {
    on_both(1, |lab| {
        let parent = lab.process();
        let cloned = anonymous(&parent, 3);
        fill(&parent, cloned);
        let child = parent.fork().unwrap();
        let source = Source::Anonymous { orders: Orders::BASE };
        let map = Map { at: Some(cloned.end()), pages: 3, protection: RW, source };
        let beside = child.space().mmap(&map).unwrap();
        fill(&child, beside);
        assert_eq!(child.space().vmas().len(), 2);
        let key = |page| lab.engine.physical().frame(pfn_at(&child, page)).key().rmap;
        assert_ne!(key(cloned.start()), key(beside.start()));
        let pages = [frames(&child, cloned), frames(&child, beside)].concat();
        assert_eq!(lab.migrate_all(&pages, Options::new(Mode::Async)).moved, 6);
        assert_eq!(frames(&parent, cloned), frames(&child, cloned));
        assert_filled(&child, cloned);
        assert_filled(&child, beside);
        assert_eq!(parent.space().vmas().len(), 1);
    });
}

/// A mapping that grows must not reach page offsets that wrap (CVE-2011-2496).
#[test]
fn ltp_vma_03_mremap_beyond_the_last_page_offset() {
    on_both(1, |lab| {
        let process = lab.process();
        let file = CharDevice::new(&lab.engine, "chardev").open(4);
        let source = Source::Shared { file, first: u32::MAX - 4 };
        let at = process.space().mmap(&Map { at: None, pages: 3, protection: RW, source }).unwrap();
        let to = Some(at.start().up(1000));
        for (pages, to) in [(6, None), (6, to), (1 << 20, to)] {
            let refused = Err(SpaceError::TooFar { stage: "mremap" });
            assert_eq!(process.space().mremap(at, pages, to), refused, "{pages} pages");
        }
        assert_eq!(process.space().vmas().len(), 1);
        assert_eq!(process.space().mremap(at, 4, to).map(VirtRange::pages), Ok(4));
    });
}
