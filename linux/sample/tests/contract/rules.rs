// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! The contract between a driver and its home, one function for each rule of the table in `docs/linux.md`.
//!
//! Takes a home: an open of the sample driver on the engine (`main.rs`) or on a stock kernel (the guests' `owner.rs`), which
//! both include this file. Promises that a home that breaks a rule fails in the function of its name. Nothing but `ask` moves
//! pages meanwhile, so counts are compared exactly, but for moves that a passing reference to the page makes fail.

use std::error::Error;

use pagemove_sample::uapi::{self, Counts, Named, One, Policy, Range, Watched};

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What came of a move that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Came {
    Moved,
    /// The driver was asked, and said no, or later.
    Refused,
    /// Somebody has a reference.
    Busy,
}

/// Who has a reference to a page, beyond the index, its mappings and the mover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holder {
    /// The driver, within a call.
    Guard,
    /// The driver, for longer.
    Pin,
    /// Not the driver: what `vmsplice` or a look-up takes.
    Other,
}

/// Lets go when dropped.
pub(crate) trait Hold {}

impl<T> Hold for T {}

/// An open of the sample driver, freshly made.
pub(crate) trait Home {
    /// Makes an ioctl.
    fn call(&self, command: u32, argument: &mut [u8]) -> Result<()>;
    /// Reads a page's first word, as a process does.
    fn load(&self, page: u64) -> Result<u64>;
    /// Writes a page's first word, as a process does.
    fn store(&self, page: u64, word: u64) -> Result<()>;
    /// Tells where a page is.
    fn frame(&self, page: u64) -> Result<u64>;
    /// Has a page moved, and tells what came of it.
    fn ask(&self, page: u64) -> Result<Came>;
    /// Takes a reference, as a guard or as others do. `None` if a test can't, here.
    fn hold(&self, holder: Holder, page: u64) -> Result<Option<Box<dyn Hold + '_>>>;
}

/// A rule, by the name that it has in the table.
pub(crate) type Rule = (&'static str, fn(&dyn Home) -> Result<()>);

pub(crate) const RULES: &[Rule] =
    &[("held", held), ("moved", moved), ("refused", refused), ("put-off", put_off), ("freed", freed)];

/// The page that is tried, and its word.
const PAGE: u64 = 3;
const WORD: u64 = 0x5eed;

/// How often a page is asked for that may have a passing reference.
const ASKED: usize = 200;

/// Nobody is asked about a page that is held, so what is written down meanwhile is true, and known to who is asked later.
fn held(home: &dyn Home) -> Result<()> {
    for holder in [Holder::Guard, Holder::Pin, Holder::Other] {
        home.store(PAGE, WORD)?;
        let Some(hold) = hold(home, holder, PAGE)? else { continue };
        let (before, frame) = (counts(home)?, home.frame(PAGE)?);
        // A driver that would refuse shows that it isn't asked.
        for policy in [Policy::Allow, Policy::Refuse] {
            set_policy(home, policy)?;
            expect(holder, "a move", home.ask(PAGE)?, Came::Busy)?;
        }
        home.call(uapi::WATCH, &mut One { number: PAGE }.to_bytes())?;
        expect(holder, "a move once it's written down", home.ask(PAGE)?, Came::Busy)?;
        expect(holder, "the counts", counts(home)?, before)?;
        expect(holder, "the frame, and as written down", (home.frame(PAGE)?, look(home)?), (frame, frame))?;
        set_policy(home, Policy::Allow)?;
        drop(hold);
        must_move(home)?;
        expect(holder, "as written down after a move", look(home)?, home.frame(PAGE)?)?;
        expect(holder, "the word", home.load(PAGE)?, WORD)?;
        // Out of the table, for the next.
        home.call(uapi::FREE, &mut Range { first: PAGE, pages: 1 }.to_bytes())?;
    }
    Ok(())
}

/// A move is asked for, told of and over, once each.
fn moved(home: &dyn Home) -> Result<()> {
    home.store(PAGE, WORD)?;
    home.call(uapi::WATCH, &mut One { number: PAGE }.to_bytes())?;
    for round in 1..=3 {
        must_move(home)?;
        let now = counts(home)?;
        expect(round, "moves", now.moved, round)?;
        expect(round, "moves asked for, and over", now.asked, now.over)?;
        expect(round, "as written down", look(home)?, home.frame(PAGE)?)?;
        expect(round, "the word", home.load(PAGE)?, WORD)?;
    }
    Ok(())
}

/// A move that is refused changes nothing, and nothing else is called.
fn refused(home: &dyn Home) -> Result<()> {
    home.store(PAGE, WORD)?;
    home.call(uapi::WATCH, &mut One { number: PAGE }.to_bytes())?;
    let frame = home.frame(PAGE)?;
    set_policy(home, Policy::Refuse)?;
    let mut came = Came::Busy;
    for _ in 0..ASKED {
        came = home.ask(PAGE)?;
        if came != Came::Busy {
            break;
        }
    }
    expect("no", "a move", came, Came::Refused)?;
    let now = counts(home)?;
    expect("no", "moved, over", (now.moved, now.over), (0, 0))?;
    expect("no", "moves asked for", now.asked, now.refused)?;
    expect("no", "the frame, and as written down", (home.frame(PAGE)?, look(home)?), (frame, frame))?;
    expect("no", "the word", home.load(PAGE)?, WORD)
}

/// A move that is put off comes again, and is over once for each time that it was granted.
fn put_off(home: &dyn Home) -> Result<()> {
    home.store(PAGE, WORD)?;
    set_policy(home, Policy::Retry)?;
    let mut came = Came::Busy;
    for _ in 0..ASKED {
        came = home.ask(PAGE)?;
        if came == Came::Moved {
            break;
        }
    }
    expect("later", "a move", came, Came::Moved)?;
    let now = counts(home)?;
    expect("later", "moved, and put off before", (now.moved, now.refused > 0), (1, true))?;
    expect("later", "moves asked for", now.asked, now.over + now.refused)
}

/// What is freed while it's held leaves its place to another page, which isn't held.
fn freed(home: &dyn Home) -> Result<()> {
    for holder in [Holder::Guard, Holder::Pin, Holder::Other] {
        home.store(PAGE, WORD)?;
        home.call(uapi::WATCH, &mut One { number: PAGE }.to_bytes())?;
        let Some(hold) = hold(home, holder, PAGE)? else { continue };
        let frame = home.frame(PAGE)?;
        home.call(uapi::FREE, &mut Range { first: PAGE, pages: 1 }.to_bytes())?;
        home.store(PAGE, WORD + 1)?;
        expect(holder, "the same frame", home.frame(PAGE)? == frame, false)?;
        must_move(home)?;
        drop(hold);
        must_move(home)?;
        expect(holder, "a new page as written down", look(home)?, 0)?;
        expect(holder, "the word", home.load(PAGE)?, WORD + 1)?;
    }
    Ok(())
}

fn expect<T: PartialEq + std::fmt::Debug>(case: impl std::fmt::Debug, what: &str, is: T, should: T) -> Result<()> {
    if is == should { Ok(()) } else { Err(format!("{case:?}: {what}: {is:?}, not {should:?}").into()) }
}

fn must_move(home: &dyn Home) -> Result<()> {
    for _ in 0..ASKED {
        match home.ask(PAGE)? {
            Came::Moved => return Ok(()),
            Came::Refused => return Err("a driver that allows all has refused".into()),
            Came::Busy => {}
        }
    }
    Err("a page that nobody holds doesn't move".into())
}

fn counts(home: &dyn Home) -> Result<Counts> {
    let mut bytes = [0; Counts::BYTES];
    home.call(uapi::COUNT, &mut bytes)?;
    Counts::from_bytes(&bytes).ok_or_else(|| "counts of a wrong length".into())
}

/// The frame that the driver's own table has.
fn look(home: &dyn Home) -> Result<u64> {
    let mut bytes = Watched { index: PAGE, pfn: 0 }.to_bytes();
    home.call(uapi::LOOK, &mut bytes)?;
    Ok(Watched::from_bytes(&bytes).map_or(0, |watched| watched.pfn))
}

fn set_policy(home: &dyn Home, policy: Policy) -> Result<()> {
    home.call(uapi::POLICY, &mut One { number: policy as u64 }.to_bytes())
}

struct Pinned<'a>(&'a dyn Home, u64);

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

fn hold<'a>(home: &'a dyn Home, holder: Holder, page: u64) -> Result<Option<Box<dyn Hold + 'a>>> {
    if holder != Holder::Pin {
        return home.hold(holder, page);
    }
    let pinned = Pinned(home, page);
    // Only what is pinned is let go.
    match pinned.call(uapi::PIN) {
        Ok(()) => Ok(Some(Box::new(pinned))),
        Err(error) => {
            std::mem::forget(pinned);
            Err(error)
        }
    }
}
