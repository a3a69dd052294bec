//! Handles: a word for each object that says where it is. Objects move from zspage to zspage; their handles stay.

use pagemove::sync::{AtomicU64, Ordering};

use crate::chunks::{Chunks, NoRoom};

/// Words that a class takes at once.
pub(super) const BLOCK: u32 = 64;

/// | bits | field |
/// | --- | --- |
/// | 0 to 10 | the object's number in its zspage |
/// | 11 to 18 | its class |
/// | 19 to 50 | the number of the zspage's first cell |
///
/// Of a free handle: the next one of its class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Location(u64);

impl Location {
    pub(super) fn new(cell: u32, class: usize, object: u32) -> Self {
        debug_assert!(object < 1 << 11 && class < 1 << 8);
        Self(u64::from(cell) << 19 | (class as u64) << 11 | u64::from(object))
    }

    pub(super) fn cell(self) -> u32 {
        (self.0 >> 19) as u32
    }

    pub(super) fn class(self) -> usize {
        (self.0 >> 11) as usize & 0xff
    }

    pub(super) fn object(self) -> u32 {
        self.0 as u32 & 0x7ff
    }
}

/// All handles.
pub(super) struct Handles {
    words: Chunks<AtomicU64, 512>,
}

impl Handles {
    pub(super) fn new() -> Self {
        Self { words: Chunks::new() }
    }

    /// Adds a word; gives its number.
    pub(super) fn add(&self) -> Result<u32, NoRoom> {
        self.words.add(|| AtomicU64::new(0))
    }

    fn word(&self, handle: u32) -> &AtomicU64 {
        // A handle's number is made by `add` alone.
        self.words.get(handle).expect("a handle's word")
    }

    /// Reads where an object is.
    #[inline]
    pub(super) fn load(&self, handle: u32) -> Location {
        // Acquire pairs with `store`: the pages of that place are in their cells.
        Location(self.word(handle).load(Ordering::Acquire))
    }

    pub(super) fn store(&self, handle: u32, location: Location) {
        self.word(handle).store(location.0, Ordering::Release);
    }

    /// Reads the next free handle after a free one. Under the class's lock, as the next call.
    pub(super) fn next(&self, free: u32) -> u32 {
        self.word(free).load(Ordering::Relaxed) as u32
    }

    pub(super) fn set_next(&self, free: u32, next: u32) {
        self.word(free).store(u64::from(next), Ordering::Relaxed);
    }

    pub(super) fn bytes(&self) -> usize {
        self.words.bytes()
    }
}
