//! Reservations of the kernel's heap: whatever threads do, what one has set aside is there, and the rest of the reserve stays.
#![allow(unsafe_code, reason = "a heap's memory, and what a CPU would do")]

use std::{
    alloc::{GlobalAlloc, Layout},
    thread,
};

use pagemove::units::{Pfn, VirtAddr};
use pagemove_x86::{
    Instructions,
    heap::{Heap, RESERVE},
};

struct Nothing;

// SAFETY: there are no interrupts; the rest isn't called.
unsafe impl Instructions for Nothing {
    fn has_pcids() -> bool {
        unreachable!()
    }
    unsafe fn load_root(_: Pfn, _: u16, _: bool) {
        unreachable!()
    }
    fn flush_loaded() {
        unreachable!()
    }
    fn flush_page(_: VirtAddr) {
        unreachable!()
    }
    fn are_interrupts_on() -> bool {
        false
    }
    fn mask_interrupts() -> bool {
        false
    }
    fn restore_interrupts(_: bool) {}
}

/// What reservations leave.
const KEPT: usize = RESERVE / 2;

/// A heap that can't grow.
fn heap(bytes: usize) -> Heap<Nothing> {
    let heap = Heap::new();
    let memory = vec![0u64; bytes / 8].leak();
    // SAFETY: leaked, and of nobody else.
    assert!(unsafe { heap.add(memory.as_mut_ptr().cast(), bytes) });
    heap
}

#[test]
fn what_is_set_aside_is_set_aside_once() {
    let heap = heap(KEPT + (1 << 20));
    let first = heap.reserve(600 << 10).expect("free");
    assert!(heap.reserve(600 << 10).is_none(), "the first hasn't used it yet");
    let second = heap.reserve(300 << 10).expect("free");
    drop(first);
    assert!(heap.reserve(600 << 10).is_some());
    drop(second);
    assert!(heap.reserve(1 << 20).is_none(), "the heap has some words of its own");
    assert!(heap.reserve(usize::MAX).is_none() && heap.reserve(usize::MAX - KEPT).is_none());
    assert!(heap.reserve(1000 << 10).is_some(), "what failed has left nothing");
}

#[test]
fn threads_leave_the_rest() {
    let heap = heap(KEPT + (1 << 20));
    // More than there is for all.
    let piece = Layout::new::<[u64; 500]>();
    let pieces = 75;
    let work = || {
        for _ in 0..2000 {
            let Some(reserved) = heap.reserve(pieces * 4096) else {
                thread::yield_now();
                continue;
            };
            // Others ask before it's used.
            thread::yield_now();
            // SAFETY: a layout with a size.
            let all: Vec<_> = (0..pieces).map(|_| unsafe { heap.alloc(piece) }).collect();
            assert!(all.iter().all(|start| !start.is_null()));
            thread::yield_now();
            assert!(heap.free_bytes() >= KEPT, "{} bytes are left", heap.free_bytes());
            // SAFETY: allocated above.
            all.into_iter().for_each(|start| unsafe { heap.dealloc(start, piece) });
            drop(reserved);
        }
    };
    thread::scope(|scope| (0..6).for_each(|_| drop(scope.spawn(work))));
    assert!(heap.reserve(1000 << 10).is_some(), "all is given back");
}
