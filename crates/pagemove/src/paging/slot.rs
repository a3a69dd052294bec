//! A leaf entry's place in the tree, and the calls that change it: each one compare-and-swap, or swap.

use super::{Entry, Flags};
use crate::{
    sync::{AtomicU64, Ordering},
    units::{Order, Pfn, VirtAddr},
};

/// A leaf entry's location in the tree.
///
/// A split of a folio puts a table in the place of a 2 MiB entry, at any time except under the exclusive lock of the
/// folio's reverse map. The calls then leave the table alone: `load` and `take` give the empty entry.
#[derive(Clone, Copy)]
pub struct Slot<'a> {
    pub(super) word: &'a AtomicU64,
    pub(super) order: Order,
}

impl Slot<'_> {
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
        let entry = Entry::from_bits(self.word.load(Ordering::Acquire));
        if self.order > Order::ZERO && is_table(entry) { Entry::NONE } else { entry }
    }

    /// Changes the entry from `old` to `new`; gives the current entry if it is no longer `old`.
    pub(crate) fn swap_if(&self, old: Entry, new: Entry) -> Result<(), Entry> {
        // AcqRel: Release publishes the frame's fields and contents to walks; Acquire as in `load`. A failed swap may
        // be relaxed: its result is only compared, or swapped again.
        self.word
            .compare_exchange(old.bits(), new.bits(), Ordering::AcqRel, Ordering::Relaxed)
            .map(drop)
            .map_err(Entry::from_bits)
    }

    /// Changes the entry from `old` to `new`; nobody else may change it meanwhile.
    pub(crate) fn replace(&self, old: Entry, new: Entry) {
        let swapped = self.swap_if(old, new);
        assert_eq!(swapped, Ok(()), "an entry changed under its holder");
    }

    /// Empties the entry; gives its old value.
    pub(crate) fn take(&self) -> Entry {
        if self.order == Order::ZERO {
            return Entry::from_bits(self.word.swap(0, Ordering::AcqRel));
        }
        self.update(|entry| (!is_table(entry)).then_some(Entry::NONE)).unwrap_or(Entry::NONE)
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
