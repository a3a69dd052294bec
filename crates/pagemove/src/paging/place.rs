//! The tree's geometry, and a table's place in it, as the key of its frame says it.

use super::Format;
use crate::{
    frame::Key,
    units::{PAGE_SHIFT, VirtAddr},
};

/// Levels of a tree at most, by any format.
const MOST_LEVELS: u32 = 4;
/// Bits of a page number that an entry of each level resolves.
pub(super) const BITS: u32 = 9;

/// Bits of the key's index below the level. A lowest-level table serves 2 MiB of less than 2^48 bytes.
const LEVEL_SHIFT: u32 = 28;

/// The level of a table (0: the lowest), and the first address that it serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) level: u32,
    pub(super) start: VirtAddr,
}

impl Place {
    /// The top-level table's.
    pub(super) const fn root<F: Format>() -> Self {
        Self { level: F::LEVELS - 1, start: VirtAddr::ZERO }
    }

    /// Gives the place of the table of `level` that serves `address`.
    pub(super) fn new(address: VirtAddr, level: u32) -> Self {
        Self::numbered(table_number(address, level), level)
    }

    fn numbered(number: u64, level: u32) -> Self {
        let start = VirtAddr::new(number << (BITS * (level + 1) + PAGE_SHIFT)).unwrap_or_default();
        Self { level, start }
    }

    /// Gives the key of the table there, in the tree of address space number `holder`.
    pub(super) fn key(self, holder: u32) -> Key {
        let number = table_number(self.start, self.level);
        Key { rmap: holder, index: self.level << LEVEL_SHIFT | number as u32 }
    }

    /// Gives the place that a table's key names.
    pub(super) fn of(key: Key) -> Self {
        let level = (key.index >> LEVEL_SHIFT).min(MOST_LEVELS - 1);
        Self::numbered(u64::from(key.index & ((1 << LEVEL_SHIFT) - 1)), level)
    }
}

/// Gives the number of the table of `level` that serves `address`, among all that its level may have.
pub fn table_number(address: VirtAddr, level: u32) -> u64 {
    address.vpn() >> (BITS * (level + 1))
}

/// The first address that a process can't have: the upper half of a top-level table is the kernel's.
pub(super) const fn limit<F: Format>() -> u64 {
    let half = 1 << (BITS * F::LEVELS - 1 + PAGE_SHIFT);
    if half < VirtAddr::LIMIT { half } else { VirtAddr::LIMIT }
}

/// The number of the entry for `address` in a table of `level`.
pub(super) fn index(address: VirtAddr, level: u32) -> usize {
    (address.vpn() >> (BITS * level)) as usize & ((1 << BITS) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paging::X86_64;

    #[test]
    fn a_key_names_one_place() {
        let last = VirtAddr::new(VirtAddr::LIMIT - 1).unwrap_or_default();
        for address in [VirtAddr::ZERO, VirtAddr::ZERO.up(511), VirtAddr::ZERO.up(512), last] {
            for level in 0..X86_64::LEVELS {
                let place = Place::new(address, level);
                assert_eq!(Place::of(place.key(7)), place);
                assert_eq!(place.key(7).rmap, 7);
                assert!(place.start <= address && address.vpn() - place.start.vpn() < 1 << (BITS * (level + 1)));
            }
            assert_eq!(Place::new(address, X86_64::LEVELS - 1), Place::root::<X86_64>());
        }
    }
}
