//! Moves of page tables, while processes run on them.
//!
//! | step | what happens |
//! | --- | --- |
//! | exclude | the address space's lock and that of walks are held exclusively: only CPUs use the tables |
//! | block | the entry that points to the table becomes a migration entry: accesses by it fault, and wait for the lock |
//! | flush | no CPU has the entry cached, or walks through the table, any more |
//! | copy | so nobody changes an entry meanwhile, not even by a mark |
//! | rebind | the entry points to the copy |
//!
//! Translations stay in TLBs throughout, so a program goes on unless it misses. A top-level table needs no block: its entries
//! point to tables only, so CPUs set no mark in it that counts; the machine switches them to the copy.

use core::cmp::Reverse;

use super::{
    Entry, Flags, FlushDebt, Format, PageTable,
    format::{from_word, to_word},
    place::{Place, index},
    slot::is_table,
};
use crate::{
    folio::Migration,
    report::Reason,
    sync::{AtomicU64, Ordering},
    units::Pfn,
};

/// An address space, as movers of page tables see it.
pub(crate) trait TableHolder: Send + Sync {
    /// Moves tables of its tree, each to its destination, which has the table's kind and key already. Those that stay get
    /// a reason; all do, with [`Reason::Locked`], if its locks can't be had at once.
    fn move_tables(&self, tables: &mut [Migration]);
}

impl<F: Format> PageTable<F> {
    const ROOT: Place = Place::root::<F>();

    /// Moves tables of this tree; the caller holds the address space exclusively. Can't fail for a table once its entry is
    /// blocked. Changes the order of `tables`.
    pub(crate) fn move_tables(&self, tables: &mut [Migration]) {
        let mut debt = FlushDebt::new(self.physical());
        debt.reserve(tables.len());
        // Nor is this one waited for, behind a walk for a long batch.
        let Some(_alone) = self.walks.try_write() else {
            tables.iter_mut().for_each(|table| table.stay(Reason::Locked));
            return;
        };
        // The upper ones first, in each step. A table below another one of the batch is then rebound in the copy.
        tables.sort_unstable_by_key(|table| Reverse(Place::of(table.key).level));
        for table in tables.iter_mut() {
            self.block_table(table, &mut debt);
        }
        debt.pay();
        for table in tables.iter().filter(|table| !table.stays()) {
            let entries = if Place::of(table.key) == Self::ROOT { USERS_ENTRIES } else { ENTRIES };
            self.copy_table(table, entries);
        }
        for table in tables.iter().filter(|table| !table.stays()) {
            if Place::of(table.key) == Self::ROOT {
                self.root_of().replace(table.dst);
            } else {
                self.rebind_table(table);
            }
        }
    }

    fn block_table(&self, table: &mut Migration, debt: &mut FlushDebt<'_>) {
        let place = Place::of(table.key);
        if place == Self::ROOT {
            if self.root() != table.src {
                table.stay(Reason::Raced);
            }
            return;
        }
        let blocked = self.entry_for(place).is_some_and(|word| {
            // The key was read before the locks were taken, and may be another space's by now.
            let is_ours = |entry: Entry| table.key.rmap == self.holder && is_table(entry) && entry.pfn() == table.src;
            // Again if a CPU sets the accessed mark meanwhile. Relaxed: nobody reads the entry before it's rebound, and
            // the flush orders it before the copy.
            let (read, write) = (from_word::<F>, to_word::<F>);
            let block = |word| {
                let entry = Some(read(word, place.level + 1)).filter(|&entry| is_ours(entry))?;
                Some(write(entry.blocked(), place.level + 1))
            };
            word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, block).is_ok()
        });
        if blocked {
            debt.owe_tables_changed(self.root_of(), place.start);
        } else {
            // Freed meanwhile, or not linked yet.
            table.stay(Reason::Raced);
        }
    }

    fn copy_table(&self, table: &Migration, entries: usize) {
        let (from, to) = (self.physical().ram_words(table.src), self.physical().ram_words(table.dst));
        for (number, (from, to)) in from.iter().zip(to).enumerate() {
            // Relaxed: the flush orders CPUs' marks before this, and the rebind publishes it.
            let word = if number < entries { from.load(Ordering::Relaxed) } else { 0 };
            to.store(word, Ordering::Relaxed);
        }
    }

    fn rebind_table(&self, table: &Migration) {
        let place = Place::of(table.key);
        let Some(word) = self.entry_for(place) else { panic!("a blocked page table lost its entry") };
        // Relaxed: only the holder of these locks changes a blocked entry.
        let entry = Self::entry(word, place.level + 1, Ordering::Relaxed);
        assert!(is_blocked_table(entry) && entry.pfn() == table.src, "the entry of a blocked page table changed");
        // Release publishes the copy to walks.
        word.store(to_word::<F>(entry.unblocked(table.dst), place.level + 1), Ordering::Release);
    }

    /// Finds the entry that points to the table at `place`, through tables that may be blocked.
    fn entry_for(&self, place: Place) -> Option<&AtomicU64> {
        if place.level >= Self::TOP {
            return None;
        }
        let mut table: Pfn = self.root();
        for level in (place.level + 2..F::LEVELS).rev() {
            // Relaxed: the locks order all changes of tables.
            let entry = Self::entry(self.word(table, index(place.start, level)), level, Ordering::Relaxed);
            if !is_table(entry) && !is_blocked_table(entry) {
                return None;
            }
            table = entry.pfn();
        }
        Some(self.word(table, index(place.start, place.level + 1)))
    }
}

/// Entries of a table, and those of a top-level table that aren't the kernel's.
const ENTRIES: usize = 512;
const USERS_ENTRIES: usize = 256;

fn is_blocked_table(entry: Entry) -> bool {
    entry.is_migration() && !entry.has(Flags::HUGE)
}
