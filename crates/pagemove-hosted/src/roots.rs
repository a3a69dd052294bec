//! The roots of address spaces, as a kernel on this machine would keep them: with a half of its own, and with a word for each.
//!
//! Takes what the engine says of roots; promises a panic if it uses one that it hasn't made or has freed, or changes the kernel's half.
#![allow(unsafe_code, reason = "writes and reads the kernel's half of a root by its frame")]

use pagemove::{
    port::{FlushRange, Ram, Space, SpaceId},
    sync::{Mutex, Ordering},
    units::Pfn,
};
use rustc_hash::FxHashMap;

/// First entry of the kernel's half.
const FIRST: usize = 256;
/// In each of its entries, with the number: not present, so that no processor walks there.
const KERNEL: u64 = 0x5afe_0000_0000_0000;

/// All roots in use.
#[derive(Default)]
pub(crate) struct Roots {
    by_space: Mutex<FxHashMap<SpaceId, Space>>,
}

impl Roots {
    /// Fills the kernel's half of a new root in; gives its word.
    pub(crate) fn add(&self, ram: Ram, id: SpaceId, root: Pfn) -> u64 {
        // SAFETY: the engine has made this table, and nobody uses it yet.
        let words = unsafe { ram.words(root) };
        assert!(words.iter().all(|word| word.load(Ordering::Relaxed) == 0), "a new root isn't empty");
        let kernel = words.iter().enumerate().skip(FIRST);
        kernel.for_each(|(number, word)| word.store(KERNEL | (number as u64) << 12, Ordering::Relaxed));
        let space = Space { id, root, word: id.0.rotate_left(32) };
        let before = self.by_space.lock().insert(id, space);
        assert_eq!(before, None, "an address space's number was given twice");
        space.word
    }

    /// Checks the kernel's half of a root that is freed, and forgets it.
    pub(crate) fn remove(&self, ram: Ram, space: Space) {
        assert_eq!(self.by_space.lock().remove(&space.id), Some(space), "a root was freed that wasn't made so");
        // SAFETY: the frame is freed after this.
        let words = unsafe { ram.words(space.root) };
        let is_as_it_was =
            |(number, word): (usize, u64)| word == if number < FIRST { 0 } else { KERNEL | (number as u64) << 12 };
        let mut words = words.iter().map(|word| word.load(Ordering::Relaxed)).enumerate();
        assert!(words.all(is_as_it_was), "a root was freed with entries in it, or with changes in the kernel's half");
    }

    /// Checks that flushes name address spaces as they were made.
    pub(crate) fn check(&self, ranges: &[FlushRange]) {
        let by_space = self.by_space.lock();
        for range in ranges {
            assert_eq!(by_space.get(&range.space.id), Some(&range.space), "a flush of an unknown address space");
        }
    }
}
