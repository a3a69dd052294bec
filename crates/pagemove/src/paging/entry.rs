//! An entry of a page table as the engine sees it, whatever its format; and migration entries.
//!
//! The bits are those of x86-64, so that in this format the word is the entry itself. See [`super::Format`].
//!
//! A migration entry is a present entry with `PRESENT` cleared and `MIGRATION` set. The other bits (write, accessed,
//! dirty, soft-dirty, exclusive, no-execute) are kept for when it becomes present again. Its frame number is stored
//! inverted, because CPUs with the L1 terminal fault speculatively load through entries that aren't present.

use bitflags::bitflags;

use crate::units::Pfn;

bitflags! {
    /// Bits of an entry. x86-64 ignores bits 9 to 11; all formats have such bits for the engine's use.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Flags: u64 {
        /// The CPU may use the entry.
        const PRESENT = 1;
        /// Stores are allowed.
        const WRITE = 1 << 1;
        /// User mode may use the entry.
        const USER = 1 << 2;
        /// Of a device's frames: stores are gathered. x86-64: PAT entry 1 (PWT), which the kernel sets to write-combining, as Linux does;
        /// after a reset it is write-through. aarch64: attribute 1 of `MAIR_EL1`, normal memory, non-cacheable. riscv64: Svpbmt, NC.
        const WRITE_COMBINING = 1 << 3;
        /// Of a device's frames: uncached. x86-64: PAT entry 2 (PCD). aarch64: attribute 2, Device-nGnRE. riscv64: Svpbmt, IO.
        const UNCACHED = 1 << 4;
        /// The CPU has used the entry.
        const ACCESSED = 1 << 5;
        /// The CPU has stored through the entry.
        const DIRTY = 1 << 6;
        /// In a second-level entry: maps 2 MiB instead of a table.
        const HUGE = 1 << 7;
        /// The page is anonymous and mapped only here: a store needs no copy.
        const EXCLUSIVE = 1 << 9;
        /// Stored through since the bits were last cleared: Linux's soft-dirty.
        const SOFT_DIRTY = 1 << 10;
        /// Not present because its page is being moved: a fault on it waits.
        const MIGRATION = 1 << 11;
        /// Instructions can't be fetched.
        const NO_EXECUTE = 1 << 63;
    }
}

/// Frame number bits, 12 to 51.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// The value of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Entry(u64);

impl Entry {
    /// The empty entry.
    pub const NONE: Self = Self(0);

    /// Makes a present entry for `pfn`.
    pub const fn present(pfn: Pfn, flags: Flags) -> Self {
        Self(pfn.address().get() | flags.bits() | Flags::PRESENT.bits())
    }

    /// Makes an entry for a next-level table, with all rights: the leaf decides.
    pub const fn table(pfn: Pfn) -> Self {
        Self::present(pfn, Flags::WRITE.union(Flags::USER))
    }

    /// Converts from [`Self::bits`].
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Gives the bits, the same for all formats.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Gives the flags.
    pub const fn flags(self) -> Flags {
        Flags::from_bits_truncate(self.0)
    }

    /// Tells whether all of `flags` are set.
    pub const fn has(self, flags: Flags) -> bool {
        self.0 & flags.bits() == flags.bits()
    }

    /// Tells whether the entry is empty.
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// Tells whether the CPU may use the entry.
    pub const fn is_present(self) -> bool {
        self.has(Flags::PRESENT)
    }

    /// Tells whether this is a migration entry.
    pub const fn is_migration(self) -> bool {
        !self.is_present() && self.has(Flags::MIGRATION)
    }

    /// Gives the frame of a present or migration entry.
    pub const fn pfn(self) -> Pfn {
        let stored = if self.is_present() { self.0 } else { !self.0 };
        Pfn::new((stored & ADDRESS) >> 12)
    }

    /// Adds flags other than `PRESENT`.
    pub const fn with(self, flags: Flags) -> Self {
        Self(self.0 | flags.bits())
    }

    /// Clears flags other than `PRESENT`.
    pub const fn without(self, flags: Flags) -> Self {
        Self(self.0 & !flags.bits())
    }

    /// Converts a present entry to its migration entry.
    pub const fn blocked(self) -> Self {
        Self((self.0 ^ ADDRESS) & !Flags::PRESENT.bits() | Flags::MIGRATION.bits())
    }

    /// Converts a migration entry back to a present entry, pointing to `pfn`.
    pub const fn unblocked(self, pfn: Pfn) -> Self {
        let flags = self.0 & !ADDRESS & !Flags::MIGRATION.bits();
        Self(flags | Flags::PRESENT.bits() | pfn.address().get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_migration_entry_keeps_every_bit_but_present() {
        let all = Flags::all() - Flags::PRESENT - Flags::MIGRATION;
        for kept in [Flags::empty(), all, Flags::DIRTY, Flags::WRITE | Flags::EXCLUSIVE, Flags::NO_EXECUTE] {
            let entry = Entry::present(Pfn::new(0x1234_5678), kept);
            let blocked = entry.blocked();
            assert!(blocked.is_migration() && !blocked.is_present() && !entry.is_migration());
            assert_eq!(blocked.pfn(), entry.pfn());
            assert_eq!(blocked.unblocked(Pfn::new(7)), Entry::present(Pfn::new(7), kept));
        }
    }

    #[test]
    fn a_migration_entry_names_no_cacheable_frame_in_the_address_bits() {
        let blocked = Entry::present(Pfn::new(5), Flags::WRITE).blocked();
        assert_ne!((blocked.bits() & ADDRESS) >> 12, 5);
    }
}
