//! RAM, through the direct map: copies, clearing, and views of words, all bounds-checked.
//!
//! `unsafe`: access to RAM through the direct map. Relies on the contract of [`Ram::new`].
#![allow(unsafe_code)]

use core::{ops::Range, ptr::NonNull};

use crate::units::{Order, PAGE_SIZE, Pfn};

/// Copies `words` words, a multiple of 8, with non-temporal stores. A line's loads come before its stores: two folios of 2 MiB have the
/// same place in a TLB that is direct-mapped, as an emulator's is, and each change of sides is a miss.
///
/// # Safety
/// Both sides are valid for that many words, aligned, and do not overlap.
#[cfg(target_feature = "sse2")]
unsafe fn stream(from: *const i64, to: *mut i64, words: usize) {
    use core::arch::x86_64::_mm_stream_si64;
    for line in (0..words).step_by(8) {
        // SAFETY: in bounds by the caller's contract.
        let values = unsafe { from.add(line).cast::<[i64; 8]>().read() };
        for (word, value) in values.into_iter().enumerate() {
            // SAFETY: as above. General registers only, so a kernel need not save vector state.
            unsafe { _mm_stream_si64(to.add(line + word), value) };
        }
    }
}

#[cfg(target_feature = "sse2")]
fn fence() {
    // Non-temporal stores are not ordered by a Release.
    // SAFETY: needs only the CPU feature, for which this function is compiled.
    unsafe { core::arch::x86_64::_mm_sfence() };
}

/// The same on targets for kernels, which compile without SSE. Every x86-64 CPU has the instructions, and they need no vector state.
#[cfg(all(target_arch = "x86_64", any(all(test, not(feature = "loom")), not(target_feature = "sse2"))))]
mod without_vectors {
    use core::arch::asm;

    /// As [`super::stream`].
    ///
    /// # Safety
    /// Both sides are valid for that many words, aligned, and do not overlap.
    pub(super) unsafe fn stream(from: *const i64, to: *mut i64, words: usize) {
        for line in (0..words).step_by(8) {
            // SAFETY: in bounds by the caller's contract.
            let values = unsafe { from.add(line).cast::<[i64; 8]>().read() };
            for (word, value) in values.into_iter().enumerate() {
                // SAFETY: as above.
                unsafe {
                    asm!("movnti [{}], {}", in(reg) to.add(line + word), in(reg) value, options(nostack, preserves_flags));
                }
            }
        }
    }

    #[cfg(not(target_feature = "sse2"))]
    pub(super) fn fence() {
        // SAFETY: orders stores, and does nothing else.
        unsafe { asm!("sfence", options(nostack, preserves_flags)) };
    }
}

#[cfg(all(target_arch = "x86_64", not(target_feature = "sse2")))]
use without_vectors::{fence, stream};

#[cfg(not(target_arch = "x86_64"))]
fn fence() {}

/// Copies `words` words, on targets without non-temporal stores.
///
/// # Safety
/// Both sides are valid for that many words, aligned, and do not overlap.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn stream(from: *const i64, to: *mut i64, words: usize) {
    // SAFETY: the caller's contract.
    unsafe { core::ptr::copy_nonoverlapping(from, to, words) };
}

/// The direct map: all RAM of the machine as one range of virtual addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ram {
    base: NonNull<u8>,
    first: Pfn,
    end: Pfn,
    contents: Contents,
}

/// Which frames have contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contents {
    /// All.
    All,
    /// Only page tables: a move copies no data. For zones larger than the host's memory.
    TablesOnly,
}

// SAFETY: the memory outlives every copy of this handle by `new`'s contract; accesses are atomic, or exclusive by protocol.
unsafe impl Send for Ram {}
// SAFETY: as above.
unsafe impl Sync for Ram {}

impl Ram {
    /// Wraps a direct map of `frames`, whose first one starts at `base`. An identity map begins with frame 1, since no
    /// pointer to frame 0 would be valid.
    ///
    /// # Safety
    /// From `base` on 4096 bytes for each frame are one range of addresses, page-aligned. Those of the frames that the
    /// engine is given at boot (in a zone, and not reserved) are mapped readable and writable, and stay so as long as
    /// the machine exists. Only the machine's CPUs write them, through page tables and this map.
    pub const unsafe fn new(base: NonNull<u8>, frames: Range<Pfn>, contents: Contents) -> Self {
        Self { base, first: frames.start, end: frames.end, contents }
    }

    /// Gives the frames of the map, some of which may be in holes.
    pub const fn frames(self) -> Range<Pfn> {
        self.first..self.end
    }

    /// Tells which frames have contents.
    pub const fn contents(self) -> Contents {
        self.contents
    }

    fn frame(self, pfn: Pfn, order: Order) -> *mut u8 {
        self.frames_at(pfn, order.frames())
    }

    fn frames_at(self, pfn: Pfn, frames: u32) -> *mut u8 {
        let is_inside = pfn >= self.first && pfn < self.end && u64::from(frames) <= self.end.get() - pfn.get();
        assert!(is_inside, "frame {pfn} is outside RAM");
        // SAFETY: the offset is within the mapping by the assertion and `new`'s contract.
        unsafe { self.base.as_ptr().add((pfn.get() - self.first.get()) as usize * PAGE_SIZE) }
    }

    /// Copies a frame that others may write meanwhile, word by word, to one that only the caller uses.
    pub(crate) fn copy_shared(self, from: Pfn, to: Pfn) {
        if self.contents == Contents::TablesOnly {
            return;
        }
        let words = |pfn| {
            // SAFETY: in bounds, aligned; other writers use atomics, or are CPUs; the map exists as long as the
            // machine.
            unsafe { &*self.frame(pfn, Order::ZERO).cast::<[core::sync::atomic::AtomicU64; 512]>() }
        };
        // Relaxed: ordering is up to the writers.
        let relaxed = core::sync::atomic::Ordering::Relaxed;
        words(from).iter().zip(words(to)).for_each(|(from, to)| to.store(from.load(relaxed), relaxed));
    }

    /// Copies the contents of `frames` consecutive frames past the caches: a page that moves is mostly not in use, and
    /// would only evict data that is. It also saves reading the destination first: measured, a page takes two thirds of
    /// the time of `memcpy`. FreeBSD's `pagecopy` does the same. [`Self::order_copies`] must follow before others read
    /// the destinations.
    pub(crate) fn copy_streaming(self, from: Pfn, to: Pfn, frames: u32) {
        if self.contents == Contents::TablesOnly {
            return;
        }
        let (from, to) = (self.frames_at(from, frames), self.frames_at(to, frames));
        // SAFETY: both in bounds and page-aligned; two folios don't overlap. Nobody writes either side meanwhile: the
        // source is blocked and frozen, the destination not yet visible.
        unsafe { stream(from.cast(), to.cast(), PAGE_SIZE / 8 * frames as usize) }
    }

    /// Orders all copies of [`Self::copy_streaming`] before later stores; once for a batch.
    pub(crate) fn order_copies(self) {
        fence();
    }

    /// Clears `order.frames()` frames, which only the caller uses.
    pub(crate) fn zero(self, pfn: Pfn, order: Order) {
        if self.contents == Contents::All {
            let start = self.frame(pfn, order);
            // SAFETY: in bounds, and only the caller uses them.
            unsafe { core::ptr::write_bytes(start, 0, PAGE_SIZE * order.frames() as usize) }
        }
    }

    /// Views a frame as words, as a CPU's access by physical address does.
    ///
    /// # Safety
    /// The machine outlives the view. The caller keeps the frame from being freed meanwhile, by a handle or as its
    /// owner; except a machine that accesses it for a CPU by a translation that isn't flushed yet.
    #[cfg(not(feature = "loom"))]
    pub unsafe fn words<'a>(self, pfn: Pfn) -> &'a [crate::sync::AtomicU64; 512] {
        // SAFETY: in bounds, aligned to a page, valid for all bit patterns, alive as long as the machine.
        unsafe { &*self.frame(pfn, Order::ZERO).cast() }
    }
}

#[cfg(all(test, target_feature = "sse2", not(feature = "loom")))]
mod tests {
    #[test]
    fn both_copies_copy() {
        let from: alloc::vec::Vec<i64> = (0..512).map(|word| word * 3 - 700).collect();
        for stream in [super::stream, super::without_vectors::stream] {
            let mut to = alloc::vec![0; 512];
            // SAFETY: two vectors of that many words.
            unsafe { stream(from.as_ptr(), to.as_mut_ptr(), 512) };
            super::fence();
            assert_eq!(from, to);
        }
    }
}
