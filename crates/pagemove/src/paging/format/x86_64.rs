//! x86-64 (Intel SDM volume 3, section 5.5; AMD APM volume 2, section 5.3): the bits of [`Entry`] themselves.

use super::Format;
use crate::{paging::Entry, units::Pfn};

/// Page tables of x86-64, with four levels.
#[derive(Debug, Clone, Copy)]
pub struct X86_64;

impl Format for X86_64 {
    const NAME: &'static str = "x86-64";
    const LEVELS: u32 = 4;
    const FRAMES: u64 = Pfn::LIMIT;
    const CPU_SETS_MARKS: bool = true;
    const CPU_MARKS_TABLES: bool = true;

    #[inline]
    fn encode(entry: Entry, _level: u32) -> u64 {
        entry.bits()
    }

    #[inline]
    fn decode(word: u64, _level: u32) -> Entry {
        Entry::from_bits(word)
    }
}
