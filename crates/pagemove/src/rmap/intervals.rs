//! Ranges of an object's pages, each with a value and a name, found by the pages.
//!
//! In one B-tree, by the power of two of the length and then by the first page: what overlaps given pages lies, for each power of two
//! that occurs, in one range of first pages. It grows in small pieces: a kernel's heap couldn't give an interval tree that is one
//! piece (20,000 mappings: 2 MiB) when memory is full.

use alloc::collections::BTreeMap;
use core::ops::Range;

/// What tells values of the same range apart.
pub(super) type Name = (u64, u64);

/// Power of two of the length, first page, name.
type Place = (u8, u32, Name);

/// The map.
pub(super) struct Intervals<T> {
    /// The end, and the value.
    all: BTreeMap<Place, (u32, T)>,
    /// A bit for each power of two that occurs.
    lengths: u32,
}

impl<T> Intervals<T> {
    pub(super) const fn new() -> Self {
        Self { all: BTreeMap::new(), lengths: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// Adds a range, which has at least one page.
    pub(super) fn insert(&mut self, pages: Range<u32>, name: Name, value: T) {
        let place = place_of(&pages, name);
        self.lengths |= 1 << place.0;
        let before = self.all.insert(place, (pages.end, value));
        debug_assert!(before.is_none(), "a mapping was added twice");
    }

    /// Removes a range; tells whether it was there.
    pub(super) fn remove(&mut self, pages: Range<u32>, name: Name) -> bool {
        let place = place_of(&pages, name);
        let removed = self.all.remove(&place);
        if self.of_length(place.0, 0..u32::MAX).next().is_none() {
            self.lengths &= !(1 << place.0);
        }
        removed.is_some_and(|(end, _)| end == pages.end)
    }

    /// Gives all ranges.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Range<u32>, &T)> {
        self.all.iter().map(|(&(_, start, _), (end, value))| (start..*end, value))
    }

    /// Gives the ranges that have a page of `pages`.
    pub(super) fn overlapping(&self, pages: Range<u32>) -> impl Iterator<Item = (Range<u32>, &T)> {
        let lengths = (0..32u8).filter(|&power| self.lengths >> power & 1 == 1);
        lengths.flat_map(move |power| {
            let longest = u32::MAX >> (31 - power);
            // One that begins earlier ends before the first page.
            let starts = pages.start.saturating_sub(longest - 1)..pages.end;
            self.of_length(power, starts).filter(move |(range, _)| range.end > pages.start)
        })
    }

    /// Gives the ranges whose length has this power of two, and that begin in `starts`.
    fn of_length(&self, power: u8, starts: Range<u32>) -> impl Iterator<Item = (Range<u32>, &T)> {
        let places = (power, starts.start, (0, 0))..(power, starts.end, (0, 0));
        self.all.range(places).map(|(&(_, start, _), (end, value))| (start..*end, value))
    }
}

fn place_of(pages: &Range<u32>, name: Name) -> Place {
    debug_assert!(pages.start < pages.end, "a mapping has a page");
    ((pages.end - pages.start).ilog2() as u8, pages.start, name)
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use rand::{RngExt, SeedableRng, rngs::SmallRng};

    use super::*;

    /// Against a list, with ranges of all lengths, also at both ends, and the same range several times.
    #[test]
    fn a_list_finds_the_same() {
        for seed in 0..40 {
            let mut random = SmallRng::seed_from_u64(seed);
            let (mut map, mut list) = (Intervals::new(), Vec::new());
            for name in 0..200u64 {
                let power = random.random_range(0..32);
                let length = 1 + random.random_range(0..1u32 << power);
                let free = u32::MAX - length;
                let start = match random.random_range(0..8) {
                    0 => 0,
                    1 => free,
                    _ => random.random_range(0..=free),
                };
                let pages = start..start + length;
                for copy in 0..=random.random_range(0..2) {
                    map.insert(pages.clone(), (name, copy), (name, copy));
                    list.push((pages.clone(), (name, copy)));
                }
                if random.random_range(0..3) == 0 {
                    let (pages, name) = list.swap_remove(random.random_range(0..list.len()));
                    assert!(map.remove(pages.clone(), name), "seed {seed}");
                    assert!(!map.remove(pages, name), "seed {seed}");
                }
                let at = random.random_range(0..u32::MAX);
                let end = at.saturating_add(random.random_range(1..=1 << 31));
                for wanted in [at..at + 1, at..end, 0..1, u32::MAX - 1..u32::MAX] {
                    let mut found: Vec<_> =
                        map.overlapping(wanted.clone()).map(|(pages, &name)| (pages, name)).collect();
                    let mut expected = list.clone();
                    expected.retain(|(pages, _)| pages.start < wanted.end && wanted.start < pages.end);
                    let key = |(pages, name): &(Range<u32>, Name)| (pages.start, pages.end, *name);
                    found.sort_by_key(key);
                    expected.sort_by_key(key);
                    assert_eq!(found, expected, "seed {seed}, {wanted:?}");
                }
                assert_eq!((map.len(), map.iter().count()), (list.len(), list.len()));
            }
        }
    }

    #[test]
    fn lengths_are_forgotten() {
        let mut map = Intervals::new();
        for (name, length) in [1, 2, 3, 1 << 31].into_iter().enumerate() {
            map.insert(5..5 + length, (name as u64, 0), ());
        }
        assert_eq!(map.lengths, 1 << 31 | 0b11);
        assert!(map.remove(5..7, (1, 0)));
        assert_eq!(map.lengths, 1 << 31 | 0b11, "another one has this power of two");
        assert!(map.remove(5..8, (2, 0)));
        assert_eq!(map.overlapping(6..7).map(|(pages, ())| pages.end).collect::<Vec<_>>(), [5 + (1 << 31)]);
        assert_eq!(map.lengths, 1 << 31 | 1);
    }
}
