//! The roots of address spaces, as a kernel would keep them: with a kernel's half in the table, and a word for each.
//!
//! Panics if the engine uses a root that it hasn't made or has freed, or changes the kernel's half.
#![allow(unsafe_code, reason = "writes and reads the kernel's half of a root by its frame")]

use pagemove::{
    port::{FlushRange, Ram, Space, SpaceId},
    sync::{AtomicU64, Mutex, Ordering},
    units::Pfn,
};
use rustc_hash::FxHashMap;

/// First entry of the kernel's half.
const FIRST: usize = 256;
/// The kernel's entries, with the entry's number added: not present, so that no CPU walks there.
const KERNEL: u64 = 0x5afe_0000_0000_0000;

/// All roots in use.
#[derive(Default)]
pub(crate) struct Roots {
    by_space: Mutex<FxHashMap<SpaceId, Space>>,
}

impl Roots {
    /// Fills in the kernel's half of a new root, and gives its word.
    pub(crate) fn add(&self, ram: Ram, id: SpaceId, root: Pfn) -> u64 {
        // SAFETY: the engine has made this table, and nobody uses it yet.
        let words = unsafe { ram.words(root) };
        assert!(words.iter().all(|word| word.load(Ordering::Relaxed) == 0), "a new root isn't empty");
        fill(words);
        let space = Space { id, root, word: id.0.rotate_left(32) };
        let before = self.by_space.lock().insert(id, space);
        assert_eq!(before, None, "an address space's number was given twice");
        space.word
    }

    /// Fills in the kernel's half of the copy at `to` of a root.
    pub(crate) fn replace(&self, ram: Ram, space: Space, to: Pfn) {
        // SAFETY: the engine has made this table, and nobody uses it yet.
        let words = unsafe { ram.words(to) };
        let is_empty = |word: &AtomicU64| word.load(Ordering::Relaxed) == 0;
        assert!(words[FIRST..].iter().all(is_empty), "the kernel's half of a copied root isn't empty");
        fill(words);
        let before = self.by_space.lock().insert(space.id, Space { root: to, ..space });
        assert_eq!(before, Some(space), "a root was moved that wasn't made so");
    }

    /// Checks the kernel's half of a root that is being freed, and removes it.
    pub(crate) fn remove(&self, ram: Ram, space: Space) {
        assert_eq!(self.by_space.lock().remove(&space.id), Some(space), "a root was freed that wasn't made so");
        // SAFETY: the frame is freed only after this.
        let words = unsafe { ram.words(space.root) };
        let is_unchanged =
            |(number, word): (usize, u64)| word == if number < FIRST { 0 } else { KERNEL | (number as u64) << 12 };
        let mut words = words.iter().map(|word| word.load(Ordering::Relaxed)).enumerate();
        assert!(words.all(is_unchanged), "a root was freed with entries in it, or with changes in the kernel's half");
    }

    /// Checks that flushes name known address spaces, with the right root and word.
    pub(crate) fn check(&self, ranges: &[FlushRange]) {
        let by_space = self.by_space.lock();
        for range in ranges {
            let known = by_space.get(&range.space.id);
            // The root may have moved since the change that owes the flush.
            let is_known = known.is_some_and(|known| known.word == range.space.word);
            assert!(is_known, "a flush of an unknown address space");
        }
    }
}

/// Fills in the kernel's half.
fn fill(words: &[AtomicU64; 512]) {
    let kernel = words.iter().enumerate().skip(FIRST);
    kernel.for_each(|(number, word)| word.store(KERNEL | (number as u64) << 12, Ordering::Relaxed));
}
