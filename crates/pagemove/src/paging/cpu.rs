//! A CPU's walk, as its hardware does it: for machines without one of their own, and for checks.

use super::{
    Entry, Flags, Format, PageTable, Slot,
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
    loop {
        // Acquire: the table's entries, or the frame's fields and contents, are at least as new as the entry.
        let seen = word.load(Ordering::Acquire);
        let entry = from_word::<F>(seen, level);
        let is_leaf = level == 0 || entry.has(Flags::HUGE);
        let (marks, set_by_cpu) = if is_leaf {
            (marks_of_leaf(entry, access)?, F::CPU_SETS_MARKS)
        } else {
            (Flags::ACCESSED, F::CPU_MARKS_TABLES)
        };
        if !entry.is_present() {
            return None;
        }
        let marked = entry.with(marks);
        if marked != entry && set_by_cpu {
            // With the word as it was read: a CPU that a flush has not reached yet may walk through what is a table no more, and
            // find words there that are no entry's. Relaxed: what the entry points to is not used anew before a flush, which
            // waits for the walk.
            let new = to_word::<F>(marked, level);
            if word.compare_exchange(seen, new, Ordering::Relaxed, Ordering::Relaxed).is_err() {
                continue;
            }
        } else if marked != entry && is_leaf {
            return None;
        }
        return Some(if is_leaf {
            let storable = marked.has(Flags::WRITE | Flags::DIRTY);
            Found::Page(Translation { first: entry.pfn(), order: Slot::<F>::new(word, level).order(), storable })
        } else {
            Found::Table(entry.pfn())
        });
    }
}

/// The marks that an access sets in a leaf; `None` if the leaf doesn't allow it.
fn marks_of_leaf(entry: Entry, access: Walk) -> Option<Flags> {
    let needed = match access {
        Walk::Load | Walk::Fetch => Flags::PRESENT | Flags::USER,
        Walk::Store => Flags::PRESENT | Flags::USER | Flags::WRITE,
    };
    if !entry.has(needed) || (access == Walk::Fetch && entry.has(Flags::NO_EXECUTE)) {
        return None;
    }
    Some(if access == Walk::Store { Flags::ACCESSED | Flags::DIRTY } else { Flags::ACCESSED })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paging::{Aarch64, Sv39, Sv48, X86_64};

    fn walks_end<F: Format>(word: u64) {
        let address = VirtAddr::new(0).expect("canonical");
        for level in [0, 1] {
            for access in [Walk::Load, Walk::Store, Walk::Fetch] {
                let table = core::array::from_fn(|_| AtomicU64::new(word));
                // Ends, with whatever the word says.
                let found = walk_table::<F>(&table, level, address, access);
                let again = walk_table::<F>(&table, level, address, access);
                assert_eq!(found, again, "{}, level {level}, {access:?}: {word:#x}", F::NAME);
            }
        }
    }

    /// Through a table that is freed already, whose frame somebody writes to: until the flush a CPU may see any word there.
    /// Found by histories with flushes skipped: the walk tried for ever to replace a word that no entry has.
    #[test]
    fn a_walk_ends_at_any_word() {
        let single_bits = (0..64).map(|bit| 1 << bit | 1);
        let products = (0..2000).map(|n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23));
        for word in single_bits.chain(products) {
            walks_end::<X86_64>(word);
            walks_end::<Aarch64>(word);
            walks_end::<Sv39>(word);
            walks_end::<Sv48>(word);
        }
    }
}
