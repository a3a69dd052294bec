//! From the flags and the map count that the kernel exports for a frame to its class.
//!
//! Takes frames by rising PFN as `/proc/kpageflags` and `/proc/kpagecount` give them, gives a class or what remains to
//! be decided once all are seen ([`Seen`]). Bits are those of `include/uapi/linux/kernel-page-flags.h`, and
//! `KPF_RESERVED` of `include/linux/kernel-page-flags.h`; what kernels do with them stands in `fs/proc/page.c`.
//!
//! - **Free blocks.** Old kernels (3.18) set BUDDY on the first frame of a free block only; its other frames show
//!   nothing at all. Newer ones set it on all of them. Which it is, is decided by how many were seen. On an old kernel
//!   frames that show nothing right behind a free block, but within its head's alignment, are taken for free.
//! - **Compound pages.** Old kernels show LRU on the first frame only, so a tail takes over its head's class.
//! - **Per-CPU free lists.** Such a frame shows nothing, as most of the kernel's own do, and can't be told from them.
//! - **Holes** show NOPAGE, or on newer kernels (6.18) nothing at all, as memory does that wasn't initialised yet.

use super::FrameClass;

const UPTODATE: u64 = 1 << 3;
const LRU: u64 = 1 << 5;
const SLAB: u64 = 1 << 7;
const BUDDY: u64 = 1 << 10;
const ANON: u64 = 1 << 12;
const SWAPBACKED: u64 = 1 << 14;
const COMPOUND_TAIL: u64 = 1 << 16;
const HUGE: u64 = 1 << 17;
const HWPOISON: u64 = 1 << 19;
pub(super) const NOPAGE: u64 = 1 << 20;
const OFFLINE: u64 = 1 << 23;
const ZERO_PAGE: u64 = 1 << 24;
const PGTABLE: u64 = 1 << 26;
const RESERVED: u64 = 1 << 32;

/// The largest order of a free block, on every kernel that marks heads only.
const MAX_ORDER: u32 = 10;

/// What a frame shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// A class.
    Class(FrameClass),
    /// Nothing, within reach of the head of a free block: free if this kernel marks heads only.
    AfterFreeHead,
    /// Nothing, as everything in a whole section of memory: absent if the zone lacks that much.
    Blank,
}

/// Classifies frames one after the other.
#[derive(Debug, Default)]
pub(super) struct Classifier {
    /// Class of the last frame that wasn't a compound tail.
    head: Option<FrameClass>,
    /// Where the free block that began last ends at the latest.
    free_end_pfn: u64,
}

impl Classifier {
    /// Classifies the frame after the last one; call [`Classifier::skip`] instead if there is a gap.
    pub(super) fn next(&mut self, pfn: u64, flags: u64, map_count: u64) -> Seen {
        if flags & (NOPAGE | HWPOISON) == 0 && flags & BUDDY != 0 {
            // A free block is aligned to its size.
            self.free_end_pfn = pfn + (1 << pfn.trailing_zeros().min(MAX_ORDER));
            self.head = None;
            return Seen::Class(FrameClass::Free);
        }
        if flags == 0 && map_count == 0 && pfn < self.free_end_pfn {
            return Seen::AfterFreeHead;
        }
        self.free_end_pfn = 0;
        let own = class_of(flags, map_count);
        if flags & COMPOUND_TAIL == 0 {
            self.head = Some(own);
            return Seen::Class(own);
        }
        Seen::Class(match (own, self.head) {
            (FrameClass::Kernel, Some(head)) => head,
            // The map count of a huge page's tail says nothing about a driver.
            (FrameClass::DriverMapped, Some(head)) if head != FrameClass::Kernel => head,
            _ => own,
        })
    }

    /// Forgets what came before.
    pub(super) fn skip(&mut self) {
        *self = Self::default();
    }
}

/// Classifies a frame by what it shows itself.
fn class_of(flags: u64, map_count: u64) -> FrameClass {
    let any = |bits: u64| flags & bits != 0;
    // Types of pages come first: their other fields have other meanings, so a slab page may well show ANON.
    if any(NOPAGE | HWPOISON) {
        FrameClass::Absent
    } else if any(BUDDY) {
        FrameClass::Free
    } else if any(OFFLINE) {
        FrameClass::Balloon
    } else if any(SLAB) {
        FrameClass::Slab
    } else if any(PGTABLE) {
        FrameClass::PageTable
    } else if any(RESERVED) {
        FrameClass::Reserved
    } else if any(HUGE) {
        FrameClass::Hugetlb
    } else if any(ZERO_PAGE) {
        FrameClass::Kernel
    } else if any(ANON) {
        FrameClass::Anon
    } else if any(LRU | UPTODATE | SWAPBACKED) {
        // Without LRU: on its way to the list or back, as a few always are.
        FrameClass::File
    } else if (1..=i64::MAX as u64).contains(&map_count) {
        FrameClass::DriverMapped
    } else {
        FrameClass::Kernel
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use FrameClass::*;

    const MMAP: u64 = 1 << 11;
    const COMPOUND_HEAD: u64 = 1 << 15;

    #[test]
    fn one_frame_by_what_it_shows() {
        // The combinations seen on real kernels, with the map count beside each.
        let rows = [
            (0, 0, Kernel),
            (NOPAGE, 0, Absent),
            (HWPOISON | LRU, 0, Absent),
            (BUDDY, 0, Free),
            (BUDDY | UPTODATE, 0, Free),
            (SLAB, 0, Slab),
            (SLAB | ANON, 0, Slab),
            (PGTABLE, 0, PageTable),
            (OFFLINE, 0, Balloon),
            (RESERVED, 0, Reserved),
            (RESERVED | MMAP, 3, Reserved),
            (RESERVED | ZERO_PAGE, 0, Reserved),
            (ZERO_PAGE | COMPOUND_HEAD, 40, Kernel),
            (HUGE | COMPOUND_HEAD | MMAP, 1, Hugetlb),
            (HUGE | ANON | LRU | MMAP, 1, Hugetlb),
            (LRU | ANON | SWAPBACKED | MMAP, 1, Anon),
            (ANON | SWAPBACKED | UPTODATE, 0, Anon),
            (LRU | UPTODATE, 0, File),
            (UPTODATE | MMAP, 1, File),
            (LRU | MMAP, 7, File),
            (MMAP, 1, DriverMapped),
            (MMAP | COMPOUND_HEAD, 2, DriverMapped),
            (0, u64::MAX, Kernel),
        ];
        for (flags, map_count, class) in rows {
            assert_eq!(class_of(flags, map_count), class, "{flags:#x}, count {map_count}");
        }
    }

    fn run(first: u64, frames: &[(u64, u64)]) -> Vec<Seen> {
        let mut classifier = Classifier::default();
        frames.iter().zip(first..).map(|(&(flags, count), pfn)| classifier.next(pfn, flags, count)).collect()
    }

    #[test]
    fn a_tail_takes_over_its_heads_class() {
        let tail = COMPOUND_TAIL;
        let huge = run(512, &[(LRU | ANON | COMPOUND_HEAD | MMAP, 1), (tail | MMAP, 1), (tail, 0), (MMAP, 1)]);
        assert_eq!(huge, [Anon, Anon, Anon, DriverMapped].map(Seen::Class));
        let slab = run(512, &[(SLAB | COMPOUND_HEAD, 0), (tail, 0), (0, 0)]);
        assert_eq!(slab, [Slab, Slab, Kernel].map(Seen::Class));
        // A driver may map the later part of what it allocated in one go.
        let driver = run(512, &[(COMPOUND_HEAD, 0), (tail, 0), (tail | MMAP, 1)]);
        assert_eq!(driver, [Kernel, Kernel, DriverMapped].map(Seen::Class));
        assert_eq!(run(512, &[(tail, 0)]), [Seen::Class(Kernel)]);
    }

    #[test]
    fn nothing_after_a_free_head_may_be_free_up_to_its_alignment() {
        let (free, after, kernel) = (Seen::Class(Free), Seen::AfterFreeHead, Seen::Class(Kernel));
        assert_eq!(run(4, &[(BUDDY, 0), (0, 0), (0, 0), (0, 0), (0, 0)]), [free, after, after, after, kernel]);
        assert_eq!(run(5, &[(BUDDY, 0), (0, 0)]), [free, kernel]);
        // What shows something ends the block, though the alignment would allow more.
        assert_eq!(run(8, &[(BUDDY, 0), (0, 0), (SLAB, 0), (0, 0)]), [free, after, Seen::Class(Slab), kernel]);
        let mut classifier = Classifier::default();
        let far = classifier.next(1 << 20, BUDDY, 0);
        assert_eq!((far, classifier.next((1 << 20) + 1024, 0, 0)), (free, kernel));
    }
}
