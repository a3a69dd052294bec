//! Defects found in the core, each by the least that shows it. These tests fail until their defect is mended; then they
//! are to be moved to the file of their subject.
mod common;

use std::{
    sync::{Arc, mpsc::channel},
    time::Duration,
};

use common::*;
use pagemove::{
    frame::Kind,
    migrate::{AnyFree, Mode, Mover, Options},
    paging::Flags,
    report::Event,
    space::{PageCache, Protection},
    units::{VirtAddr, VirtRange},
};
use pagemove_hosted::{Process, TlbKind, enter_cpu};

/// Does `deed` between the blocking of a page's entry and the flush of its move, on the thread that moves it, when the
/// processor still has a translation for stores from before. Gives the process, and what was found.
fn before_the_flush<R: Send + 'static>(deed: impl FnOnce(&Process, VirtRange) -> R + Send + 'static) -> R {
    let (lab, hooked) = Hooked::lab(TlbKind::Soft, 2);
    let process = Arc::new(lab.process());
    // Between neighbours, so that no table goes with it, which would be flushed.
    let at = part(anonymous(&process, 3), 1, 1);
    process.store(at.start(), 7).unwrap();
    let (send, receive) = channel();
    let other = process.clone();
    hooked.before_next_flush(move |_| send.send(deed(&other, at)).unwrap());
    lab.migrate(pfn_at(&process, at.start()), Mode::Sync).unwrap();
    receive.recv().unwrap()
}

/// Whoever changes or removes a **migration entry** owes no flush (`zap`, `change_entries`, `move_entries`, `copy_entry` do
/// for present entries only). But the move that blocked it may not have flushed yet; so the call returns while processors
/// still have the old translation. Here: what was unmapped is still there, and shows through what is mapped next.
#[test]
fn munmap_of_a_moving_page_flushes() {
    let found = before_the_flush(|process, at| {
        process.space().munmap(at).unwrap();
        let after = process.load(at.start());
        let again = anonymous(process, 1);
        assert_eq!(again, at);
        (after.is_err(), process.load(again.start()).unwrap())
    });
    assert_eq!(found, (true, 0), "(the load after munmap fails, new memory is zero)");
}

/// The same: rights are not taken when mprotect returns.
#[test]
fn mprotect_of_a_moving_page_flushes() {
    let stored = before_the_flush(|process, at| {
        process.space().mprotect(at, Protection::READ).unwrap();
        process.store(at.start(), 8)
    });
    assert!(stored.is_err(), "a store to a read-only mapping went through");
}

/// The same: the old address still works.
#[test]
fn mremap_of_a_moving_page_flushes() {
    let loaded = before_the_flush(|process, at| {
        process.space().mremap(at, 1, Some(at.start().up(9))).unwrap();
        process.load(at.start())
    });
    assert!(loaded.is_err(), "the page is still at its old address");
}

/// The same: the parent's stores after the fork, by a translation from before it, go to the frame that both share.
#[test]
fn fork_of_a_moving_page_flushes() {
    let (lab, hooked) = Hooked::lab(TlbKind::Soft, 2);
    let parent = Arc::new(lab.process());
    let at = anonymous(&parent, 1);
    parent.store(at.start(), 7).unwrap();
    let (send, receive) = channel();
    let other = parent.clone();
    hooked.before_next_flush(move |_| {
        let child = other.fork().unwrap();
        // If the translation is gone, as it should be, this waits for the page; so on a thread of its own.
        let storing = std::thread::spawn(move || {
            enter_cpu(0);
            other.store(at.start(), 8).unwrap();
        });
        std::thread::sleep(Duration::from_millis(50));
        send.send((child, storing)).unwrap();
    });
    enter_cpu(0);
    parent.store(at.start(), 7).unwrap();
    lab.migrate(pfn_at(&parent, at.start()), Mode::Sync).unwrap_or_default();
    let (child, storing) = receive.recv().unwrap();
    storing.join().unwrap();
    assert_eq!(parent.load(at.start()).unwrap(), 8);
    assert_eq!(child.load(at.start()).unwrap(), 7, "a store of the parent shows in its child");
}

/// The same: a store after `clear_soft_dirty` sets no mark.
#[test]
fn clear_soft_dirty_of_a_moving_page_flushes() {
    let (lab, hooked) = Hooked::lab(TlbKind::Soft, 2);
    let process = Arc::new(lab.process());
    let at = anonymous(&process, 1);
    enter_cpu(0);
    process.store(at.start(), 7).unwrap();
    let (send, receive) = channel();
    let other = process.clone();
    hooked.before_next_flush(move |_| {
        other.space().clear_soft_dirty();
        let storing = std::thread::spawn(move || {
            enter_cpu(0);
            other.store(at.start(), 8).unwrap();
        });
        std::thread::sleep(Duration::from_millis(50));
        send.send(storing).unwrap();
    });
    lab.migrate(pfn_at(&process, at.start()), Mode::Sync).unwrap();
    receive.recv().unwrap().join().unwrap();
    assert_eq!(process.load(at.start()).unwrap(), 8);
    assert!(process.space().entry(at.start()).has(Flags::SOFT_DIRTY), "a store left no soft-dirty mark");
}

/// Does `deed` on a thread of its own; tells whether it came to its end without anybody else's doing.
fn finishes(deed: impl FnOnce() + Send + 'static) -> (bool, std::thread::JoinHandle<()>) {
    let (send, receive) = channel();
    let thread = std::thread::spawn(move || {
        deed();
        let _ = send.send(());
    });
    (receive.recv_timeout(Duration::from_millis(200)).is_ok(), thread)
}

/// A batch in SYNC mode waits for the writeback of one page while it holds the locks of the pages claimed before it. If
/// what ends the writeback needs one of these (here: the driver looks at a neighbour), both wait for ever. A batch is not
/// to wait at all; alone the page may.
#[test]
fn a_batch_that_waits_for_writeback_holds_no_other_page() {
    let lab = Arc::new(Lab::new(TlbKind::Soft, 1));
    let device = Device::open(&lab);
    let (neighbour, written) = (device.fill(0, 1), device.fill(1, 1));
    let mover = lab.clone();
    lab.engine.physical().frames().start_writeback(written);
    // On its way: the first page is isolated, and so locked.
    let (begun, wait_begun) = channel();
    device.driver.during_next(Stage::Isolate, move || begun.send(()).unwrap());
    let moving = std::thread::spawn(move || mover.migrate_all(&[neighbour, written], Options::new(Mode::Sync)));
    wait_begun.recv().unwrap();
    let (done, wait_done) = channel();
    let (driver, engine) = (device.driver.clone(), lab.engine.clone());
    let ending = std::thread::spawn(move || {
        drop(driver.index.lock_page(0));
        let _ = done.send(());
        engine.physical().frames().end_writeback(written);
    });
    let ended = wait_done.recv_timeout(Duration::from_secs(2)).is_ok();
    // Lets both go on if they wait for each other.
    lab.engine.physical().frames().end_writeback(written);
    ending.join().unwrap();
    assert_eq!(moving.join().unwrap().moved, 2);
    assert!(ended, "the move and the end of the writeback waited for each other");
}

/// ASYNC is never to wait for a lock that a sleeper can hold. `mremap` holds the reverse maps over its flush. A move that
/// finds one locked gives the pages up at `block`, but then `rebind`, which has nothing to do for them, takes the lock all
/// the same, and waits.
#[test]
fn async_does_not_wait_for_a_reverse_map() {
    let (lab, hooked) = Hooked::lab(TlbKind::Soft, 2);
    let process = Arc::new(lab.process());
    let at = anonymous(&process, 1);
    process.store(at.start(), 1).unwrap();
    let (engine, old) = (lab.engine.clone(), pfn_at(&process, at.start()));
    let (send, receive) = channel();
    hooked.before_next_flush(move |_| {
        let moving = finishes(move || {
            let mut to = AnyFree::new(engine.physical(), 1);
            Mover::new(&engine).migrate(&[old], &mut to, Options::new(Mode::Async));
        });
        send.send(moving).unwrap();
    });
    process.space().mremap(at, 1, Some(at.start().up(10))).unwrap();
    let (finished, moving) = receive.recv().unwrap();
    moving.join().unwrap();
    assert!(finished, "an ASYNC move waited for the end of mremap");
}
