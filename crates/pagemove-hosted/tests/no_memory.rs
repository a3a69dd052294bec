//! The heap gives only small pieces, as a kernel's does when memory is full: no list has to grow in one piece with what a process does. Freeing memory needs little: a process ends and unmaps, and a file is truncated, while the heap gives only small pieces (found by the
//! example kernel, where a process that had taken all memory couldn't end). So a kernel's reserve for its heap can be small.
//!
//! Varied: call, order. Not varied: which of several allocations fails, here all large ones do; the TLB, since the host's allocates itself.

#![allow(unsafe_code)]

mod common;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    ptr::null_mut,
    sync::Arc,
};

use common::*;
use pagemove::{
    report::Counter,
    space::{Map, Orders, PageCache, PinError, Protection, Source},
    units::VirtRange,
};
use pagemove_hosted::TlbKind;

/// Refuses large pieces to a thread that says so.
struct Refusing;

/// The largest piece: 64 locked folios are less.
const SMALL: usize = 4096;

thread_local! {
    static REFUSED: Cell<bool> = const { Cell::new(false) };
}

// SAFETY: the system's allocator, or nothing.
unsafe impl GlobalAlloc for Refusing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() > SMALL && REFUSED.get() {
            return null_mut();
        }
        // SAFETY: the caller's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract.
        unsafe { System.dealloc(start, layout) }
    }
}

#[global_allocator]
static HEAP: Refusing = Refusing;

fn with_small_pieces<T>(deed: impl FnOnce() -> T) -> T {
    REFUSED.set(true);
    let result = deed();
    REFUSED.set(false);
    result
}

const PAGES: u32 = 600;

#[test]
fn a_process_ends_without_memory() {
    for orders in [Orders::BASE, Orders::up_to(order(4)), Orders::HUGE] {
        let lab = Lab::new(TlbKind::Soft, 8);
        let free = lab.free_frames();
        let process = lab.process();
        let at = large(&process, 1024, orders);
        fill(&process, at);
        // Every other page, so that their flushes are no one range.
        let other = anonymous(&process, PAGES);
        other.iter().step_by(2).for_each(|page| process.store(page, 1).unwrap());
        with_small_pieces(|| process.space().exit());
        drop(process);
        lab.assert_all_free(free);
        lab.validate();
    }
}

/// Pages are flushed in parts, since no list of all can be kept.
#[test]
fn a_munmap_without_memory_flushes_in_parts() {
    let lab = Lab::new(TlbKind::Soft, 4);
    let process = lab.process();
    let at = anonymous(&process, PAGES);
    at.iter().step_by(2).for_each(|page| process.store(page, 1).unwrap());
    let flushes = || lab.physical().counters().get(Counter::TlbFlush);
    let before = flushes();
    with_small_pieces(|| process.space().munmap(at)).unwrap();
    assert!(flushes() - before > 2);
    at.iter().for_each(|page| assert!(process.load(page).is_err(), "a stale translation"));
}

/// A debt has a bound, whatever memory there is.
#[test]
fn an_exit_of_many_pages_is_flushed_in_parts() {
    let lab = Lab::new(TlbKind::Soft, 12);
    let process = lab.process();
    let at = anonymous(&process, 5000);
    at.iter().for_each(|page| process.store(page, 1).unwrap());
    let flushes = || lab.physical().counters().get(Counter::TlbFlush);
    let before = flushes();
    process.space().exit();
    assert_eq!(flushes() - before, 2);
}

#[test]
fn a_truncation_of_two_processes_pages_without_memory_loses_nothing() {
    let lab = Lab::new(TlbKind::Soft, 4);
    let file = PageCache::new(&lab.engine, "a file", PAGES);
    let (one, two) = (lab.process(), lab.process());
    let (at, there) = (shared(&one, file.clone(), PAGES, RW), shared(&two, file.clone(), PAGES, RW));
    fill(&one, at);
    there.iter().for_each(|page| assert!(two.load(page).unwrap() > 0));
    with_small_pieces(|| file.index().truncate(7..PAGES / 2));
    assert_eq!((one.load(at.start().up(7)).unwrap(), two.load(there.start().up(7)).unwrap()), (0, 0));
    assert!(one.load(at.start().up(PAGES / 2)).unwrap() > 0);
    // Changes go on, and flush, whatever is still announced.
    one.space().munmap(at).unwrap();
    two.space().munmap(there).unwrap();
    file.index().truncate(0..PAGES);
    lab.validate();
}

/// Mapping a file's page many times, and changing and unmapping them all by one call.
#[test]
fn many_mappings_need_only_small_pieces() {
    let lab = Lab::new(TlbKind::Soft, 4);
    let file = PageCache::new(&lab.engine, "a file", 1);
    let process = lab.process();
    let space = process.space();
    let all = with_small_pieces(|| {
        let first = shared(&process, file.clone(), 1, RW);
        for page in 1..PAGES {
            let at = Some(first.start().up(page));
            assert_eq!(space.mmap(&Map { at, ..map_of(file.clone()) }).unwrap().start(), first.start().up(page));
        }
        VirtRange::new(first.start(), PAGES).unwrap()
    });
    all.iter().for_each(|page| process.store(page, page.vpn()).unwrap());
    with_small_pieces(|| space.mprotect(all, Protection::READ).unwrap());
    all.iter().for_each(|page| assert!(process.store(page, 0).is_err()));
    assert_eq!(process.load(all.start()).unwrap(), all.end().vpn() - 1, "one page");
    with_small_pieces(|| space.munmap(all).unwrap());
    assert_eq!(file.index().reverse_map().mappings(), 0);
    lab.validate();
}

fn map_of(file: Arc<PageCache>) -> Map {
    Map { at: None, pages: 1, protection: RW, source: Source::Shared { file, first: 0 } }
}

#[test]
fn a_list_of_pins_that_is_too_long_is_an_error() {
    let lab = Lab::new(TlbKind::Soft, 4);
    let process = lab.process();
    let at = anonymous(&process, PAGES);
    let pinned = with_small_pieces(|| process.space().pin(at, true, "device"));
    assert_eq!(pinned.err(), Some(PinError::TooMany(PAGES)));
    assert!(lab.physical().pins().all().is_empty());
    assert_eq!(process.space().pin(at, true, "device").unwrap().len(), PAGES as usize);
    lab.validate();
}
