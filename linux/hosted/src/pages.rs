// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! The pages of one open, in an index of the engine.
//!
//! Serves the driver's calls and faults. The lock of the size makes a fault see a resize wholly or not at all: pages
//! that faults found before it are truncated afterwards.

use std::sync::{Arc, PoisonError, RwLock, atomic::Ordering};

use pagemove::{
    Engine,
    folio::{LockedFolio, PinnedPage},
    frame::Kind,
    movable::PageIndex,
    space::FileError,
};
use pagemove_kit::{Absent, Caller, Errno, PAGE_BYTES, Page, Pin, PinInfo, Store};

/// The pages of one open.
pub struct Pages {
    index: Arc<PageIndex>,
    len: RwLock<u64>,
}

/// A held page: on the engine, a pin.
pub struct Held(PinnedPage);

impl Pages {
    pub(crate) fn new(engine: &Engine, name: &str) -> Self {
        Self { index: engine.new_index(Kind::Driver, name), len: RwLock::new(0) }
    }

    pub(crate) fn index(&self) -> &Arc<PageIndex> {
        &self.index
    }

    /// The frame (PFN) of a page.
    pub fn pfn(&self, index: u64) -> Option<u64> {
        self.index.peek(u32::try_from(index).ok()?).map(|pfn| pfn.get())
    }

    /// Finds a page, or makes it. Beyond the end: `None`.
    pub(crate) fn lock(&self, index: u64, absent: Absent) -> Option<Result<Option<LockedFolio<'_>>, FileError>> {
        // Until the page is locked: a cut that comes later waits for the page.
        let len = self.len.read().unwrap_or_else(PoisonError::into_inner);
        let place = u32::try_from(index).ok().filter(|_| index < *len)?;
        Some(match absent {
            Absent::Create => self.index.lock_or_insert(place).map(Some).map_err(FileError::from),
            Absent::Fail => Ok(self.index.lock_page(place)),
        })
    }

    /// Finds a page, or makes it, without sleeping.
    pub(crate) fn try_lock(&self, index: u32) -> Result<LockedFolio<'_>, FileError> {
        let len = self.len.read().unwrap_or_else(PoisonError::into_inner);
        if u64::from(index) < *len {
            Ok(self.index.try_lock_or_insert(index)?)
        } else {
            Err(FileError::BeyondEnd(index))
        }
    }

    fn hold(&self, index: u64, absent: Absent, name: &str) -> Result<Held, Errno> {
        let found = self.lock(index, absent).ok_or(Errno::ENXIO)?.map_err(|_| Errno::ENOMEM)?;
        Ok(Held(found.ok_or(Errno::ENODATA)?.pin(name)))
    }
}

impl Store for Pages {
    type Guard<'a> = Held;
    type Held = Held;

    fn len(&self) -> u64 {
        *self.len.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn resize(&self, pages: u64) {
        // The engine's indexes have 32-bit page offsets.
        let pages = pages.min(u32::MAX.into());
        *self.len.write().unwrap_or_else(PoisonError::into_inner) = pages;
        self.index.truncate(pages as u32..u32::MAX);
    }

    fn free(&self, first: u64, pages: u64) {
        let place = |index: u64| index.min(u32::MAX.into()) as u32;
        self.index.truncate(place(first)..place(first.saturating_add(pages)));
    }

    fn count(&self) -> u64 {
        self.index.len() as u64
    }

    fn page(&self, index: u64, absent: Absent) -> Result<Held, Errno> {
        self.hold(index, absent, "a call of the driver")
    }

    fn caller_is_administrator(&self) -> bool {
        true
    }

    fn pin(&self, index: u64, name: &[u8]) -> Result<Pin<Held>, Errno> {
        let mut by = Caller { pid: std::process::id(), name: [0; 16] };
        by.name[..6].copy_from_slice(b"hosted");
        let info = PinInfo::new(index, name, by, self.index.physical().machine().now_ns())?;
        Ok(Pin::new(self.hold(index, Absent::Create, &String::from_utf8_lossy(name))?, info))
    }
}

impl Page for Held {
    fn read(&self, at: usize, to: &mut [u8]) {
        for (at, byte) in (at..PAGE_BYTES).zip(to) {
            *byte = self.0.words(0)[at / 8].load(Ordering::Acquire).to_ne_bytes()[at % 8];
        }
    }

    fn write(&self, at: usize, from: &[u8]) {
        for (at, byte) in (at..PAGE_BYTES).zip(from) {
            // Processes may write the word's other bytes concurrently.
            let change = |word: u64| {
                let mut bytes = word.to_ne_bytes();
                bytes[at % 8] = *byte;
                Some(u64::from_ne_bytes(bytes))
            };
            let _ = self.0.words(0)[at / 8].fetch_update(Ordering::AcqRel, Ordering::Acquire, change);
        }
    }

    fn pfn(&self) -> u64 {
        self.0.pfn().get()
    }
}
