//! A leaf entry's place in the tree, and the calls that change it: each one compare-and-swap, or swap.

use core::marker::PhantomData;

use super::{
    Entry, Flags, Format, X86_64,
    format::{from_word, to_word},
};
use crate::{
    sync::{AtomicU64, Ordering},
    units::{HUGE_ORDER, Order, Pfn, VirtAddr},
};

/// A leaf entry's location in the tree.
///
/// A split of a folio puts a table in the place of a 2 MiB entry, at any time except under the exclusive lock of the
/// folio's reverse map. The calls then leave the table alone: `load` and `take` give the empty entry.
#[derive(Clone, Copy)]
pub struct Slot<'a, F: Format = X86_64> {
    word: &'a AtomicU64,
    order: Order,
    format: PhantomData<F>,
}

impl<'a, F: Format> Slot<'a, F> {
    /// An entry of a table of level 0 or 1.
    #[inline]
    pub(super) fn new(word: &'a AtomicU64, level: u32) -> Self {
        let order = if level == 0 { Order::ZERO } else { HUGE_ORDER };
        Self { word, order, format: PhantomData }
    }

    fn level(&self) -> u32 {
        if self.order == Order::ZERO { 0 } else { 1 }
    }

    fn entry(&self, word: u64) -> Entry {
        from_word::<F>(word, self.level())
    }

    fn word(&self, entry: Entry) -> u64 {
        to_word::<F>(entry, self.level())
    }

    /// The order that the leaf maps: 0 or 9.
    pub fn order(&self) -> Order {
        self.order
    }

    /// Tells whether nothing is there: neither an entry nor a table.
    pub(crate) fn is_empty(&self) -> bool {
        // Relaxed: what is put there later is checked by its swap.
        self.word.load(Ordering::Relaxed) == 0
    }

    /// Gives the frame of the page at `address`, which `entry` maps.
    pub(crate) fn page_of(&self, entry: Entry, address: VirtAddr) -> Pfn {
        entry.pfn().up(address.vpn() as u32 & (self.order.frames() - 1))
    }

    /// Reads the entry.
    pub fn load(&self) -> Entry {
        // Acquire pairs with the Release of `swap_if`: the frame's fields are at least as new as its mapping.
        let entry = self.entry(self.word.load(Ordering::Acquire));
        if self.order > Order::ZERO && is_table(entry) { Entry::NONE } else { entry }
    }

    /// Changes the entry from `old` to `new`; gives the current entry if it is no longer `old`.
    pub(crate) fn swap_if(&self, old: Entry, new: Entry) -> Result<(), Entry> {
        // AcqRel: Release publishes the frame's fields and contents to walks; Acquire as in `load`. Also of a failed
        // swap: who finds an entry taken out must see the debt that was announced for it before.
        self.word
            .compare_exchange(self.word(old), self.word(new), Ordering::AcqRel, Ordering::Acquire)
            .map(drop)
            .map_err(|word| self.entry(word))
    }

    /// Changes the entry from `old` to `new`; nobody else may change it meanwhile.
    pub(crate) fn replace(&self, old: Entry, new: Entry) {
        let swapped = self.swap_if(old, new);
        assert_eq!(swapped, Ok(()), "an entry changed under its holder");
    }

    /// Puts an entry where none is, in a table that nobody else reaches: a new space's, under its reverse maps' exclusive locks.
    pub(crate) fn fill(&self, new: Entry) {
        // Relaxed, both: who reaches the table later synchronizes with the caller, by those locks.
        assert_eq!(self.word.load(Ordering::Relaxed), 0, "there is an entry in a table that nobody has used yet");
        self.word.store(self.word(new), Ordering::Relaxed);
    }

    /// Empties the entry; gives its old value.
    pub(crate) fn take(&self) -> Entry {
        if self.order == Order::ZERO {
            return self.entry(self.word.swap(0, Ordering::AcqRel));
        }
        self.update(|entry| (!is_table(entry)).then_some(Entry::NONE)).unwrap_or(Entry::NONE)
    }

    /// Takes out the table in the place of a 2 MiB entry; the caller excludes all others. `None`: there is none.
    pub(super) fn take_table(&self) -> Option<Pfn> {
        // Relaxed: the caller's locks order it, and the flush.
        let entry = self.entry(self.word.load(Ordering::Relaxed));
        is_table(entry).then(|| {
            self.word.store(0, Ordering::Relaxed);
            entry.pfn()
        })
    }

    /// Changes the entry by `change`, retrying on races; does nothing if that gives `None`. Gives the old entry.
    pub(crate) fn update(&self, mut change: impl FnMut(Entry) -> Option<Entry>) -> Option<Entry> {
        let mut old = self.load();
        loop {
            if self.order > Order::ZERO && is_table(old) {
                return None;
            }
            let new = change(old)?;
            match self.swap_if(old, new) {
                Ok(()) => return Some(old),
                Err(now) => old = now,
            }
        }
    }
}

/// Tells whether an entry above the lowest level points to a table.
pub(super) fn is_table(entry: Entry) -> bool {
    entry.is_present() && !entry.has(Flags::HUGE)
}
