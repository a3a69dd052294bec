//! Between the blocking of an entry and the flush of its move processors still have the old translation. Who changes or
//! removes the entry in between must not return before it is gone: he can't count on the move, which may be late.
mod common;

use std::{
    sync::{Arc, mpsc::channel},
    time::Duration,
};

use common::*;
use pagemove::{migrate::Mode, paging::Flags, space::Protection, units::VirtRange};
use pagemove_hosted::{Process, TlbKind, enter_cpu};

/// Does `deed` between the blocking of a page's entry and the flush of its move, on the thread that moves it, when the
/// processor still has a translation for stores from before. Gives what was found.
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

#[test]
fn mprotect_of_a_moving_page_flushes() {
    let stored = before_the_flush(|process, at| {
        process.space().mprotect(at, Protection::READ).unwrap();
        process.store(at.start(), 8)
    });
    assert!(stored.is_err(), "a store to a read-only mapping went through");
}

#[test]
fn mremap_of_a_moving_page_flushes() {
    let loaded = before_the_flush(|process, at| {
        process.space().mremap(at, 1, Some(at.start().up(9))).unwrap();
        process.load(at.start())
    });
    assert!(loaded.is_err(), "the page is still at its old address");
}

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
