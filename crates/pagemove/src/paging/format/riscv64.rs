//! riscv64 (The RISC-V Instruction Set Manual, volume II, version 20240411, chapter 10: Sv39 and Sv48), with Svade: an
//! access whose mark isn't set faults.
//!
//! A CPU may keep that an entry was invalid (without Svvptc). So after a fault that was handled, the machine fences the
//! address on its own CPU.

use super::Format;
use crate::{
    paging::{Entry, Flags},
    units::Pfn,
};

/// Page tables of riscv64 with `LEVELS` levels.
#[derive(Debug, Clone, Copy)]
pub struct Riscv64<const LEVELS: u32>;

/// Three levels: user addresses below 2^38.
pub type Sv39 = Riscv64<3>;
/// Four levels: user addresses below 2^47.
pub type Sv48 = Riscv64<4>;

const VALID: u64 = 1;
const READ: u64 = 1 << 1;
const WRITE: u64 = 1 << 2;
const EXECUTE: u64 = 1 << 3;
const USER: u64 = 1 << 4;
const ACCESSED: u64 = 1 << 6;
const DIRTY: u64 = 1 << 7;
/// Bits 8 and 9 are for software.
const EXCLUSIVE: u64 = 1 << 8;
const SOFT_DIRTY: u64 = 1 << 9;

/// PBMT (Svpbmt): non-cacheable memory; a device's. Reserved without it.
const NON_CACHEABLE: u64 = 1 << 61;
const IO: u64 = 1 << 62;

/// First bit of the frame number.
const PPN_SHIFT: u32 = 10;
const PPN_BITS: u64 = (1 << 44) - 1;

/// The flags that have one bit each.
const BITS: [(Flags, u64); 8] = [
    (Flags::WRITE_COMBINING, NON_CACHEABLE),
    (Flags::UNCACHED, IO),
    (Flags::WRITE, WRITE),
    (Flags::USER, USER),
    (Flags::ACCESSED, ACCESSED),
    (Flags::DIRTY, DIRTY),
    (Flags::EXCLUSIVE, EXCLUSIVE),
    (Flags::SOFT_DIRTY, SOFT_DIRTY),
];

impl<const LEVELS: u32> Format for Riscv64<LEVELS> {
    const NAME: &'static str = if LEVELS == 3 { "riscv64, Sv39" } else { "riscv64, Sv48" };
    const LEVELS: u32 = {
        assert!(LEVELS == 3 || LEVELS == 4, "riscv64 has Sv39 and Sv48 here");
        LEVELS
    };
    const FRAMES: u64 = Pfn::LIMIT;
    const CPU_SETS_MARKS: bool = false;
    const CPU_MARKS_TABLES: bool = false;

    fn encode(entry: Entry, level: u32) -> u64 {
        let ppn = entry.pfn().get() << PPN_SHIFT;
        let is_leaf = level == 0 || entry.has(Flags::HUGE);
        if !is_leaf {
            // A leaf is what has any right; the marks of other entries must be clear.
            return ppn | VALID;
        }
        let execute = if entry.has(Flags::NO_EXECUTE) { 0 } else { EXECUTE };
        let bits = BITS.iter().filter(|(flag, _)| entry.has(*flag)).fold(0, |bits, (_, bit)| bits | bit);
        ppn | VALID | READ | execute | bits
    }

    fn decode(word: u64, level: u32) -> Entry {
        let pfn = Pfn::new(word >> PPN_SHIFT & PPN_BITS);
        if word & (READ | WRITE | EXECUTE) == 0 {
            return Entry::table(pfn);
        }
        let mut flags: Flags = BITS.iter().filter(|(_, bit)| word & bit != 0).map(|&(flag, _)| flag).collect();
        flags.set(Flags::NO_EXECUTE, word & EXECUTE == 0);
        flags.set(Flags::HUGE, level > 0);
        Entry::present(pfn, flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words made by hand from the manual's figure of an entry.
    #[test]
    fn words_are_as_the_manual_says() {
        let page = Entry::present(Pfn::new(0x12345), Flags::USER | Flags::WRITE | Flags::NO_EXECUTE);
        // PPN; U, W, R, V.
        assert_eq!(Sv39::encode(page, 0), 0x48d_1417);
        assert_eq!(Sv39::encode(page.with(Flags::ACCESSED | Flags::DIRTY), 0), 0x48d_14d7);
        assert_eq!(Sv39::encode(page.with(Flags::WRITE_COMBINING), 0), 1 << 61 | 0x48d_1417);
        assert_eq!(Sv39::encode(page.with(Flags::UNCACHED), 0), 1 << 62 | 0x48d_1417);
        let code = Entry::present(Pfn::new(0x12200), Flags::USER | Flags::HUGE | Flags::ACCESSED);
        assert_eq!(Sv48::encode(code, 1), 0x488_005b);
        assert_eq!(Sv48::encode(Entry::table(Pfn::new(0x12345)), 1), 0x48d_1401);
    }
}
