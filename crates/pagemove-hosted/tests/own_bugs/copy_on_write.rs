//! Copy-on-write: the new page must not be seen by one processor of the process while another still uses the old one.
//! (Linux: `wp_page_copy` clears the entry and flushes before it sets the new one.)

use std::{sync::Arc, sync::mpsc::channel, time::Duration};

use crate::common::*;
use pagemove::space::PageCache;
use pagemove_hosted::{Process, TlbKind, enter_cpu};

/// Processor 0 has a translation of the old page. Processor 1's store copies; before its flush processor 2 stores 9.
fn a_load_after_a_store(process: Process, at: pagemove::units::VirtAddr, hooked: &Hooked) {
    let process = Arc::new(process);
    enter_cpu(0);
    let old = process.load(at).unwrap();
    let (send, receive) = channel();
    let other = process.clone();
    hooked.before_next_flush(move |_| {
        // Each on a thread of its own, with time to end: where the entry is taken out first, they wait.
        let storing = other.clone();
        let (stored, one) = finishes_within(Duration::from_millis(300), move || {
            enter_cpu(2);
            storing.store(at, 9).unwrap();
        });
        let (load, loaded) = channel();
        let loading = other.clone();
        let (_, two) = finishes_within(Duration::from_millis(300), move || {
            enter_cpu(0);
            let _ = load.send(loading.load(at).unwrap());
        });
        // Only what was loaded by now, that is after the store and before the flush.
        send.send((stored, loaded.try_recv().ok(), one, two)).unwrap();
    });
    enter_cpu(1);
    // Another word of the page, so that it says nothing about the first one.
    process.store(word(at, 1), 5).unwrap();
    let (stored, loaded, one, two) = receive.try_recv().expect("the copy flushes");
    one.join().unwrap();
    two.join().unwrap();
    enter_cpu(0);
    assert_eq!(process.load(at), Ok(9));
    if stored && let Some(loaded) = loaded {
        assert_eq!(loaded, 9, "a load saw {old}, which a store that had completed had overwritten");
    }
}

#[test]
fn no_load_sees_the_old_page_once_another_processor_stores_to_the_copy() {
    let (lab, hooked) = Hooked::lab(TlbKind::Soft, 2);
    let process = lab.process();
    let at = anonymous(&process, 1);
    enter_cpu(1);
    process.store(at.start(), 1).unwrap();
    let _child = process.fork().unwrap();
    a_load_after_a_store(process, at.start(), &hooked);
}

#[test]
fn nor_that_of_a_private_file() {
    let (lab, hooked) = Hooked::lab(TlbKind::Soft, 2);
    let process = lab.process();
    let at = private(&process, PageCache::new(&lab.engine, "file", 1), 1);
    a_load_after_a_store(process, at.start(), &hooked);
}
