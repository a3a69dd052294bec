//! The ring of events: a reader sees whole events only, though writers overwrite the oldest meanwhile.

use alloc::sync::Arc;

use loom::thread;

use super::all;
use crate::{
    report::{Event, Ring},
    units::Pfn,
};

fn moved(number: u64) -> Event {
    Event::Moved { from: Pfn::new(number), to: Pfn::new(number + 100) }
}

#[test]
fn no_event_is_torn() {
    all("ring: a writer that goes around against a reader", || {
        let ring = Arc::new(Ring::default());
        ring.push([1, 2].map(moved).into_iter());
        let other = ring.clone();
        let writer = thread::spawn(move || other.push([3].map(moved).into_iter()));
        whole(&ring);
        writer.join().expect("no panic");
    });
}

/// Two writers, a whole ring apart, write the same slot at once.
#[test]
fn no_event_of_two_writers_is_torn() {
    all("ring: two writers of the same slot", || {
        let ring = Arc::new(Ring::default());
        let other = ring.clone();
        let writer = thread::spawn(move || other.push([1, 2].map(moved).into_iter()));
        ring.push([3, 4].map(moved).into_iter());
        writer.join().expect("no panic");
        whole(&ring);
    });
}

fn whole(ring: &Ring) {
    ring.for_each(|event| match event {
        Event::Moved { from, to } => assert_eq!(to.get(), from.get() + 100, "two events in one"),
        Event::Stayed { .. } => panic!("nothing stayed"),
    });
}
