//! What a third reading found: a truncation's flush that a process's own munmap didn't wait for; a collapse of a file that missed a
//! store, asked its owner nothing, or went beyond the file; addresses beyond a format's.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::SeqCst},
        mpsc::channel,
    },
    time::Duration,
};

use crate::{common::*, second_reading::Mixed};
use pagemove::{
    frame::Kind,
    migrate::Mode,
    movable::{MigrationRun, MovableOps, NotCollapsed, Purposes},
    paging::{Flags, Found, Sv39, Walk, walk_table},
    report::Counter,
    space::{
        Access, AddressSpace, CollapseError, FaultError, Map, Mappable, Orders, PageCache, Protection, ReadPage, Source,
    },
    units::{HUGE_ORDER, Pfn, VirtAddr, VirtRange},
};
use pagemove_hosted::{Process, TlbKind};

#[derive(Clone, Copy, Debug)]
enum Other {
    /// New memory, after a munmap.
    New,
    /// Other memory that moves there, after a munmap.
    Moved,
    /// New memory, after the page's mapping has moved away.
    Away,
}

fn a_store_is_kept(orders: Orders, pages: u32, remove: bool, other: Other) {
    for tlb in BOTH {
        let (lab, hooked) = Hooked::lab(tlb, 6);
        let file = PageCache::new(&lab.engine, "a file", pages);
        file.index().set_orders(orders, pages);
        let process = Arc::new(lab.process());
        let at = shared(&process, file.clone(), pages, RW);
        fill(&process, at);
        let elsewhere = anonymous(&process, 1);
        process.store(elsewhere.start(), 5).unwrap();
        let inner = process.clone();
        hooked.before_next_flush(move |_| {
            let first = part(at, 0, 1);
            match other {
                Other::Away => drop(inner.space().mremap(first, 1, Some(at.start().up(1024))).unwrap()),
                _ => inner.space().munmap(first).unwrap(),
            }
            match other {
                Other::Moved => drop(inner.space().mremap(elsewhere, 1, Some(first.start())).unwrap()),
                _ => {
                    let source = Source::Anonymous { orders: Orders::BASE };
                    inner.space().mmap(&Map { at: Some(first.start()), pages: 1, protection: RW, source }).unwrap();
                }
            }
            inner.store(first.start(), 77).unwrap();
        });
        if remove {
            assert!(file.index().remove(0));
        } else {
            file.index().truncate(0..pages.min(512));
        }
        assert!(hooked.has_run());
        assert_eq!(process.load(at.start()), Ok(77), "{tlb:?}, {other:?}: a completed store is lost");
    }
}

#[test]
fn new_memory_keeps_its_stores_while_a_truncation_flushes() {
    a_store_is_kept(Orders::BASE, 4, false, Other::New);
}

#[test]
fn new_memory_keeps_its_stores_while_a_removal_flushes() {
    a_store_is_kept(Orders::BASE, 4, true, Other::New);
}

#[test]
fn moved_memory_keeps_its_stores_while_a_truncation_flushes() {
    a_store_is_kept(Orders::BASE, 4, false, Other::Moved);
}

#[test]
fn memory_in_the_place_of_moved_memory_keeps_its_stores_while_a_truncation_flushes() {
    a_store_is_kept(Orders::BASE, 4, false, Other::Away);
}

/// The stale translation is of 2 MiB, and the new entry is in a table in its place.
#[test]
fn a_part_of_a_large_page_keeps_its_stores_while_a_truncation_flushes() {
    a_store_is_kept(Orders::only(HUGE_ORDER), 512, false, Other::New);
}

/// Only until the truncation has flushed.
#[test]
fn a_change_flushes_nothing_once_a_truncation_has() {
    let lab = Lab::new(TlbKind::Soft, 6);
    let file = PageCache::new(&lab.engine, "a file", 4);
    let process = lab.process();
    let at = shared(&process, file.clone(), 4, RW);
    fill(&process, at);
    file.index().truncate(0..4);
    let flushes = || lab.physical().counters().get(Counter::TlbFlush);
    let before = flushes();
    process.space().mprotect(at, Protection::READ).unwrap();
    assert_eq!(flushes(), before);
}

/// The right to store is gone when mprotect returns, also for a translation of a page that is being truncated.
#[test]
fn no_store_succeeds_after_mprotect_while_a_truncation_flushes() {
    // Not on the host's TLB, where such a store ends the program.
    let (lab, hooked) = Hooked::lab(TlbKind::Soft, 6);
    let file = PageCache::new(&lab.engine, "a file", 4);
    let process = Arc::new(lab.process());
    let at = shared(&process, file.clone(), 4, RW);
    fill(&process, at);
    let (inner, stored) = (process.clone(), Arc::new(AtomicU64::new(0)));
    let seen = stored.clone();
    hooked.before_next_flush(move |_| {
        inner.space().mprotect(at, Protection::empty()).unwrap();
        seen.store(u64::from(inner.store(at.start(), 77).is_ok()), SeqCst);
    });
    file.index().truncate(0..4);
    assert!(hooked.has_run() && stored.load(SeqCst) == 0, "a store without the right to");
}

fn of_file(process: &Process, file: &Arc<dyn Mappable>, first: u32, pages: u32) -> VirtRange {
    let at = Some(process.space().bounds().start().up(512 * 64).align_down_huge());
    let source = Source::Shared { file: file.clone(), first };
    process.space().mmap(&Map { at, pages, protection: RW, source }).unwrap()
}

/// Does `deed` at the next flush, in a thread, since it may have to wait for whoever flushes; the flush waits a moment for it. The
/// result waits for its end.
fn beside_the_next_flush(hooked: &Arc<Hooked>, deed: impl FnOnce() + Send + 'static) -> impl FnOnce() {
    let (send, thread) = channel();
    hooked.before_next_flush(move |_| send.send(finishes_within(Duration::from_millis(50), deed).1).unwrap());
    move || thread.try_recv().expect("there was no flush").join().unwrap()
}

/// A page that comes into a hole, is stored to, written back to the store and taken out again, all while the file is collapsed.
#[test]
fn a_hole_is_not_filled_with_what_the_store_had_before() {
    for tlb in BOTH {
        let (lab, hooked) = Hooked::lab(tlb, 6);
        let store: Arc<Vec<AtomicU64>> = Arc::new((0..512).map(|page| AtomicU64::new(5000 + page)).collect());
        let backing = store.clone();
        let read: Box<ReadPage> =
            Box::new(move |index, words| words[0].store(backing[index as usize].load(SeqCst), SeqCst));
        let file = PageCache::with_store(&lab.engine, "stored", 512, Some(read));
        let (process, other) = (lab.process(), Arc::new(lab.process()));
        let mappable: Arc<dyn Mappable> = file.clone();
        let at = of_file(&process, &mappable, 0, 512);
        let there = of_file(&other, &mappable, 0, 512);
        process.store(at.start(), 1).unwrap();
        let (inner, storing, backing) = (file.clone(), other.clone(), store.clone());
        let done = beside_the_next_flush(&hooked, move || {
            storing.store(there.start().up(511), 777).unwrap();
            // Written back, then dropped.
            let page = inner.index().lock_page(511).unwrap();
            backing[511].store(page.words(511 - page.key().index)[0].load(SeqCst), SeqCst);
            drop(page);
            assert!(inner.index().remove(511));
        });
        let result = process.space().collapse(at);
        done();
        assert_eq!(store[511].load(SeqCst), 777);
        assert_eq!(other.load(there.start().up(511)), Ok(777), "a completed store is lost; collapse: {result:?}");
    }
}

/// The store changes, and the file's owner invalidates the pages: no look-up may give the old contents afterwards.
#[test]
fn an_invalidation_during_a_collapse_is_not_missed() {
    let (lab, hooked) = Hooked::lab(TlbKind::Soft, 6);
    let store = Arc::new(AtomicU64::new(1));
    let backing = store.clone();
    let read: Box<ReadPage> = Box::new(move |_, words| words[0].store(backing.load(SeqCst), SeqCst));
    let file = PageCache::with_store(&lab.engine, "stored", 512, Some(read));
    let process = lab.process();
    let mappable: Arc<dyn Mappable> = file.clone();
    let at = of_file(&process, &mappable, 0, 512);
    process.load(at.start()).unwrap();
    let inner = file.clone();
    let done = beside_the_next_flush(&hooked, move || {
        store.store(2, SeqCst);
        inner.index().truncate(1..512);
    });
    let _ = process.space().collapse(at);
    done();
    assert_eq!(process.load(at.start().up(9)), Ok(2));
}

/// The last 2 MiB that an index can have whole; a file's last page has no number beyond it.
#[test]
fn the_last_pages_of_an_index_collapse() {
    let lab = Lab::new(TlbKind::Soft, 6);
    for (pages, index, result) in [
        (u32::MAX - 511, u32::MAX - 512, Ok(())),
        (u32::MAX - 512, u32::MAX - 513, Err(NotCollapsed::Unsuitable)),
        (u32::MAX, u32::MAX - 1, Err(NotCollapsed::Unsuitable)),
        (u32::MAX, u32::MAX, Err(NotCollapsed::Unsuitable)),
    ] {
        let file = PageCache::new(&lab.engine, "a file", pages);
        drop(file.index().lock_or_insert(index).unwrap());
        // The second time nothing is left to do.
        assert_eq!([file.collapse(index), file.collapse(index)], [result, result], "page {index} of {pages}");
        assert_eq!(file.index().lock_page(index).unwrap().order() == HUGE_ORDER, result.is_ok());
    }
}

/// The file's pages are one folio already; only an entry is wanted.
#[test]
fn a_file_that_is_whole_needs_no_memory() {
    let lab = Lab::new(TlbKind::Soft, 6);
    let file = PageCache::new(&lab.engine, "a file", 512);
    let mappable: Arc<dyn Mappable> = file.clone();
    let (one, two) = (lab.process(), lab.process());
    let (at, there) = (of_file(&one, &mappable, 0, 512), of_file(&two, &mappable, 0, 512));
    fill(&one, at);
    assert_holds(&two, there, 0);
    one.space().collapse(at).unwrap();
    let held = lab.take_all(Kind::Kernel);
    let result = two.space().collapse(there);
    drop(held);
    assert_eq!(result, Ok(()));
    assert!(two.space().entry(there.start()).has(Flags::HUGE));
}

#[test]
fn a_folio_of_another_engine_is_not_mapped_by_a_collapse() {
    let (ours, theirs) = (Lab::leaked(6), Lab::leaked(6));
    let mixed = Mixed {
        ours: PageCache::new(&ours.engine, "ours", 512),
        theirs: PageCache::new(&theirs.engine, "theirs", 512),
    };
    drop(mixed.theirs.index().lock_or_insert(0).unwrap());
    let mixed: Arc<dyn Mappable> = keep(Arc::new(mixed)).clone();
    let process = keep(ours.process());
    let at = of_file(process, &mixed, 0, 512);
    assert_eq!(process.load(at.start()), Err(FaultError::BadFolio(at.start())));
    let result = process.space().collapse(at);
    assert!(result.is_err(), "a frame number of another memory was mapped");
    assert_eq!(process.space().frame(at.start()), None);
}

/// No folio reaches beyond the end that the index was told.
#[test]
fn no_page_beyond_the_end_is_made() {
    let lab = Lab::new(TlbKind::Soft, 6);
    let file = PageCache::new(&lab.engine, "a file", 1000);
    file.index().set_orders(Orders::HUGE, 1000);
    drop(file.index().lock_or_insert(600).unwrap());
    assert_eq!(file.collapse(600), Err(NotCollapsed::Unsuitable));
    assert_eq!(file.index().next_index(1000), None, "a page beyond the end");
    let process = lab.process();
    let mappable: Arc<dyn Mappable> = file.clone();
    let at = of_file(&process, &mappable, 0, 1024);
    process.load(at.start().up(600)).unwrap();
    assert_eq!(process.load(at.start().up(1010)), Err(FaultError::BeyondEnd(at.start().up(1010))));
}

/// An address that the format doesn't have is not another one.
#[test]
fn an_address_beyond_the_formats_is_no_other() {
    let lab = Lab::new(TlbKind::Soft, 6);
    let bounds = VirtRange::new(VirtAddr::new(2 << 20).unwrap(), 2048).unwrap();
    let space = AddressSpace::<Sv39>::with_format(&lab.engine, bounds).unwrap();
    let source = Source::Anonymous { orders: Orders::HUGE };
    let at = space.mmap(&Map { at: None, pages: 512, protection: RW, source }).unwrap();
    space.fault(at.start(), Access::Write).unwrap();
    assert!(space.entry(at.start()).has(Flags::HUGE));
    let beyond = VirtAddr::new(at.start().get() + (1 << 39)).unwrap();
    let beyond_range = VirtRange::new(beyond, 512).unwrap();
    assert!(space.entry(beyond).is_none(), "entry() of an address that Sv39 hasn't");
    assert_eq!(space.frame(beyond), None);
    assert_eq!(space.collapse(beyond_range), Err(CollapseError::NotMapped(beyond)));
    // Nor for a CPU.
    let top: [pagemove::sync::AtomicU64; 512] = std::array::from_fn(|_| pagemove::sync::AtomicU64::new(1 << 10 | 1));
    let step = |address| walk_table::<Sv39>(&top, 2, address, Walk::Load);
    assert_eq!(step(at.start()), Some(Found::Table(Pfn::new(1))));
    assert_eq!([step(beyond), step(VirtAddr::new(1 << 38).unwrap())], [None, None]);
}

/// A page is made of the one before it: as look-ups allow, which hold the lock of the page that is read only.
#[test]
fn a_page_is_read_by_another_one_of_the_file() {
    let lab = Lab::new(TlbKind::Soft, 6);
    let file: &'static OnceLock<Arc<PageCache>> = keep(OnceLock::new());
    let read: Box<ReadPage> = Box::new(move |index, words| {
        if index % 2 == 1 {
            let page = file.get().unwrap().index().lock_or_insert(index - 1).unwrap();
            words[0].store(page.words(0)[0].load(SeqCst) + 1, SeqCst);
        } else {
            words[0].store(1000, SeqCst);
        }
    });
    let made = PageCache::with_store(&lab.engine, "stored", 512, Some(read));
    assert!(file.set(made.clone()).is_ok());
    drop(made.index().lock_or_insert(2).unwrap());
    // It would wait for ever for a page that it has locked itself.
    made.collapse(0).unwrap();
    assert_eq!(made.index().lock_page(511).unwrap().words(511)[0].load(SeqCst), 1001);
}

/// An owner whose folios may not move for any purpose: those of a file that a process collapses neither.
struct Still;

impl MovableOps for Still {
    fn name(&self) -> &str {
        "still"
    }
    fn purposes(&self) -> Purposes {
        Purposes::empty()
    }
    fn migrate(&self, _: &mut MigrationRun<'_>) {
        panic!("the owner allows no move");
    }
}

#[test]
fn an_owner_that_allows_no_move_is_heeded() {
    let lab = Lab::new(TlbKind::Soft, 6);
    let file = PageCache::new(&lab.engine, "a file", 512);
    let registration = lab.engine.owners().register(Arc::new(Still));
    file.index().set_owner(&registration);
    let process = lab.process();
    let mappable: Arc<dyn Mappable> = file.clone();
    let at = of_file(&process, &mappable, 0, 512);
    fill(&process, at);
    let before = pfn_at(&process, at.start());
    assert!(lab.migrate(before, Mode::Sync).is_err());
    let result = process.space().collapse(at);
    assert_eq!(pfn_at(&process, at.start()), before, "moved: {result:?}");
}
