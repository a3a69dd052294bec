//! aarch64, 4 KiB granule, 48-bit addresses (Arm ARM DDI 0487, D8.3: VMSAv8-64 descriptors), with hardware management of
//! the access flag and dirty state (FEAT_HAFDBS): the machine sets `HA` and `HD` in `TCR_EL1`.
//!
//! A writable page that is clean is read-only with DBM; the CPU's store makes it writable. So such a page is dirty if it
//! isn't read-only. The dirty mark of a page without the right to write is a bit for software.

use super::Format;
use crate::{
    paging::{Entry, Flags},
    units::{PAGE_SHIFT, Pfn},
};

/// Page tables of aarch64 with a 4 KiB granule and four levels, as `TTBR0_EL1` names them.
///
/// Attribute 0 of `MAIR_EL1` must be normal memory, write-back; for mappings of devices 1 normal memory, non-cacheable, and 2
/// Device-nGnRE.
#[derive(Debug, Clone, Copy)]
pub struct Aarch64;

const VALID: u64 = 1;
/// A table, or at the lowest level a page; otherwise a block.
const TABLE_OR_PAGE: u64 = 1 << 1;
/// AttrIndx: the attribute's number; each is one bit.
const ATTRIBUTE_1: u64 = 1 << 2;
const ATTRIBUTE_2: u64 = 2 << 2;
/// AP[1]: EL0 may access it.
const USER: u64 = 1 << 6;
/// AP[2].
const READ_ONLY: u64 = 1 << 7;
/// SH: inner shareable, as all normal memory of several CPUs.
const INNER_SHAREABLE: u64 = 0b11 << 8;
const ACCESSED: u64 = 1 << 10;
/// nG: the translation is of one ASID.
const NOT_GLOBAL: u64 = 1 << 11;
/// Dirty bit modifier: a store may clear [`READ_ONLY`].
const DBM: u64 = 1 << 51;
const PRIVILEGED_EXECUTE_NEVER: u64 = 1 << 53;
const USER_EXECUTE_NEVER: u64 = 1 << 54;
/// Bits 55 to 58 are for software.
const DIRTY: u64 = 1 << 55;
const EXCLUSIVE: u64 = 1 << 56;
const SOFT_DIRTY: u64 = 1 << 57;

const ADDRESS: u64 = 0x0000_ffff_ffff_f000;

/// The flags that have one bit each.
const BITS: [(Flags, u64); 7] = [
    (Flags::WRITE_COMBINING, ATTRIBUTE_1),
    (Flags::UNCACHED, ATTRIBUTE_2),
    (Flags::USER, USER),
    (Flags::ACCESSED, ACCESSED),
    (Flags::EXCLUSIVE, EXCLUSIVE),
    (Flags::SOFT_DIRTY, SOFT_DIRTY),
    (Flags::NO_EXECUTE, USER_EXECUTE_NEVER),
];

impl Format for Aarch64 {
    const NAME: &'static str = "aarch64, 4 KiB granule";
    const LEVELS: u32 = 4;
    const FRAMES: u64 = 1 << (48 - PAGE_SHIFT);
    const CPU_SETS_MARKS: bool = true;
    const CPU_MARKS_TABLES: bool = false;

    fn encode(entry: Entry, level: u32) -> u64 {
        let address = entry.pfn().address().get();
        let is_leaf = level == 0 || entry.has(Flags::HUGE);
        if !is_leaf {
            return address | VALID | TABLE_OR_PAGE;
        }
        let kind = if level == 0 { VALID | TABLE_OR_PAGE } else { VALID };
        let dirty = match (entry.has(Flags::WRITE), entry.has(Flags::DIRTY)) {
            (true, true) => DBM,
            (true, false) => DBM | READ_ONLY,
            (false, true) => READ_ONLY | DIRTY,
            (false, false) => READ_ONLY,
        };
        let fixed = INNER_SHAREABLE | NOT_GLOBAL | PRIVILEGED_EXECUTE_NEVER;
        let bits = BITS.iter().filter(|(flag, _)| entry.has(*flag)).fold(0, |bits, (_, bit)| bits | bit);
        address | kind | dirty | fixed | bits
    }

    fn decode(word: u64, level: u32) -> Entry {
        let pfn = Pfn::new((word & ADDRESS) >> 12);
        if level > 0 && word & TABLE_OR_PAGE != 0 {
            return Entry::table(pfn);
        }
        let mut flags: Flags = BITS.iter().filter(|(_, bit)| word & bit != 0).map(|&(flag, _)| flag).collect();
        flags.set(Flags::WRITE, word & DBM != 0);
        flags.set(Flags::DIRTY, word & READ_ONLY == 0 || word & DIRTY != 0);
        flags.set(Flags::HUGE, level > 0);
        Entry::present(pfn, flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words made by hand from the manual's figures of descriptors.
    #[test]
    fn words_are_as_the_manual_says() {
        let page = Entry::present(Pfn::new(0x12345), Flags::USER | Flags::WRITE | Flags::NO_EXECUTE);
        // UXN, PXN, DBM; output address; nG, inner shareable; AP: read-only, EL0; page.
        assert_eq!(Aarch64::encode(page, 0), 0x0068_0000_1234_5bc3);
        // Accessed and stored to: AF, and not read-only.
        assert_eq!(Aarch64::encode(page.with(Flags::ACCESSED | Flags::DIRTY), 0), 0x0068_0000_1234_5f43);
        // AttrIndx.
        assert_eq!(Aarch64::encode(page.with(Flags::WRITE_COMBINING), 0), 0x0068_0000_1234_5bc7);
        assert_eq!(Aarch64::encode(page.with(Flags::UNCACHED), 0), 0x0068_0000_1234_5bcb);
        let block = Entry::present(Pfn::new(0x12200), Flags::USER | Flags::ACCESSED | Flags::HUGE);
        assert_eq!(Aarch64::encode(block, 1), 0x0020_0000_1220_0fc1);
        assert_eq!(Aarch64::encode(Entry::table(Pfn::new(0x12345)), 1), 0x1234_5003);
    }

    /// What the CPU does to a word by a store: it is the word of the entry with the marks.
    #[test]
    fn a_store_makes_the_word_of_a_dirty_entry() {
        let clean = Entry::present(Pfn::new(7), Flags::USER | Flags::WRITE);
        let stored = (Aarch64::encode(clean, 0) & !READ_ONLY) | ACCESSED;
        assert_eq!(stored, Aarch64::encode(clean.with(Flags::ACCESSED | Flags::DIRTY), 0));
    }
}
