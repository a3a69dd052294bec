//! Sleeping below the address space's lock: without `std` it spins, so on one CPU the thread that would end the wait may spin for it
//! for ever. (A trial kernel hung 3 of 3 times with 6 threads on 2 CPUs.) All waits also check that no lock is held.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use crate::common::*;
use pagemove::{
    migrate::Mode,
    space::{PageCache, Protection},
    units::VirtRange,
};
use pagemove_hosted::Process;

/// Does `waits` in another thread until it sleeps, and then `others`, for which nothing may have to end.
fn while_waiting(hooked: &Arc<Hooked>, waits: impl FnOnce() + Send, others: impl FnOnce(), end: impl FnOnce()) {
    let before = hooked.waits();
    thread::scope(|scope| {
        scope.spawn(waits);
        while hooked.waits() == before {
            thread::yield_now();
        }
        others();
        end();
    });
}

/// Changes mappings elsewhere, which needs the address space exclusively.
fn change(process: &Process) {
    let at = anonymous(process, 4);
    fill(process, at);
    process.space().mprotect(at, Protection::READ).unwrap();
    process.space().munmap(at).unwrap();
    drop(process.fork().unwrap());
}

#[test]
fn a_fault_that_waits_for_a_files_page_holds_no_lock() {
    let (lab, hooked) = Hooked::lab(BOTH[0], 4);
    let file = PageCache::new(&lab.engine, "file", 4);
    let process = &lab.process();
    let at = shared(process, file.clone(), 4, RW);
    let private = private(process, file.clone(), 4);
    for range in [at, private] {
        let held = file.index().lock_or_insert(1).unwrap();
        let page = range.start().up(1);
        while_waiting(&hooked, || process.store(page, 5).unwrap(), || change(process), move || drop(held));
        assert_eq!(process.load(page).unwrap(), 5);
    }
    lab.validate();
}

#[test]
fn a_change_that_waits_for_a_2_mib_page_holds_no_lock() {
    let (lab, hooked) = Hooked::lab(BOTH[0], 10);
    let process = &lab.process();
    let deeds: [fn(&Process, VirtRange); 4] = [
        |process, at| process.space().munmap(part(at, 3, 1)).unwrap(),
        |process, at| process.space().mprotect(part(at, 3, 1), Protection::READ).unwrap(),
        |process, at| {
            process.space().mremap(part(at, 3, 1), 1, Some(at.end())).unwrap();
        },
        |process, at| {
            let pins = process.space().pin(part(at, 3, 1), true, "nic").unwrap();
            drop((process.fork().unwrap(), pins));
        },
    ];
    for deed in deeds {
        let at = huge(process, 512);
        fill(process, at);
        let held = lab.get(pfn_at(process, at.start())).lock();
        let elsewhere = || {
            let other = anonymous(process, 4);
            fill(process, other);
            process.space().munmap(other).unwrap();
        };
        while_waiting(&hooked, || deed(process, at), elsewhere, move || drop(held));
        lab.validate();
        process.space().exit();
    }
}

/// A file is read without the address space's lock: the reader may use the process, and change its mappings.
#[test]
fn a_file_is_read_without_a_lock() {
    for tlb in BOTH {
        let lab: &'static Lab = keep(Lab::new(tlb, 4));
        let process: &'static Process = keep(lab.process());
        let read = |_: u32, words: &[pagemove::sync::AtomicU64; 512]| {
            let at = anonymous(process, 2);
            fill(process, at);
            words[0].store(process.load(at.start().up(1)).unwrap() + 5, Ordering::Relaxed);
            process.space().munmap(at).unwrap();
        };
        let file = PageCache::with_store(&lab.engine, "file", 2, Some(Box::new(read)));
        for at in [shared(process, file.clone(), 2, Protection::READ), private(process, file, 2)] {
            assert_eq!(process.load(at.start()).unwrap(), 7);
        }
    }
}

/// The last user of a file goes with its mapping: it's dropped without the address space's lock.
#[test]
fn a_file_ends_without_a_lock() {
    let deeds: [fn(&Process, VirtRange); 3] = [
        |process, at| process.space().munmap(at).unwrap(),
        |process, at| process.space().munmap(VirtRange::new(at.start(), at.pages() + 8).unwrap()).unwrap(),
        |process, _| process.space().exit(),
    ];
    for deed in deeds {
        let lab: &'static Lab = Lab::leaked(2);
        let ends: &'static AtomicU32 = keep(AtomicU32::new(0));
        let process = lab.process();
        let root = process.space().table().root();
        // A table moves at once only if its address space isn't locked.
        let end = move || {
            assert_eq!(lab.migrate(root, Mode::Async), Ok(()));
            ends.fetch_add(1, Ordering::Relaxed);
        };
        // As a driver's does that unregisters.
        let file = Watched::new(PageCache::new(&lab.engine, "file", 4), || (), end);
        let at = shared(&process, file, 4, RW);
        fill(&process, at);
        deed(&process, at);
        assert_eq!(ends.load(Ordering::Relaxed), 1);
    }
}

/// The check that nobody sleeps with a lock can fail. (Without debug assertions the thread would sleep.)
#[cfg(debug_assertions)]
#[test]
fn sleeping_with_a_lock_is_refused() {
    let lab = Lab::new(BOTH[0], 2);
    let file = PageCache::new(&lab.engine, "file", 4);
    let held = file.index().lock_or_insert(1).unwrap();
    let lock = pagemove::sync::Mutex::new(());
    let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _lock = lock.lock();
        file.index().lock_page(1).map(drop)
    }));
    let told = told.expect_err("a thread slept with a lock");
    assert!(told.downcast_ref::<String>().unwrap().contains("a thread is about to sleep that"));
    drop(held);
    assert!(file.index().lock_page(1).is_some());
}
