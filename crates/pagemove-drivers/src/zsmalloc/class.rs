//! Size classes: sizes in steps of 16 bytes, and for each how many pages a zspage has. Pure.
//!
//! A zspage is a chain of pages that is cut into objects of one size, so that little is left at its end. Neighbouring sizes with as many
//! pages and objects are one class (Linux: `mm/zsmalloc.c`).

use alloc::vec::Vec;
use core::ops::RangeInclusive;

use pagemove::units::PAGE_SIZE;

/// The smallest object's size.
const SMALLEST: usize = 32;
const STEP: usize = 16;

/// Lengths of a chain that can be chosen.
pub(super) const CHAINS: RangeInclusive<u32> = 1..=16;
pub(super) const LONGEST: usize = *CHAINS.end() as usize;

/// A class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SizeClass {
    /// Bytes of an object.
    pub size: u32,
    /// Pages of a zspage.
    pub pages: u32,
    /// Objects of a zspage.
    pub objects: u32,
}

impl SizeClass {
    /// Gives the class of objects of `size` bytes: the shortest chain of at most `chain` pages of those that leave least over.
    fn of(size: usize, chain: u32) -> Self {
        let bytes = |pages: u32| pages as usize * PAGE_SIZE;
        let pages = (1..=chain).min_by_key(|&pages| bytes(pages) % size).unwrap_or(1);
        Self { size: size as u32, pages, objects: (bytes(pages) / size) as u32 }
    }

    fn is_like(&self, other: &Self) -> bool {
        (self.pages, self.objects) == (other.pages, other.objects)
    }
}

/// All classes, from the smallest on.
pub(super) struct Classes {
    all: Vec<SizeClass>,
    /// By steps of a length: the class's number.
    by_length: Vec<u8>,
}

impl Classes {
    pub(super) fn new(chain: u32) -> Self {
        let (mut all, mut by_length): (Vec<SizeClass>, _) = (Vec::new(), Vec::new());
        let sizes = (SMALLEST..=PAGE_SIZE).step_by(STEP);
        for class in sizes.map(|size| SizeClass::of(size, chain)) {
            match all.last_mut().filter(|last| last.is_like(&class)) {
                // Smaller objects take the places of larger ones.
                Some(last) => *last = class,
                None => all.push(class),
            }
            by_length.push((all.len() - 1) as u8);
        }
        Self { all, by_length }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &SizeClass> {
        self.all.iter()
    }

    pub(super) fn get(&self, number: usize) -> &SizeClass {
        &self.all[number]
    }

    /// Gives the number of the class for `length` bytes; `None` if there is no object of no byte, or of so many.
    pub(super) fn number_for(&self, length: usize) -> Option<usize> {
        let step = length.saturating_sub(SMALLEST).div_ceil(STEP);
        self.by_length.get(step).filter(|_| length > 0).map(|&number| usize::from(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The second-largest sizes are those of Linux' documentation. (It counts 123 and 191 classes for 8 and 16 pages, since it has the counts of
    /// an older rule, by whole percents.)
    #[test]
    fn classes_are_linuxs() {
        for (chain, count, second_largest) in [(4, 69, 3264), (8, 119, 3632), (16, 192, 3840)] {
            let classes = Classes::new(chain);
            assert_eq!(classes.all.len(), count, "chains of {chain}");
            assert_eq!(classes.all[count - 2].size, second_largest, "chains of {chain}");
        }
    }

    #[test]
    fn each_length_fits_and_the_next_smaller_class_does_not() {
        for chain in CHAINS {
            let classes = Classes::new(chain);
            assert!(classes.iter().is_sorted_by_key(|class| class.size));
            for length in 1..=PAGE_SIZE {
                let number = classes.number_for(length).expect("a class");
                assert!(classes.get(number).size as usize >= length);
                assert!(number == 0 || (classes.get(number - 1).size as usize) < length);
            }
            assert_eq!((classes.number_for(0), classes.number_for(PAGE_SIZE + 1)), (None, None));
        }
    }

    #[test]
    fn a_zspage_has_room_for_its_objects_and_not_for_one_more() {
        for chain in CHAINS {
            for class in Classes::new(chain).iter() {
                let bytes = class.pages * PAGE_SIZE as u32;
                assert!(class.pages <= chain && class.size * class.objects <= bytes);
                assert!(class.size * (class.objects + 1) > bytes);
            }
        }
    }
}
