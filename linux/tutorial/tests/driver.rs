// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! The tutorial's driver, on the kernel's stand-in. Promises that each test fails if the rule in its name is broken.

use std::sync::atomic::Ordering;

use pagemove_kit::fake::{self, Held, Outcome, Pages, User};
use pagemove_kit::{Driver, Errno, Mode, Store};
use pagemove_tutorial::driver::{CAPTURES, Grab, PAGES, QUEUE, Ring, STAMP, START, STOP};

fn call(pages: &Pages, grab: &mut Grab<Held>, ring: &Ring, command: u32, index: u64) -> Result<u32, Errno> {
    grab.ioctl(pages, ring, command, &mut index.to_ne_bytes())
}

#[test]
fn the_ring_follows_a_page_that_moves() {
    let (pages, mut grab, ring) = fake::open::<Grab<Held>>().expect("opens");
    call(&pages, &mut grab, &ring, STAMP, 3).expect("stamps");
    call(&pages, &mut grab, &ring, STAMP, 4).expect("stamps");
    call(&pages, &mut grab, &ring, QUEUE, 3).expect("queues");
    let before = pages.pfn(3);
    assert_eq!(pages.move_page(&ring, 3, Mode::Sync), Outcome::Moved);
    assert_eq!(pages.move_page(&ring, 4, Mode::Sync), Outcome::Moved);
    assert_ne!(pages.pfn(3), before);
    let entry = |index| ring.entry(index).expect("is one").load(Ordering::Relaxed);
    assert_eq!((Some(entry(3)), entry(4)), (pages.pfn(3), 0), "a page that isn't queued stays so");
    let mut user = User::new(vec![0; 4]);
    assert_eq!(grab.read(&*pages, 3 * 4096, &mut user), Ok(4));
    assert_eq!(user.bytes, b"grab");
}

#[test]
fn a_page_stays_during_a_capture() {
    let (pages, mut grab, ring) = fake::open::<Grab<Held>>().expect("opens");
    call(&pages, &mut grab, &ring, START, 0).expect("starts");
    assert_eq!(pages.move_page(&ring, 0, Mode::Sync), Outcome::Pinned);
    call(&pages, &mut grab, &ring, STOP, 0).expect("stops");
    assert_eq!(pages.move_page(&ring, 0, Mode::Sync), Outcome::Moved);
    for index in 0..CAPTURES as u64 {
        call(&pages, &mut grab, &ring, START, index).expect("there is room");
    }
    assert_eq!(call(&pages, &mut grab, &ring, START, 60), Err(Errno::ENOSPC));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let (pages, mut grab, ring) = fake::open::<Grab<Held>>().expect("opens");
    for command in [STAMP, QUEUE, START] {
        assert_eq!(call(&pages, &mut grab, &ring, command, PAGES), Err(Errno::ENXIO));
        assert_eq!(call(&pages, &mut grab, &ring, command, u64::MAX), Err(Errno::ENXIO));
    }
    assert_eq!(call(&pages, &mut grab, &ring, STOP, 0), Err(Errno::ENOENT));
    assert_eq!(call(&pages, &mut grab, &ring, 0, 0), Err(Errno::ENOTTY));
    assert_eq!(grab.ioctl(&*pages, &ring, STAMP, &mut []), Err(Errno::ENOTTY));
    assert_eq!(pages.count(), 0);
}
