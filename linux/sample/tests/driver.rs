// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! The sample driver's logic, on the engine: the same source as the kernel module.
//!
//! Each test fails if the rule in its name is broken.

use std::sync::Arc;

use pagemove::migrate::Mode;
use pagemove::report::Reason;
use pagemove_hosted::TlbKind;
use pagemove_kit::{Errno, Migration, Moves, PAGE_BYTES, Store};
use pagemove_kit_hosted::{Held, Host, Open, Outcome, User};
use pagemove_sample::driver::Buffer;
use pagemove_sample::uapi::{self, Counts, Listed, Named, One, Policy, Range, Watched};

struct Opened {
    open: Arc<Open<Buffer<Held>>>,
}

impl Opened {
    fn new() -> Self {
        Self { open: Host::new(TlbKind::Soft, 4).open().expect("opens") }
    }

    fn call(&self, command: u32, argument: &mut [u8]) -> Result<u32, Errno> {
        self.open.ioctl(command, argument)
    }

    fn one(&self, command: u32, number: u64) -> Result<u32, Errno> {
        self.call(command, &mut One { number }.to_bytes())
    }

    fn range(&self, command: u32, first: u64, pages: u64) -> Result<u32, Errno> {
        self.call(command, &mut Range { first, pages }.to_bytes())
    }

    fn pin(&self, command: u32, index: u64, name: &str) -> Result<u32, Errno> {
        let mut padded = [0; 24];
        padded[..name.len()].copy_from_slice(name.as_bytes());
        self.call(command, &mut Named { index, name: padded }.to_bytes())
    }

    fn counts(&self) -> Counts {
        let mut bytes = [0; Counts::BYTES];
        self.call(uapi::COUNT, &mut bytes).expect("counts");
        Counts::from_bytes(&bytes).expect("the length is right")
    }

    fn moves(&self, index: u64) -> Outcome {
        self.open.move_page(index, Mode::Sync)
    }
}

#[test]
fn what_is_written_is_read_wherever_it_has_moved_to() {
    let open = Opened::new();
    // Across a page boundary.
    let text: Vec<u8> = (0..600).map(|at| at as u8).collect();
    let at = PAGE_BYTES as u64 - 300;
    let mut from = User::new(text.clone());
    assert_eq!(open.open.write(at, &mut from), Ok(600));
    let before = open.open.pages().pfn(0);
    assert_eq!((open.moves(0), open.moves(1)), (Outcome::Moved, Outcome::Moved));
    assert_ne!(open.open.pages().pfn(0), before);
    let mut to = User::new(vec![0; 600]);
    assert_eq!(open.open.read(at, &mut to), Ok(600));
    assert_eq!(to.bytes, text);
}

#[test]
fn reading_makes_no_pages_and_ends_at_the_end() {
    let open = Opened::new();
    let end = uapi::FIRST_PAGES * PAGE_BYTES as u64;
    let mut to = User::new(vec![7; 100]);
    assert_eq!(open.open.read(end - 10, &mut to), Ok(10));
    assert_eq!((&to.bytes[..10], to.bytes[10]), (&[0; 10][..], 7));
    assert_eq!(open.open.read(u64::MAX, &mut User::new(vec![0; 8])), Ok(0));
    assert_eq!(open.open.write(end, &mut User::new(vec![0; 8])), Err(Errno::ENOSPC));
    assert_eq!(open.counts().pages, 0);
}

#[test]
fn bad_memory_is_told_unless_some_was_good() {
    let open = Opened::new();
    let bad_from = |bad| User { bytes: vec![1; 1000], done: 0, bad };
    assert_eq!(open.open.write(0, &mut bad_from(0)), Err(Errno::EFAULT));
    assert_eq!(open.open.write(0, &mut bad_from(300)), Ok(256));
    assert_eq!(open.open.read(0, &mut bad_from(0)), Err(Errno::EFAULT));
}

#[test]
fn a_pinned_page_stays_and_is_listed_until_it_is_let_go() {
    let open = Opened::new();
    open.range(uapi::FILL, 0, 3).expect("fills");
    open.pin(uapi::PIN, 1, "dma").expect("pins");
    assert_eq!(open.pin(uapi::PIN, 1, "dma"), Err(Errno::EEXIST));
    assert_eq!(
        (open.moves(0), open.moves(1), open.moves(2)),
        (Outcome::Moved, Outcome::Stayed(Reason::Pinned), Outcome::Moved)
    );

    let mut listed = Listed { place: 0, index: 0, since_ns: 0, pid: 0, by: [0; 16], name: [0; 24] }.to_bytes();
    open.call(uapi::LIST, &mut listed).expect("lists");
    let listed = Listed::from_bytes(&listed).expect("the length is right");
    assert_eq!((listed.index, &listed.name[..4], listed.pid), (1, b"dma\0".as_slice(), std::process::id().into()));
    let mut past = Listed { place: 1, ..listed }.to_bytes();
    assert_eq!(open.call(uapi::LIST, &mut past), Err(Errno::ENOENT));

    assert_eq!(open.pin(uapi::UNPIN, 1, "dm"), Err(Errno::ENOENT));
    open.pin(uapi::UNPIN, 1, "dma").expect("lets go");
    assert_eq!(open.pin(uapi::UNPIN, 1, "dma"), Err(Errno::ENOENT), "a pin is released once");
    assert_eq!(open.moves(1), Outcome::Moved);
}

#[test]
fn pins_are_bounded_and_named() {
    let open = Opened::new();
    assert_eq!(open.pin(uapi::PIN, 0, ""), Err(Errno::EINVAL));
    assert_eq!(open.pin(uapi::PIN, uapi::FIRST_PAGES, "past"), Err(Errno::ENXIO));
    for number in 0..uapi::MOST_PINS {
        open.pin(uapi::PIN, 0, &format!("pin {number}")).expect("there is room");
    }
    assert_eq!(open.pin(uapi::PIN, 0, "one more"), Err(Errno::ENOSPC));
    assert_eq!(open.counts().pins, uapi::MOST_PINS as u64);
}

#[test]
fn a_page_freed_while_pinned_is_another_page_afterwards() {
    let open = Opened::new();
    open.range(uapi::FILL, 0, 1).expect("fills");
    let before = open.open.pages().pfn(0);
    open.pin(uapi::PIN, 0, "dma").expect("pins");
    open.range(uapi::FREE, 0, 1).expect("frees");
    assert_eq!(open.counts().pages, 0);
    open.range(uapi::FILL, 0, 1).expect("fills");
    assert_ne!(open.open.pages().pfn(0), before);
    open.pin(uapi::UNPIN, 0, "dma").expect("lets go of the old one");
}

#[test]
fn the_devices_table_follows_moves_and_forgets_what_is_freed() {
    let open = Opened::new();
    open.one(uapi::WATCH, 2).expect("watches");
    assert_eq!(open.moves(2), Outcome::Moved);
    let look = |open: &Opened| {
        let mut bytes = Watched { index: 2, pfn: 0 }.to_bytes();
        open.call(uapi::LOOK, &mut bytes).map(|_| Watched::from_bytes(&bytes).expect("the length is right").pfn)
    };
    assert_eq!(look(&open), Ok(open.open.pages().pfn(2).expect("is there")));
    open.range(uapi::FREE, 2, 1).expect("frees");
    assert_eq!(look(&open), Err(Errno::ENODATA));
    open.range(uapi::FILL, 2, 1).expect("fills");
    assert_eq!(look(&open), Ok(0), "a new page isn't watched");
    assert_eq!(open.one(uapi::WATCH, uapi::WATCHED as u64), Err(Errno::ENXIO));
}

/// A page may be freed while it moves: the move must not add it to the table again.
#[test]
fn a_move_changes_no_entry_but_its_own_frames() {
    let open = Opened::new();
    open.one(uapi::WATCH, 2).expect("watches");
    let pfn = open.open.pages().pfn(2).expect("is there");
    open.open.moves().migrate(Migration { index: 2, src: pfn + 7, dst: pfn + 8, mode: pagemove_kit::Mode::Sync });
    let mut bytes = Watched { index: 2, pfn: 0 }.to_bytes();
    open.call(uapi::LOOK, &mut bytes).expect("looks");
    assert_eq!(Watched::from_bytes(&bytes).map(|watched| watched.pfn), Some(pfn));
}

#[test]
fn the_driver_may_refuse_or_put_off() {
    let open = Opened::new();
    open.range(uapi::FILL, 0, 1).expect("fills");
    open.one(uapi::POLICY, Policy::Refuse as u64).expect("sets");
    assert_eq!(open.moves(0), Outcome::Stayed(Reason::Refused));
    open.one(uapi::POLICY, Policy::Retry as u64).expect("sets");
    // Every second attempt is put off, and then tried again.
    assert_eq!((open.moves(0), open.moves(0)), (Outcome::Moved, Outcome::Moved));
    assert_eq!(open.one(uapi::POLICY, 3), Err(Errno::EINVAL));
    let counts = open.counts();
    assert_eq!((counts.moved, counts.refused, counts.failed), (2, 2, 0));
}

#[test]
fn absurd_ranges_sizes_and_commands_are_refused() {
    let open = Opened::new();
    for (first, pages) in [(0, uapi::FIRST_PAGES + 1), (u64::MAX, 1), (1, u64::MAX), (u64::MAX, u64::MAX)] {
        assert_eq!(open.range(uapi::FREE, first, pages), Err(Errno::EINVAL));
        assert_eq!(open.range(uapi::FILL, first, pages), Err(Errno::EINVAL));
    }
    assert_eq!(open.one(uapi::RESIZE, uapi::MOST_PAGES + 1), Err(Errno::EINVAL));
    assert_eq!(open.call(0, &mut []), Err(Errno::ENOTTY));
    assert_eq!(open.call(uapi::RESIZE, &mut []), Err(Errno::EINVAL));
    open.one(uapi::RESIZE, 0).expect("to nothing");
    assert!(open.open.pages().is_empty());
}

#[test]
fn shrinking_frees_what_is_past_the_end() {
    let open = Opened::new();
    open.range(uapi::FILL, 0, uapi::FIRST_PAGES).expect("fills");
    open.one(uapi::RESIZE, 3).expect("shrinks");
    assert_eq!((open.counts().size, open.counts().pages), (3, 3));
    assert_eq!(open.moves(3), Outcome::Absent);
}
