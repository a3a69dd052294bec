//! A table with holes, in virtual memory: frames of its own where it's used, one frame of zeros everywhere else.
//!
//! Holes of 2 MiB and more of the table share page tables too, so a hole of terabytes costs a few frames. As Linux' virtual memory map, which
//! maps nothing there; here the engine may read all of it.
//!
//! `unsafe`: writes to page tables through the direct map. Relies on the contract of [`Sparse::map`].
#![allow(unsafe_code)]

use core::{ops::Range, sync::atomic::Ordering};

use pagemove::{
    port::Ram,
    units::{PAGE_SHIFT, PAGE_SIZE, Pfn},
};
use x86_64::structures::paging::PageTableFlags as Flags;

/// The levels of a root's tables.
const LEVELS: u32 = 4;

/// What maps such tables.
pub(crate) struct Sparse<'t, T> {
    pub(crate) ram: Ram,
    /// Gives a cleared frame, for good.
    pub(crate) take: &'t mut T,
}

/// Frames that all holes share: the frame of zeros, and full tables above it.
struct Zeros([Pfn; LEVELS as usize - 1]);

impl<T: FnMut() -> Option<Pfn>> Sparse<'_, T> {
    /// Maps `bytes` bytes from `address` on in the tables of `root`: writable frames where `used` has any part of a page, zeros elsewhere.
    /// `None` if there are too few frames.
    ///
    /// # Safety
    /// Nothing is mapped there, and the root's tables stay. `address` is canonical, page-aligned, and so is the end.
    pub(crate) unsafe fn map(&mut self, root: Pfn, address: u64, bytes: u64, used: &[Range<usize>]) -> Option<()> {
        let mut zeros = Zeros([(self.take)()?; LEVELS as usize - 1]);
        for level in 1..LEVELS as usize - 1 {
            let table = (self.take)()?;
            let below = zeros.0[level - 1];
            (0..512).for_each(|at| self.set(table, at, below, flags_of_zeros(level as u32)));
            zeros.0[level] = table;
        }
        let place = Place { first: address & 0x0000_ffff_ffff_f000, bytes, used };
        self.fill(root, LEVELS, 0, &place, &zeros)
    }

    fn set(&self, table: Pfn, at: usize, to: Pfn, flags: Flags) {
        // SAFETY: a table of the kernel's own, or one that was just made; entries are changed only here, at boot.
        let words = unsafe { self.ram.words(table) };
        words[at].store(to.address().get() | flags.bits(), Ordering::Release);
    }

    /// Fills the entries of a table that serves the addresses from `start` on.
    fn fill(&mut self, table: Pfn, level: u32, start: u64, place: &Place<'_>, zeros: &Zeros) -> Option<()> {
        let size = 1u64 << (PAGE_SHIFT + 9 * (level - 1));
        for at in 0..512 {
            let from = start + at as u64 * size;
            let covers = from.max(place.first)..(from + size).min(place.first + place.bytes);
            if covers.is_empty() {
                continue;
            }
            let is_whole = covers.end - covers.start == size;
            let is_used = place.is_used(&covers);
            if is_whole && !is_used && level < LEVELS {
                self.set(table, at, zeros.0[level as usize - 1], flags_of_zeros(level));
            } else if level == 1 {
                let frame = (self.take)()?;
                self.set(table, at, frame, leaf(Flags::WRITABLE));
            } else {
                // SAFETY: as in `set`.
                let word = unsafe { self.ram.words(table) }[at].load(Ordering::Acquire);
                let below = if word & Flags::PRESENT.bits() == 0 {
                    let below = (self.take)()?;
                    self.set(table, at, below, table_flags());
                    below
                } else {
                    Pfn::new((word & 0x000f_ffff_ffff_f000) >> PAGE_SHIFT)
                };
                self.fill(below, level - 1, from, place, zeros)?;
            }
        }
        Some(())
    }
}

struct Place<'u> {
    /// The first address, by its low 48 bits.
    first: u64,
    bytes: u64,
    used: &'u [Range<usize>],
}

impl Place<'_> {
    fn is_used(&self, covers: &Range<u64>) -> bool {
        let (from, to) = (covers.start - self.first, covers.end - self.first);
        self.used.iter().any(|used| (used.start as u64) < to && from < used.end as u64)
    }
}

fn leaf(more: Flags) -> Flags {
    Flags::PRESENT | Flags::GLOBAL | Flags::NO_EXECUTE | more
}

/// The flags of an entry of this level that leads to zeros.
fn flags_of_zeros(level: u32) -> Flags {
    if level == 1 { leaf(Flags::empty()) } else { table_flags() }
}

fn table_flags() -> Flags {
    Flags::PRESENT | Flags::WRITABLE
}

/// Gives the most frames that a table takes beside those for its used bytes: tables on both sides of each used range.
pub(crate) fn more_frames(used_bytes: usize, ranges: usize) -> usize {
    used_bytes / PAGE_SIZE / 512 + (ranges + 2) * (2 * LEVELS as usize)
}

#[cfg(test)]
mod tests {
    extern crate std;

    use core::ptr::NonNull;
    use std::{alloc, vec::Vec};

    use pagemove::port::Contents;

    use super::*;

    /// A page of the table is its own and writable, or the frame of zeros.
    #[test]
    fn used_parts_have_frames_of_their_own_and_holes_share_zeros() {
        const FRAMES: u64 = 4096;
        let layout = alloc::Layout::from_size_align((FRAMES as usize) << 12, 4096).unwrap();
        // SAFETY: the layout isn't empty.
        let base = NonNull::new(unsafe { alloc::alloc_zeroed(layout) }).unwrap();
        // SAFETY: leaked memory of this size.
        let ram = unsafe { Ram::new(base, Pfn::new(0)..Pfn::new(FRAMES), Contents::All) };
        // Not aligned to any table, over two top-level entries, 1 TiB in all.
        let address = 0xffff_c07f_ffff_5000u64;
        let used = [0..5000, (1 << 30) + 100..(1 << 30) + (3 << 20), (1 << 40) - 4096..1 << 40];
        let mut next = 2;
        let mut take = || {
            next += 1;
            (next < FRAMES).then(|| Pfn::new(next - 1))
        };
        let root = Pfn::new(1);
        // SAFETY: the tables are this test's.
        unsafe { Sparse { ram, take: &mut take }.map(root, address, 1 << 40, &used) }.expect("enough frames");
        let bytes = used.iter().map(|used| used.len().div_ceil(4096) * 4096 + 4096).sum();
        assert!((next - 2) as usize <= bytes / 4096 + more_frames(bytes, used.len()), "{next} frames");
        let find = |offset: u64| {
            let at = address + offset;
            let mut table = root;
            for level in (1..=LEVELS).rev() {
                // SAFETY: as above.
                let words = unsafe { ram.words(table) };
                let word = words[(at >> (12 + 9 * (level - 1)) & 511) as usize].load(Ordering::Acquire);
                assert!(word & 1 == 1, "nothing at {offset:#x}, level {level}");
                table = Pfn::new((word & 0x000f_ffff_ffff_f000) >> 12);
                if level == 1 {
                    return (table, word & 2 != 0);
                }
            }
            unreachable!()
        };
        let zeros = find(1 << 29).0;
        let mut own = Vec::new();
        for page in [0, 1, 2, 3, (1 << 18) - 1, 1 << 18, (1 << 18) + 767, (1 << 18) + 768, (1 << 28) - 2, (1 << 28) - 1]
        {
            let (frame, is_writable) = find(page << 12);
            let is_used =
                used.iter().any(|used| (used.start as u64) < (page + 1) << 12 && page << 12 < used.end as u64);
            assert_eq!((frame != zeros, is_writable), (is_used, is_used), "page {page:#x}");
            if is_used {
                assert!(!own.contains(&frame), "two pages have one frame");
                own.push(frame);
            }
        }
        assert_eq!(own.len(), 5);
    }
}
