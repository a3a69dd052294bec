//! A fork in the midst of a move meets a migration entry of a page that was pinned after the move had claimed it.

use std::sync::{Arc, Mutex, atomic::Ordering};

use crate::common::*;
use pagemove::{
    folio::PinnedPage,
    migrate::{Mode, Options},
    report::Reason,
    units::VirtRange,
};
use pagemove_hosted::TlbKind;

fn a_page_that_is_pinned_stays_the_parents(write: bool) {
    let (lab, hooked) = Hooked::lab(TlbKind::Soft, 2);
    let parent = Arc::new(lab.process());
    let device = Device::open(&lab);
    let other = device.fill(0, 1);
    let at = anonymous(&parent, 1);
    parent.store(at.start(), 7).unwrap();
    let page = pfn_at(&parent, at.start());
    let pins: Arc<Mutex<Vec<PinnedPage>>> = Arc::default();
    // The anonymous page is claimed, with no pin; then the driver is asked for its page.
    let (space, keep) = (parent.space().clone(), pins.clone());
    device.driver.during_next(Stage::Isolate, move || {
        let range = VirtRange::new(at.start(), 1).unwrap();
        keep.lock().unwrap().extend(space.pin(range, write, "nic").unwrap());
    });
    // All are blocked.
    let child = Arc::new(Mutex::new(None));
    let (forking, kept) = (parent.clone(), child.clone());
    hooked.before_next_flush(move |_| *kept.lock().unwrap() = Some(forking.fork().unwrap()));
    let outcome = lab.migrate_all(&[page, other], Options::new(Mode::Async));
    assert_eq!(outcome.stayed, [(page, Reason::Pinned)], "the scene is set");
    let child = child.lock().unwrap().take().expect("the machine was told to flush");
    let pins = std::mem::take(&mut *pins.lock().unwrap());
    let device_word = &pins[0].words(0)[0];
    assert_eq!(pins[0].pfn(), page);
    parent.store(at.start(), 8).unwrap();
    assert_eq!(child.load(at.start()), Ok(7));
    let seen = device_word.load(Ordering::Acquire);
    assert_eq!(pfn_at(&parent, at.start()), page, "the parent was given a copy, and the device kept the pinned page");
    assert_eq!(seen, 8, "the device does not see the parent's store");
    device_word.store(9, Ordering::Release);
    assert_eq!(parent.load(at.start()), Ok(9), "the parent does not see what the device wrote");
}

#[test]
fn a_page_pinned_for_writing() {
    a_page_that_is_pinned_stays_the_parents(true);
}

#[test]
fn a_page_pinned_for_reading() {
    a_page_that_is_pinned_stays_the_parents(false);
}
