//! Formats of page tables: how a CPU wants the words of entries.
//!
//! The rest of the engine knows only [`Entry`], the same for all. A format converts it to the word in the table, and back.
//! An absent entry (empty, or a migration entry) is stored as it is, since in all formats bit 0 says whether the CPU
//! uses the other bits.

mod aarch64;
mod riscv64;
mod x86_64;

pub use aarch64::Aarch64;
pub use riscv64::{Riscv64, Sv39, Sv48};
pub use x86_64::X86_64;

use super::Entry;

/// A format of page tables whose tables have 512 entries of 8 bytes, with base pages of 4 KiB.
///
/// The type parameter of what reads or writes entries: the page table, its cursor, the address space.
///
/// The engine changes the frame of an entry by break, flush, make in every format, and the size of its page likewise
/// (aarch64 requires both: Arm ARM, D8.17). Only rights and marks change in place.
pub trait Format: Copy + Send + Sync + 'static {
    /// The name of the format, in the field's words.
    const NAME: &'static str;

    /// Levels of a tree: 3 or 4.
    const LEVELS: u32;

    /// The first frame that no entry can name; at most [`Pfn::LIMIT`](crate::units::Pfn::LIMIT).
    const FRAMES: u64;

    /// The CPU sets accessed and dirty marks of leaves, in one step with its check of the rights. Otherwise an access
    /// whose mark isn't set faults, and the fault handler sets it.
    const CPU_SETS_MARKS: bool;

    /// The CPU also sets accessed marks of entries for tables.
    const CPU_MARKS_TABLES: bool;

    /// Gives the word of a present entry in a table of `level`; 0 is the lowest. Above it a leaf has
    /// [`Flags::HUGE`](super::Flags::HUGE), and an entry without it is for a table.
    ///
    /// Bit 0 of the word is set. The inverse of [`Self::decode`]: an entry becomes one word, and all words that the CPU
    /// makes of that one by its marks are words of entries too. Otherwise an entry that is read could not be compared and
    /// swapped.
    fn encode(entry: Entry, level: u32) -> u64;

    /// Gives the entry of a word with bit 0 set in a table of `level`.
    fn decode(word: u64, level: u32) -> Entry;
}

/// Gives the word of any entry in a table of `level`.
#[inline]
pub(super) fn to_word<F: Format>(entry: Entry, level: u32) -> u64 {
    if entry.is_present() { F::encode(entry, level) } else { entry.bits() }
}

/// Gives the entry of any word in a table of `level`.
#[inline]
pub(super) fn from_word<F: Format>(word: u64, level: u32) -> Entry {
    let stored = Entry::from_bits(word);
    if stored.is_present() { F::decode(word, level) } else { stored }
}

/// Checks that each bit of an entry has a bit of the word: for the formats that move bits.
#[cfg(test)]
mod tests {
    use super::*;
    use crate::{paging::Flags, units::Pfn};

    /// All present entries that the engine makes, by level: every set of flags, some frames up to `last`.
    fn entries(last: u64) -> impl Iterator<Item = (Entry, u32)> {
        let free = Flags::all() - Flags::PRESENT - Flags::MIGRATION - Flags::HUGE;
        let sets = (0..1u64 << free.iter().count()).map(move |set| {
            free.iter().enumerate().filter(|(bit, _)| set >> bit & 1 == 1).map(|(_, flag)| flag).collect::<Flags>()
        });
        let frames = [0, 1, 512, 0x12_3400, last].map(Pfn::new);
        sets.flat_map(move |flags| {
            frames
                .into_iter()
                .flat_map(move |pfn| [(Entry::present(pfn, flags), 0), (Entry::present(pfn, flags | Flags::HUGE), 1)])
        })
    }

    fn check<F: Format>() {
        let mut words = alloc::collections::BTreeMap::new();
        for (entry, level) in entries((F::FRAMES - 1) & !511) {
            let word = to_word::<F>(entry, level);
            assert_eq!(word & 1, 1, "{}: {entry:?}", F::NAME);
            assert_eq!(from_word::<F>(word, level), entry, "{}: {word:#x}", F::NAME);
            assert_eq!(words.insert((word, level), entry), None, "{}: two entries for {word:#x}", F::NAME);
            let blocked = entry.blocked();
            assert_eq!(from_word::<F>(to_word::<F>(blocked, level), level), blocked, "{}", F::NAME);
        }
        for level in 1..F::LEVELS {
            let table = Entry::table(Pfn::new(F::FRAMES - 1));
            assert_eq!(from_word::<F>(to_word::<F>(table, level), level), table, "{}: a table at {level}", F::NAME);
        }
        assert_eq!((to_word::<F>(Entry::NONE, 0), from_word::<F>(0, 1)), (0, Entry::NONE));
    }

    #[test]
    fn an_entry_and_its_word_are_one() {
        check::<X86_64>();
        check::<Aarch64>();
        check::<Sv39>();
        check::<Sv48>();
    }
}
