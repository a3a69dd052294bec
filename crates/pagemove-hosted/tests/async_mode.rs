//! ASYNC never waits for a lock that a sleeper can hold.
mod common;

use std::{
    sync::{Arc, mpsc::channel},
    time::Duration,
};

use common::*;
use pagemove::migrate::{AnyFree, Mode, Mover, Options};
use pagemove_hosted::TlbKind;

/// `mremap` holds the reverse maps over its flush. A move that finds one locked gives its pages up, and leaves the map alone.
#[test]
fn async_does_not_wait_for_a_reverse_map() {
    let (lab, hooked) = Hooked::lab(TlbKind::Soft, 2);
    let process = Arc::new(lab.process());
    let at = anonymous(&process, 1);
    process.store(at.start(), 1).unwrap();
    let (engine, old) = (lab.engine.clone(), pfn_at(&process, at.start()));
    let (send, receive) = channel();
    hooked.before_next_flush(move |_| {
        let moving = finishes_within(Duration::from_secs(30), move || {
            let mut to = AnyFree::new(engine.physical(), 1);
            Mover::new(&engine).migrate(&[old], &mut to, Options::new(Mode::Async));
        });
        send.send(moving).unwrap();
    });
    process.space().mremap(at, 1, Some(at.start().up(10))).unwrap();
    let (finished, moving) = receive.try_recv().expect("the machine was told to flush");
    moving.join().unwrap();
    assert!(finished, "an ASYNC move waited for the end of mremap");
}
