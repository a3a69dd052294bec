//! A slot: what is stored of one page.

use bitflags::bitflags;
use pagemove::units::PAGE_SIZE;

use crate::zsmalloc::ObjectToken;

/// The number of an algorithm that leaves pages as they are.
pub(super) const RAW: u8 = u8::MAX;

/// What is stored.
#[derive(Default)]
pub(super) enum Stored {
    /// Nothing was written, or it was discarded: zeros.
    #[default]
    Nothing,
    /// All words are this one, in two halves (so that a slot is small).
    Same([u32; 2]),
    /// An object, of `length` bytes, made by this algorithm.
    Object { token: ObjectToken, length: u16, algorithm: u8 },
    /// A block of the backing store.
    Backed(u32),
}

bitflags! {
    /// More of a slot.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub(super) struct Flags: u8 {
        /// Not read or written since it was marked.
        const IDLE = 1;
        /// No other algorithm makes it smaller.
        const INCOMPRESSIBLE = 1 << 1;
        /// It's being compressed again, or written back. Whatever changes the slot ends that.
        const WORKED_ON = 1 << 2;
    }
}

/// A slot.
#[derive(Default)]
pub(super) struct Slot {
    pub(super) stored: Stored,
    pub(super) flags: Flags,
}

impl Slot {
    /// Stores something else; gives what was there.
    pub(super) fn replace(&mut self, stored: Stored) -> Stored {
        self.flags = Flags::empty();
        core::mem::replace(&mut self.stored, stored)
    }

    /// Ends work on the slot; false if somebody has changed it meanwhile.
    pub(super) fn end_work(&mut self) -> bool {
        let was_marked = self.flags.contains(Flags::WORKED_ON);
        self.flags -= Flags::WORKED_ON;
        was_marked
    }

    /// Tells whether it's stored as it is, in a whole page.
    pub(super) fn is_huge(&self) -> bool {
        matches!(self.stored, Stored::Object { algorithm: RAW, .. })
    }

    /// Gives its letters (Linux: `block_state`): same, written back, huge, idle, recompressed, not compressible again.
    pub(super) fn letters(&self) -> [char; 6] {
        let recompressed =
            matches!(self.stored, Stored::Object { algorithm, .. } if algorithm != 0 && algorithm != RAW);
        let letter = |is_so, letter| if is_so { letter } else { '.' };
        [
            letter(matches!(self.stored, Stored::Same(_)), 's'),
            letter(matches!(self.stored, Stored::Backed(_)), 'w'),
            letter(self.is_huge(), 'h'),
            letter(self.flags.contains(Flags::IDLE), 'i'),
            letter(recompressed, 'r'),
            letter(self.flags.contains(Flags::INCOMPRESSIBLE), 'n'),
        ]
    }
}

/// Gives the word that a page consists of, if it's only one.
pub(super) fn same_word(page: &[u8; PAGE_SIZE]) -> Option<[u32; 2]> {
    let (words, _) = page.as_chunks::<8>();
    let first = words[0];
    // The last one first: it mostly differs.
    (words[words.len() - 1] == first && words.iter().all(|word| *word == first)).then(|| {
        let (halves, _) = first.as_chunks::<4>();
        [u32::from_ne_bytes(halves[0]), u32::from_ne_bytes(halves[1])]
    })
}

/// Fills a page with such a word.
pub(super) fn fill(page: &mut [u8; PAGE_SIZE], word: [u32; 2]) {
    let (halves, _) = page.as_chunks_mut::<4>();
    halves.iter_mut().zip(word.into_iter().cycle()).for_each(|(half, value)| *half = value.to_ne_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_one_word_are_known() {
        for word in [[0, 0], [1, 2], [u32::MAX, 7]] {
            let mut page = [9; PAGE_SIZE];
            fill(&mut page, word);
            assert_eq!(same_word(&page), Some(word));
            for at in [0, 8, 2000, PAGE_SIZE - 1] {
                page[at] ^= 1;
                assert_eq!(same_word(&page), None, "byte {at} differs");
                page[at] ^= 1;
            }
        }
    }

    #[test]
    fn a_slot_is_small() {
        assert_eq!(size_of::<Slot>(), 16);
    }
}
