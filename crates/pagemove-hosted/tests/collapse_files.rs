//! Collapse of a shared file's pages into 2 MiB pages. Varies who maps them, holes and their source, orders before, holders of pages,
//! the part of the file, movers and splits beside. Not varied: devices that map the file.
mod common;

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use common::*;
use pagemove::{
    frame::{Kind, Marks},
    migrate::{Options, split},
    paging::Flags,
    space::{CollapseError, Map, Mappable, Orders, PageCache, ReadPage, Source},
    units::{HUGE_ORDER, Pfn, VirtAddr, VirtRange},
};
use pagemove_drivers::CharDevice;
use pagemove_hosted::{Process, enter_cpu};
use rand::RngExt;

fn is_huge(process: &Process, at: VirtAddr) -> bool {
    process.space().entry(at).has(Flags::HUGE)
}

/// `blocks` aligned 2 MiB of a shared file from page `first` on.
fn of_file(process: &Process, file: &Arc<PageCache>, first: u32, blocks: u32) -> VirtRange {
    let at = Some(process.space().bounds().start().up(512 * 64).align_down_huge());
    let source = Source::Shared { file: file.clone(), first };
    process.space().mmap(&Map { at, pages: 512 * blocks, protection: RW, source }).unwrap()
}

/// All that a process's entries say but the frames and the size.
fn flags(process: &Process, at: VirtRange) -> Vec<Flags> {
    at.iter().map(|page| process.space().entry(page).flags() - Flags::HUGE).collect()
}

/// The file's pages become one folio for all; each process gets its own large entry by its own call.
#[test]
fn a_files_pages_collapse_for_all_that_map_them() {
    for orders in [Orders::BASE, Orders::up_to(order(4))] {
        on_both(8, |lab| {
            let file = PageCache::new(&lab.engine, "a file", 1024);
            file.index().set_orders(orders, 1024);
            let (one, two) = (lab.process(), lab.process());
            let (at, there) = (of_file(&one, &file, 0, 2), of_file(&two, &file, 0, 2));
            fill(&one, at);
            one.space().clear_soft_dirty();
            one.store(at.start().up(7), 8).unwrap();
            part(there, 0, 600).iter().for_each(|page| assert!(two.load(page).is_ok()));
            let (before, of_two) = (one.space().entry(at.start().up(7)), flags(&two, there));
            one.space().collapse(part(at, 0, 512)).unwrap();
            let entry = one.space().entry(at.start());
            assert!(entry.has(Flags::HUGE | Flags::SOFT_DIRTY | Flags::WRITE) && before.has(Flags::SOFT_DIRTY));
            let head = entry.pfn();
            assert_eq!((lab.get(head).order(), file.index().peek(511)), (HUGE_ORDER, Some(head.up(511))));
            assert!(lab.physical().frame(head).state().marks().contains(Marks::DIRTY));
            // The other one's entries are as they were, but for the frames; the second 2 MiB are untouched.
            assert_eq!(flags(&two, there), of_two);
            assert_eq!(two.space().frame(there.start().up(3)), Some(head.up(3)));
            assert_eq!(lab.physical().frame(head).maps(), 513);
            assert!(
                !is_huge(&one, at.start().up(512)) && lab.get(pfn_at(&one, at.start().up(512))).order() < HUGE_ORDER
            );
            assert_holds(&one, at, 0);
            assert_holds(&two, there, 0);
            two.space().collapse(part(there, 0, 512)).unwrap();
            assert!(is_huge(&two, there.start()));
            assert_eq!(lab.physical().frame(head).maps(), 2);
            for mode in MODES {
                lab.migrate(pfn_at(&one, at.start()), mode).unwrap();
                assert_holds(&one, at, 0);
                assert_holds(&two, there, 0);
            }
            file.index().truncate(100..1024);
            assert_eq!((one.load(at.start().up(99)), file.index().peek(100)), (Ok(100), None));
            lab.validate();
        });
    }
}

/// A page that nobody maps any more was stored to before: only its own mark says so.
#[test]
fn a_dirty_page_makes_the_folio_dirty() {
    on_both(6, |lab| {
        for stores in [false, true] {
            let file = PageCache::new(&lab.engine, "a file", 512);
            let process = lab.process();
            let at = of_file(&process, &file, 0, 1);
            at.iter().for_each(|page| assert!(process.load(page).is_ok()));
            if stores {
                process.store(at.start().up(9), 1).unwrap();
            }
            process.space().munmap(at).unwrap();
            file.collapse(100).unwrap();
            let head = file.index().peek(0).unwrap();
            assert_eq!(lab.physical().frame(head).state().marks().contains(Marks::DIRTY), stores);
            assert_eq!(
                (lab.get(head).order(), lab.get(head).words(9)[0].load(Relaxed)),
                (HUGE_ORDER, u64::from(stores))
            );
            lab.validate();
        }
    });
}

/// Missing pages are cleared, or read from the backing store.
#[test]
fn holes_of_a_file_are_filled() {
    on_both(6, |lab| {
        for read in [false, true] {
            let store: Box<ReadPage> = Box::new(|index, words| words[0].store(5000 + u64::from(index), Relaxed));
            let file = PageCache::with_store(&lab.engine, "a file", 512, read.then_some(store));
            let process = lab.process();
            // So that all free frames have some contents.
            for mut folio in lab.take_all(Kind::Kernel) {
                folio.zero();
                folio.words(0)[0].store(77, Relaxed);
            }
            let at = of_file(&process, &file, 0, 1);
            for page in [3, 4, 300] {
                process.store(at.start().up(page), u64::from(page)).unwrap();
            }
            process.space().collapse(at).unwrap();
            for page in 0..512 {
                let hole = if read { 5000 + u64::from(page) } else { 0 };
                let expected = if [3, 4, 300].contains(&page) { u64::from(page) } else { hole };
                assert_eq!(process.load(at.start().up(page)), Ok(expected), "page {page}");
            }
            lab.validate();
        }
    });
}

#[test]
fn a_file_that_cannot_be_collapsed_is_as_before() {
    let lab = Lab::new(BOTH[0], 6);
    let file = PageCache::new(&lab.engine, "a file", 1000);
    let process = lab.process();
    let at = of_file(&process, &file, 0, 1);
    let start = at.start();
    let space = process.space();
    assert_eq!(space.collapse(at), Err(CollapseError::Unsuitable(start)), "no page");
    fill(&process, at);
    let entries = || at.iter().map(|page| space.entry(page)).collect::<Vec<_>>();
    let before = entries();
    let again = Err(CollapseError::Again(start));
    let held = lab.get(pfn_at(&process, start.up(5)));
    assert_eq!((space.collapse(at), entries()), (again, before.clone()), "referenced");
    let locked = held.lock();
    assert_eq!((space.collapse(at), entries()), (again, before.clone()), "locked");
    drop(locked);
    let pin = lab.get(pfn_at(&process, start.up(511))).pin(true, "nic");
    assert_eq!((space.collapse(at), entries()), (again, before.clone()), "pinned");
    drop(pin);
    let held = lab.take_all(Kind::Kernel);
    assert!(matches!(space.collapse(at), Err(CollapseError::OutOfMemory(_))));
    assert_eq!(entries(), before);
    drop(held);
    lab.validate();
    space.collapse(at).unwrap();
    space.munmap(at).unwrap();
    // Page 1 of the file at an aligned address; a part that ends beyond the file; a driver's pages.
    let unsuitable = Err(CollapseError::Unsuitable(start));
    for (first, pages) in [(1, 512), (512, 512)] {
        let at = of_file(&process, &file, first, pages / 512);
        process.store(start, 1).unwrap();
        assert_eq!(space.collapse(at), unsuitable, "from page {first}");
        space.munmap(at).unwrap();
    }
    let device = CharDevice::new(&lab.engine, "a device").open(512);
    let source = Source::Shared { file: device, first: 0 };
    let at = space.mmap(&Map { at: Some(start), pages: 512, protection: RW, source }).unwrap();
    process.store(start, 1).unwrap();
    assert_eq!(space.collapse(at), unsuitable, "a driver's");
    lab.validate();
}

/// Threads store to a file's pages while it's collapsed, moved and split again: no store is lost.
#[test]
fn stores_race_with_the_collapse_of_a_file() {
    const ROUNDS: usize = 30;
    for tlb in BOTH {
        let lab = &Lab::new(tlb, 8);
        let file = &PageCache::new(&lab.engine, "a file", 512);
        let processes = &[lab.process(), lab.process()];
        let ranges = &[of_file(&processes[0], file, 0, 1), of_file(&processes[1], file, 0, 1)];
        let (over, stores) = (&AtomicBool::new(false), &AtomicU64::new(0));
        let seed = 0x5eed;
        println!("{tlb:?}, seed {seed}");
        std::thread::scope(|scope| {
            for thread in 0..2 {
                scope.spawn(move || {
                    enter_cpu(thread + 1);
                    let mut random = rng(seed + thread as u64);
                    let mut last = vec![0; 512];
                    while !over.load(Relaxed) {
                        let page = random.random_range(0..256u32) * 2 + thread as u32;
                        let at = ranges[thread].start().up(page);
                        assert_eq!(processes[thread].load(at), Ok(last[page as usize]), "page {page}");
                        last[page as usize] += 1;
                        processes[thread].store(at, last[page as usize]).unwrap();
                        stores.fetch_add(1, Relaxed);
                    }
                });
            }
            let mut done = 0;
            while done < ROUNDS || stores.load(Relaxed) < 2000 {
                for (process, at) in processes.iter().zip(ranges) {
                    done += usize::from(process.space().collapse(*at).is_ok());
                }
                let pages: Vec<Pfn> = (0..512).filter_map(|page| file.index().peek(page)).collect();
                lab.migrate_all(&pages, Options::new(MODES[done % 3]));
                if let Some(folio) = file.index().lock_page(0) {
                    drop(split(&lab.engine, folio).map_err(|(_, reason)| reason));
                }
            }
            over.store(true, Relaxed);
        });
        lab.validate();
    }
}

/// What happens while the pages are blocked: somebody takes a reference, or the file gets another owner. All is put back.
#[test]
fn what_comes_in_the_midst_of_a_files_collapse_ends_it() {
    for tlb in BOTH {
        for referenced in [false, true] {
            let (lab, hooked) = Hooked::lab(tlb, 6);
            let file = PageCache::new(&lab.engine, "a file", 512);
            let other = lab.engine.owners().register(file.index().clone());
            let process = lab.process();
            let at = of_file(&process, &file, 0, 1);
            fill(&process, at);
            let other = Arc::new(other);
            let (changed, engine, next) = (file.clone(), lab.engine.clone(), other.clone());
            let page = pfn_at(&process, at.start());
            hooked.before_next_flush(move |_| {
                if referenced {
                    // Kept until the page is unmapped below.
                    let _ = engine.physical().get(page).unwrap().into_raw();
                } else {
                    changed.index().set_owner(&next);
                }
            });
            let before: Vec<_> = at.iter().map(|page| process.space().entry(page)).collect();
            assert_eq!(process.space().collapse(at), Err(CollapseError::Again(at.start())));
            assert!(hooked.has_run());
            assert_eq!(at.iter().map(|page| process.space().entry(page)).collect::<Vec<_>>(), before);
            assert_holds(&process, at, 0);
            let result = if referenced {
                drop(raw::counted(lab.physical(), page));
                Ok(())
            } else {
                Err(CollapseError::Unsuitable(at.start()))
            };
            assert_eq!(process.space().collapse(at), result);
            assert_holds(&process, at, 0);
            lab.validate();
        }
    }
}
