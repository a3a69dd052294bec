// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! A stand-in for the kernel, to test a driver on the host.
//!
//! Takes a driver; gives an open of it whose pages are ordinary memory, and moves them on demand as Linux would: with
//! the three callbacks, unless a guard or pin holds the page. Promises to be strict: a page is held until the last guard
//! is gone, a freed page that is pinned keeps its frame, no frame number is used twice.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::vec::Vec;

use core::cell::{Cell, RefCell};

use crate::{
    Absent, Caller, Driver, Errno, Mode, Moves, Moving, PAGE_BYTES, Page, Pin, PinInfo, Refusal, Store, UserMemory,
};

/// A page: one reference is the store's.
type Frame = Arc<(u64, Mutex<[u8; PAGE_BYTES]>)>;

/// The pages of one open.
#[derive(Debug, Default)]
pub struct Pages {
    pages: RefCell<BTreeMap<u64, Frame>>,
    len: Cell<u64>,
    next_pfn: Cell<u64>,
    now_ns: Cell<u64>,
}

/// A page that stays where it is.
#[derive(Debug)]
pub struct Held(Frame);

/// What came of a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It's in another frame now.
    Moved,
    /// A guard or a pin holds it.
    Pinned,
    /// The driver has said no, or later.
    Refused(Refusal),
    /// There is no such page.
    Absent,
}

impl Pages {
    fn frame(&self, contents: [u8; PAGE_BYTES]) -> Frame {
        self.next_pfn.set(self.next_pfn.get() + 1);
        Arc::new((self.next_pfn.get(), Mutex::new(contents)))
    }

    fn hold(&self, index: u64, absent: Absent) -> Result<Held, Errno> {
        if index >= self.len.get() {
            return Err(Errno::ENXIO);
        }
        if let Some(frame) = self.pages.borrow().get(&index) {
            return Ok(Held(frame.clone()));
        }
        if absent == Absent::Fail {
            return Err(Errno::ENODATA);
        }
        let frame = self.frame([0; PAGE_BYTES]);
        self.pages.borrow_mut().insert(index, frame.clone());
        Ok(Held(frame))
    }

    /// Tells the frame of a page.
    pub fn pfn(&self, index: u64) -> Option<u64> {
        self.pages.borrow().get(&index).map(|frame| frame.0)
    }

    /// Moves a page, as the kernel's compaction would.
    pub fn move_page(&self, moves: &impl Moves, index: u64, mode: Mode) -> Outcome {
        let Some(from) = self.pages.borrow().get(&index).cloned() else { return Outcome::Absent };
        let contents = *from.1.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let to = self.frame(contents);
        let moving = Moving { index, from: from.0, to: to.0, mode };
        if let Err(refusal) = moves.isolate(moving) {
            return Outcome::Refused(refusal);
        }
        // Ours and the store's.
        let moved = Arc::strong_count(&from) == 2;
        if moved {
            self.pages.borrow_mut().insert(index, to);
            moves.migrate(moving);
        }
        moves.putback(moving, moved);
        if moved { Outcome::Moved } else { Outcome::Pinned }
    }
}

impl Store for Pages {
    type Guard<'a> = Held;
    type Held = Held;

    fn len(&self) -> u64 {
        self.len.get()
    }

    fn resize(&self, pages: u64) {
        self.pages.borrow_mut().split_off(&pages);
        self.len.set(pages);
    }

    fn free(&self, first: u64, pages: u64) {
        self.pages.borrow_mut().retain(|&index, _| index < first || index - first >= pages);
    }

    fn count(&self) -> u64 {
        self.pages.borrow().len() as u64
    }

    fn page(&self, index: u64, absent: Absent) -> Result<Held, Errno> {
        self.hold(index, absent)
    }

    fn pin(&self, index: u64, name: &[u8]) -> Result<Pin<Held>, Errno> {
        self.now_ns.set(self.now_ns.get() + 1);
        let mut by = Caller { pid: 1, name: [0; 16] };
        by.name[..4].copy_from_slice(b"test");
        let info = PinInfo::new(index, name, by, self.now_ns.get())?;
        Ok(Pin::new(self.hold(index, Absent::Create)?, info))
    }
}

impl Page for Held {
    fn read(&self, at: usize, to: &mut [u8]) {
        let contents = self.0.1.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        to.iter_mut().zip(&contents[at.min(PAGE_BYTES)..]).for_each(|(to, from)| *to = *from);
    }

    fn write(&self, at: usize, from: &[u8]) {
        let mut contents = self.0.1.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        contents[at.min(PAGE_BYTES)..].iter_mut().zip(from).for_each(|(to, from)| *to = *from);
    }

    fn pfn(&self) -> u64 {
        self.0.0
    }
}

/// A process's buffer, of which the part from `bad` on is no memory of its own.
#[derive(Debug, Clone)]
pub struct User {
    /// What it has.
    pub bytes: Vec<u8>,
    /// How much is copied.
    pub done: usize,
    /// Where it ends to be good.
    pub bad: usize,
}

impl User {
    /// A good buffer.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { bad: bytes.len(), bytes, done: 0 }
    }

    fn step(&mut self, len: usize) -> Result<core::ops::Range<usize>, Errno> {
        let range = self.done..self.done + len.min(self.left());
        self.done = range.end;
        if range.end > self.bad { Err(Errno::EFAULT) } else { Ok(range) }
    }
}

impl UserMemory for User {
    fn left(&self) -> usize {
        self.bytes.len() - self.done
    }

    fn put(&mut self, from: &[u8]) -> Result<(), Errno> {
        let range = self.step(from.len())?;
        self.bytes[range.clone()].copy_from_slice(&from[..range.len()]);
        Ok(())
    }

    fn get(&mut self, to: &mut [u8]) -> Result<(), Errno> {
        let range = self.step(to.len())?;
        to[..range.len()].copy_from_slice(&self.bytes[range]);
        Ok(())
    }
}

/// Opens a device.
pub fn open<D: Driver<Pages>>() -> Result<(Rc<Pages>, D, D::Moves), Errno> {
    let pages = Rc::new(Pages::default());
    let (driver, moves) = D::open(&pages)?;
    Ok((pages, driver, moves))
}
