// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! The tutorial's driver, on the engine. Each test fails if the rule in its name is broken.

use std::sync::{Arc, atomic::Ordering};

use pagemove::migrate::Mode;
use pagemove::report::Reason;
use pagemove_hosted::TlbKind;
use pagemove_kit::{Errno, Store};
use pagemove_kit_hosted::{Held, Host, Open, Outcome, User};
use pagemove_tutorial::driver::{CAPTURES, Grab, PAGES, QUEUE, STAMP, START, STOP};

fn opened() -> Arc<Open<Grab<Held>>> {
    Host::new(TlbKind::Soft, 4).open().expect("opens")
}

fn call(open: &Open<Grab<Held>>, command: u32, index: u64) -> Result<u32, Errno> {
    open.ioctl(command, &mut index.to_ne_bytes())
}

#[test]
fn the_ring_follows_a_page_that_moves() {
    let open = opened();
    call(&open, STAMP, 3).expect("stamps");
    call(&open, STAMP, 4).expect("stamps");
    call(&open, QUEUE, 3).expect("queues");
    let before = open.pages().pfn(3);
    assert_eq!(open.move_page(3, Mode::Sync), Outcome::Moved);
    assert_eq!(open.move_page(4, Mode::Sync), Outcome::Moved);
    assert_ne!(open.pages().pfn(3), before);
    let entry = |index| open.moves().entry(index).expect("is one").load(Ordering::Relaxed);
    assert_eq!((Some(entry(3)), entry(4)), (open.pages().pfn(3), 0), "a page that isn't queued stays so");
    let mut user = User::new(vec![0; 4]);
    assert_eq!(open.read(3 * 4096, &mut user), Ok(4));
    assert_eq!(user.bytes, b"grab");
}

#[test]
fn a_page_stays_during_a_capture() {
    let open = opened();
    call(&open, START, 0).expect("starts");
    assert_eq!(open.move_page(0, Mode::Sync), Outcome::Stayed(Reason::Pinned));
    call(&open, STOP, 0).expect("stops");
    assert_eq!(open.move_page(0, Mode::Sync), Outcome::Moved);
    for index in 0..CAPTURES as u64 {
        call(&open, START, index).expect("there is room");
    }
    assert_eq!(call(&open, START, 60), Err(Errno::ENOSPC));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let open = opened();
    for command in [STAMP, QUEUE, START] {
        assert_eq!(call(&open, command, PAGES), Err(Errno::ENXIO));
        assert_eq!(call(&open, command, u64::MAX), Err(Errno::ENXIO));
    }
    assert_eq!(call(&open, STOP, 0), Err(Errno::ENOENT));
    assert_eq!(call(&open, 0, 0), Err(Errno::ENOTTY));
    assert_eq!(open.ioctl(STAMP, &mut []), Err(Errno::ENOTTY));
    assert_eq!(open.pages().count(), 0);
}
