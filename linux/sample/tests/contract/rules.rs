// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! The contract between a driver and its platform: one function for each rule of the table in `docs/linux.md`.
//!
//! Takes a platform: an open of the sample driver on the engine (`main.rs`) or on a stock kernel (the guests'
//! `owner.rs`); both include this file. A platform that breaks a rule fails in the function of that name. Only
//! `request_move` moves pages, so counts are compared exactly, except for moves that fail because of a passing
//! reference.

use std::error::Error;

use pagemove_sample::uapi::{self, Counts, Named, One, Policy, Range, Watched};

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The outcome of a requested move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MoveOutcome {
    Moved,
    /// The driver's `isolate` refused, for good or for now.
    Refused,
    /// Somebody has a reference.
    Busy,
}

/// The holder of an extra reference to a page, beyond the index, its mappings and the mover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holder {
    /// The driver, during a call.
    Guard,
    /// The driver, beyond a call.
    Pin,
    /// Not the driver: `vmsplice` or a look-up.
    Other,
}

/// Releases the reference when dropped.
pub(crate) trait Hold {}

impl<T> Hold for T {}

/// A new open of the sample driver.
pub(crate) trait Platform {
    /// Makes an ioctl.
    fn call(&self, command: u32, argument: &mut [u8]) -> Result<()>;
    /// Reads a page's first word, as a process does.
    fn load(&self, page: u64) -> Result<u64>;
    /// Writes a page's first word, as a process does.
    fn store(&self, page: u64, word: u64) -> Result<()>;
    /// The frame (PFN) of a page.
    fn frame(&self, page: u64) -> Result<u64>;
    /// Asks for a move; gives its outcome.
    fn request_move(&self, page: u64) -> Result<MoveOutcome>;
    /// Takes a reference, as this holder does. `None` if a test can't do that here.
    fn hold(&self, holder: Holder, page: u64) -> Result<Option<Box<dyn Hold + '_>>>;
}

/// A rule, with its name in the table.
pub(crate) type Rule = (&'static str, fn(&dyn Platform) -> Result<()>);

pub(crate) const RULES: &[Rule] =
    &[("held", held), ("moved", moved), ("refused", refused), ("put-off", put_off), ("freed", freed)];

/// The tested page, and its word.
const PAGE: u64 = 3;
const WORD: u64 = 0x5eed;

/// How often to ask for a move that a passing reference may prevent.
const MOST_TRIES: usize = 200;

/// No callback runs for a held page. So what is recorded meanwhile is correct, and visible to a later `isolate`.
fn held(platform: &dyn Platform) -> Result<()> {
    for holder in [Holder::Guard, Holder::Pin, Holder::Other] {
        platform.store(PAGE, WORD)?;
        let Some(hold) = hold(platform, holder, PAGE)? else { continue };
        let (before, frame) = (counts(platform)?, platform.frame(PAGE)?);
        // A driver that would refuse shows that it isn't asked.
        for policy in [Policy::Allow, Policy::Refuse] {
            set_policy(platform, policy)?;
            expect(holder, "a move", platform.request_move(PAGE)?, MoveOutcome::Busy)?;
        }
        platform.call(uapi::WATCH, &mut One { number: PAGE }.to_bytes())?;
        expect(holder, "a move once it's written down", platform.request_move(PAGE)?, MoveOutcome::Busy)?;
        expect(holder, "the counts", counts(platform)?, before)?;
        expect(holder, "the frame, and as written down", (platform.frame(PAGE)?, look(platform)?), (frame, frame))?;
        set_policy(platform, Policy::Allow)?;
        drop(hold);
        must_move(platform)?;
        expect(holder, "as written down after a move", look(platform)?, platform.frame(PAGE)?)?;
        expect(holder, "the word", platform.load(PAGE)?, WORD)?;
        // Removed from the table, for the next holder.
        platform.call(uapi::FREE, &mut Range { first: PAGE, pages: 1 }.to_bytes())?;
    }
    Ok(())
}

/// Each callback runs once for a move.
fn moved(platform: &dyn Platform) -> Result<()> {
    platform.store(PAGE, WORD)?;
    platform.call(uapi::WATCH, &mut One { number: PAGE }.to_bytes())?;
    for round in 1..=3 {
        must_move(platform)?;
        let now = counts(platform)?;
        expect(round, "moves", now.moved, round)?;
        expect(round, "moves asked for, and over", now.asked, now.over)?;
        expect(round, "as written down", look(platform)?, platform.frame(PAGE)?)?;
        expect(round, "the word", platform.load(PAGE)?, WORD)?;
    }
    Ok(())
}

/// A refused move changes nothing, and calls nothing else.
fn refused(platform: &dyn Platform) -> Result<()> {
    platform.store(PAGE, WORD)?;
    platform.call(uapi::WATCH, &mut One { number: PAGE }.to_bytes())?;
    let frame = platform.frame(PAGE)?;
    set_policy(platform, Policy::Refuse)?;
    let mut outcome = MoveOutcome::Busy;
    for _ in 0..MOST_TRIES {
        outcome = platform.request_move(PAGE)?;
        if outcome != MoveOutcome::Busy {
            break;
        }
    }
    expect("no", "a move", outcome, MoveOutcome::Refused)?;
    let now = counts(platform)?;
    expect("no", "moved, over", (now.moved, now.over), (0, 0))?;
    expect("no", "moves asked for", now.asked, now.refused)?;
    expect("no", "the frame, and as written down", (platform.frame(PAGE)?, look(platform)?), (frame, frame))?;
    expect("no", "the word", platform.load(PAGE)?, WORD)
}

/// A move that is put off is tried again; `putback` runs once for each grant.
fn put_off(platform: &dyn Platform) -> Result<()> {
    platform.store(PAGE, WORD)?;
    set_policy(platform, Policy::Retry)?;
    let mut outcome = MoveOutcome::Busy;
    for _ in 0..MOST_TRIES {
        outcome = platform.request_move(PAGE)?;
        if outcome == MoveOutcome::Moved {
            break;
        }
    }
    expect("later", "a move", outcome, MoveOutcome::Moved)?;
    let now = counts(platform)?;
    expect("later", "moved, and put off before", (now.moved, now.refused > 0), (1, true))?;
    expect("later", "moves asked for", now.asked, now.over + now.refused)
}

/// A page freed while held is replaced by another page, which isn't held.
fn freed(platform: &dyn Platform) -> Result<()> {
    for holder in [Holder::Guard, Holder::Pin, Holder::Other] {
        platform.store(PAGE, WORD)?;
        platform.call(uapi::WATCH, &mut One { number: PAGE }.to_bytes())?;
        let Some(hold) = hold(platform, holder, PAGE)? else { continue };
        let frame = platform.frame(PAGE)?;
        platform.call(uapi::FREE, &mut Range { first: PAGE, pages: 1 }.to_bytes())?;
        platform.store(PAGE, WORD + 1)?;
        expect(holder, "the same frame", platform.frame(PAGE)? == frame, false)?;
        must_move(platform)?;
        drop(hold);
        must_move(platform)?;
        expect(holder, "a new page as written down", look(platform)?, 0)?;
        expect(holder, "the word", platform.load(PAGE)?, WORD + 1)?;
    }
    Ok(())
}

fn expect<T: PartialEq + std::fmt::Debug>(case: impl std::fmt::Debug, what: &str, is: T, should: T) -> Result<()> {
    if is == should { Ok(()) } else { Err(format!("{case:?}: {what}: {is:?}, not {should:?}").into()) }
}

fn must_move(platform: &dyn Platform) -> Result<()> {
    for _ in 0..MOST_TRIES {
        match platform.request_move(PAGE)? {
            MoveOutcome::Moved => return Ok(()),
            MoveOutcome::Refused => return Err("a driver that allows all moves refused one".into()),
            MoveOutcome::Busy => {}
        }
    }
    Err("an unheld page doesn't move".into())
}

fn counts(platform: &dyn Platform) -> Result<Counts> {
    let mut bytes = [0; Counts::BYTES];
    platform.call(uapi::COUNT, &mut bytes)?;
    Counts::from_bytes(&bytes).ok_or_else(|| "counts of a wrong length".into())
}

/// The frame in the driver's own table.
fn look(platform: &dyn Platform) -> Result<u64> {
    let mut bytes = Watched { index: PAGE, pfn: 0 }.to_bytes();
    platform.call(uapi::LOOK, &mut bytes)?;
    Ok(Watched::from_bytes(&bytes).map_or(0, |watched| watched.pfn))
}

fn set_policy(platform: &dyn Platform, policy: Policy) -> Result<()> {
    platform.call(uapi::POLICY, &mut One { number: policy as u64 }.to_bytes())
}

struct Pinned<'a>(&'a dyn Platform, u64);

impl Pinned<'_> {
    fn call(&self, command: u32) -> Result<()> {
        self.0.call(
            command,
            &mut Named { index: self.1, name: *b"a pin\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0" }.to_bytes(),
        )
    }
}

impl Drop for Pinned<'_> {
    fn drop(&mut self) {
        self.call(uapi::UNPIN).expect("was pinned");
    }
}

fn hold<'a>(platform: &'a dyn Platform, holder: Holder, page: u64) -> Result<Option<Box<dyn Hold + 'a>>> {
    if holder != Holder::Pin {
        return platform.hold(holder, page);
    }
    let pinned = Pinned(platform, page);
    // Unpin on drop only what was pinned.
    match pinned.call(uapi::PIN) {
        Ok(()) => Ok(Some(Box::new(pinned))),
        Err(error) => {
            std::mem::forget(pinned);
            Err(error)
        }
    }
}
