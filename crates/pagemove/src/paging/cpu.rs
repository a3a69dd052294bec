//! A CPU's walk, as its hardware does it: for machines without one of their own, and for checks.

use super::{
    Flags, Format, PageTable, Slot,
    format::{from_word, to_word},
    place::index,
};
use crate::{
    sync::{AtomicU64, Ordering},
    units::{Order, Pfn, VirtAddr},
};

/// The kind of access that a CPU walks the tables for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Walk {
    /// A load.
    Load,
    /// A store.
    Store,
    /// Fetching an instruction.
    Fetch,
}

/// The result of a CPU's walk, kept in its TLB until flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Translation {
    /// First frame of the page.
    pub first: Pfn,
    /// Size of the page: order 0 or 9.
    pub order: Order,
    /// A store needs no further walk: it is allowed, and the dirty mark is set.
    pub storable: bool,
}

/// What a CPU finds in one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// The frame of a table, one level down.
    Table(Pfn),
    /// The page.
    Page(Translation),
}

impl<F: Format> PageTable<F> {
    /// Walks like a CPU: checks the rights, and sets the accessed marks, and for a store the dirty mark, atomically with
    /// the read of each entry. `None`: the access faults.
    ///
    /// # Safety
    /// The caller acts for a CPU of the machine: no flush and no move of the root ends between the walk's begin and its
    /// end, so that no table on the way is freed meanwhile.
    #[allow(unsafe_code, reason = "marks are written through tables that only the machine's flushes keep")]
    pub unsafe fn translate(&self, address: VirtAddr, access: Walk) -> Option<Translation> {
        let (mut table, mut level) = (self.root(), Self::TOP);
        loop {
            match walk_table::<F>(self.physical().ram_words(table), level, address, access)? {
                Found::Page(page) => return Some(page),
                Found::Table(lower) => (table, level) = (lower, level - 1),
            }
        }
    }
}

/// Does one step of a CPU's walk, in a table of `level`. A CPU may begin with a table that it has kept from an earlier walk.
/// `None`: the access faults.
pub fn walk_table<F: Format>(table: &[AtomicU64; 512], level: u32, address: VirtAddr, access: Walk) -> Option<Found> {
    if address.get() >= PageTable::<F>::LIMIT {
        return None;
    }
    let word = &table[index(address, level)];
    let mut entry = from_word::<F>(word.load(Ordering::Acquire), level);
    loop {
        if level == 0 || entry.has(Flags::HUGE) {
            return translate(Slot::<F>::new(word, level), access).map(Found::Page);
        }
        if !entry.is_present() {
            return None;
        }
        let marked = entry.with(Flags::ACCESSED);
        if marked == entry || !F::CPU_MARKS_TABLES {
            return Some(Found::Table(entry.pfn()));
        }
        // Relaxed: until the walk ends the entry may become absent, but not point to another table.
        let (old, new) = (to_word::<F>(entry, level), to_word::<F>(marked, level));
        match word.compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return Some(Found::Table(entry.pfn())),
            Err(now) => entry = from_word::<F>(now, level),
        }
    }
}

/// Does what a CPU's walk does at the leaf: see [`walk_table`].
fn translate<F: Format>(slot: Slot<'_, F>, access: Walk) -> Option<Translation> {
    let mut entry = slot.load();
    loop {
        let needed = match access {
            Walk::Load => Flags::PRESENT | Flags::USER,
            Walk::Store => Flags::PRESENT | Flags::USER | Flags::WRITE,
            Walk::Fetch => Flags::PRESENT | Flags::USER,
        };
        if !entry.has(needed) || (access == Walk::Fetch && entry.has(Flags::NO_EXECUTE)) {
            return None;
        }
        let marks = if access == Walk::Store { Flags::ACCESSED | Flags::DIRTY } else { Flags::ACCESSED };
        let marked = entry.with(marks);
        if marked != entry && !F::CPU_SETS_MARKS {
            return None;
        }
        if marked == entry || slot.swap_if(entry, marked).is_ok() {
            let storable = marked.has(Flags::WRITE | Flags::DIRTY);
            return Some(Translation { first: marked.pfn(), order: slot.order(), storable });
        }
        entry = slot.load();
    }
}
