//! What mremap must do before others can find its pages at their new address: flush the old one.
mod common;

use std::{
    sync::{Arc, mpsc::channel},
    thread::JoinHandle,
    time::Duration,
};

use common::*;
use pagemove::{
    migrate::{AnyFree, Mode, Mover, Options},
    space::PageCache,
    units::VirtAddr,
};
use pagemove_hosted::{Process, TlbKind, enter_cpu};

/// A move that finds the page at its new address flushes that one only; so it must not find it before the old one is
/// flushed, or a store by a translation of the old address is lost. (Linux: CVE-2018-18281.)
#[test]
fn a_store_by_the_old_address_is_not_lost_when_the_page_moves_in_the_midst_of_mremap() {
    let (lab, hooked) = Hooked::lab(TlbKind::Soft, 2);
    let process = Arc::new(lab.process());
    let at = anonymous(&process, 1);
    enter_cpu(1);
    process.store(at.start(), 1).unwrap();
    enter_cpu(0);
    let (engine, other, old) = (lab.engine.clone(), process.clone(), pfn_at(&process, at.start()));
    let (send, receive) = channel();
    // Where mremap is about to flush. The move may have to wait for its end.
    hooked.before_next_flush(move |_| {
        let moving = finishes_within(Duration::from_millis(200), move || {
            let mut to = AnyFree::new(engine.physical(), 1);
            Mover::new(&engine).migrate(&[old], &mut to, Options::new(Mode::Sync));
        });
        send.send((storing(&other, at.start()), moving.1)).unwrap();
    });
    let new = process.space().mremap(at, 1, Some(at.start().up(10))).unwrap();
    let (storing, moving) = receive.try_recv().expect("the machine was told to flush");
    moving.join().unwrap();
    let expected = if storing.join().unwrap() { 2 } else { 1 };
    assert_eq!(process.load(new.start()).unwrap(), expected, "a store that completed was lost");
}

/// As above with truncation, which frees the frame: the old translation would reach a frame that is free, or another's.
#[test]
fn a_frame_is_not_free_while_an_old_translation_reaches_it_in_the_midst_of_mremap() {
    let (lab, hooked) = Hooked::lab(TlbKind::Soft, 1);
    let process = Arc::new(lab.process());
    let file = PageCache::new(&lab.engine, "file", 1);
    let at = shared(&process, file.clone(), 1, RW);
    enter_cpu(1);
    process.store(at.start(), 1).unwrap();
    enter_cpu(0);
    let frame = pfn_at(&process, at.start());
    let (engine, index, other) = (lab.engine.clone(), file.index().clone(), process.clone());
    let (send, receive) = channel();
    hooked.before_next_flush(move |_| {
        // Truncation would find the entry at its new address, and flush that.
        let (_, truncating) = finishes_within(Duration::from_millis(200), move || assert!(index.remove(0)));
        let free = engine.physical().frame(frame).refs() == 0;
        send.send((free.then(|| storing(&other, at.start())), truncating)).unwrap();
    });
    process.space().mremap(at, 1, Some(at.start().up(10))).unwrap();
    let (storing, truncating) = receive.try_recv().expect("the machine was told to flush");
    truncating.join().unwrap();
    let reached = storing.is_some_and(|storing| storing.join().unwrap());
    assert!(!reached, "a store went to a frame that was free");
}

/// Has processor 1 store 2 at `at`, on a thread of its own: at once, if it has a translation. Without one it faults and waits
/// for the address space, which the caller has locked, so it's given some time only; it fails when the page has gone
/// elsewhere. The thread tells whether it has stored, however late it came to run.
fn storing(process: &Arc<Process>, at: VirtAddr) -> JoinHandle<bool> {
    let (send, receive) = channel();
    let process = process.clone();
    let storing = std::thread::spawn(move || {
        enter_cpu(1);
        let stored = process.store(at, 2).is_ok();
        let _ = send.send(());
        stored
    });
    let _ = receive.recv_timeout(Duration::from_millis(200));
    storing
}
