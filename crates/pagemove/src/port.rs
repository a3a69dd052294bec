//! What a machine must offer: a direct map of its RAM, storage, TLB flushes, a processor's number, waiting and time.
//!
//! This folder's only `unsafe` is access to RAM through the direct map, relying on what [`Ram::new`] asks of its caller.
#![allow(unsafe_code)]

use alloc::boxed::Box;
use core::{any::Any, ptr::NonNull};

use crate::{
    sync::AtomicU32,
    units::{Order, PAGE_SIZE, Pfn, VirtAddr},
};

/// The machine below the engine. A kernel implements it over its hardware; `pagemove-hosted` does inside a Linux process.
///
/// # Safety
/// Between a call of [`CpuClaim::claim`] that gives a processor's number and the [`CpuClaim::release`] that follows, nobody
/// else gets the same number, but for code that interrupts the claimer and ends before it goes on. [`Self::barrier`] does
/// what it says.
pub unsafe trait Machine: Send + Sync + 'static {
    /// Gives the direct map of all RAM that the engine may manage.
    fn ram(&self) -> Ram;

    /// Lends `bytes` of zeroed memory, aligned to 64 bytes, for the engine's metadata; `None` if it can't be had.
    fn lend(&self, bytes: usize) -> Option<Lent>;

    /// Removes the translations of all `ranges` from every processor's TLB, and waits until no processor uses one.
    ///
    /// Accesses that used an old translation are complete when this returns. A fill that read the tables before must
    /// not become visible afterwards.
    fn flush(&self, ranges: &[FlushRange]);

    /// Gives the number of processors.
    fn cpus(&self) -> usize;

    /// Tells how a caller claims the processor that it's on; asked once, at boot.
    fn cpu_claim(&self) -> CpuClaim;

    /// Makes every processor pass a full memory barrier before this returns; a kernel interrupts them (Linux offers it to
    /// programs as `membarrier`). Called when free frames are collected from all processors.
    fn barrier(&self);

    /// Sleeps while `word` holds `value`, until [`Self::wake`] is called for it; may return early.
    fn wait(&self, word: &AtomicU32, value: u32);

    /// Wakes all that wait on `word`.
    fn wake(&self, word: &AtomicU32);

    /// Lets others run for a moment.
    fn pause(&self) {
        core::hint::spin_loop();
    }

    /// Gives a monotonic time in nanoseconds.
    fn now_ns(&self) -> u64;
}

/// How a caller keeps the processor that it's on to itself for a few instructions. Plain functions, as each allocation
/// calls them.
#[derive(Debug, Clone, Copy)]
pub struct CpuClaim {
    /// Claims; a kernel disables preemption. Gives the processor's number; one that is [`Machine::cpus`] or more says that
    /// the caller has none of its own, and takes the shared paths.
    pub claim: fn() -> usize,
    /// Ends the claim, whatever number it gave. `None` where threads are processors for as long as they live.
    pub release: Option<fn()>,
}

impl CpuClaim {
    /// No caller ever has a processor of its own.
    pub const NONE: Self = Self { claim: || usize::MAX, release: None };
}

/// Names an address space in flushes (an ASID or PCID without its limit of bits). Never given twice: 2^64 don't wrap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpaceId(pub u64);

/// Translations to flush: `pages` pages from `start` in `space`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlushRange {
    /// The address space.
    pub space: SpaceId,
    /// First page.
    pub start: VirtAddr,
    /// Number of 4 KiB pages.
    pub pages: u32,
}

/// Memory lent by the machine; given back (by dropping what keeps it) when the engine ends.
pub struct Lent {
    start: NonNull<u8>,
    bytes: usize,
    _keep: Box<dyn Any + Send + Sync>,
}

// SAFETY: the memory is the borrower's alone by `new`'s contract, and only shared as atomics, by `into_table`.
unsafe impl Send for Lent {}
// SAFETY: as above.
unsafe impl Sync for Lent {}

impl Lent {
    /// Wraps memory that lives as long as `keep` does.
    ///
    /// # Safety
    /// `bytes` bytes at `start` are zeroed, aligned to 64 bytes, readable, writable, and used by nobody else until `keep` is dropped.
    pub unsafe fn new(start: NonNull<u8>, bytes: usize, keep: Box<dyn Any + Send + Sync>) -> Self {
        Self { start, bytes, _keep: keep }
    }

    /// Views it as `count` values of `T`; `None` if they don't fit.
    pub(crate) fn into_table<T: Zeroed>(self, count: usize) -> Option<Table<T>> {
        let fits = count.checked_mul(size_of::<T>())? <= self.bytes && align_of::<T>() <= 64;
        fits.then(|| Table {
            start: self.start.cast(),
            count,
            _keep: self,
            #[cfg(feature = "loom")]
            modelled: (0..count).map(|_| T::default()).collect(),
        })
    }
}

/// Lent memory as values that are all shared.
#[cfg_attr(feature = "loom", allow(dead_code, reason = "the memory is only kept"))]
pub(crate) struct Table<T> {
    start: NonNull<T>,
    count: usize,
    _keep: Lent,
    // Loom's atomics are more than their bits, and can't be in lent memory.
    #[cfg(feature = "loom")]
    modelled: alloc::vec::Vec<T>,
}

// SAFETY: as a slice of `T`, which is made of atomics by the bound of `into_table`, would be.
unsafe impl<T> Send for Table<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Table<T> {}

impl<T> core::ops::Deref for Table<T> {
    type Target = [T];

    #[cfg(feature = "loom")]
    fn deref(&self) -> &[T] {
        &self.modelled
    }

    #[cfg(not(feature = "loom"))]
    fn deref(&self) -> &[T] {
        // SAFETY: in bounds and aligned by `into_table`, alive as long as `self`, and any bits are a valid `T` by `Zeroed`.
        // Writers only go through the atomics inside `T`.
        unsafe { core::slice::from_raw_parts(self.start.as_ptr(), self.count) }
    }
}

/// Types made of atomics only, for which all bit patterns, zero among them, are valid.
///
/// # Safety
/// As the first line says.
pub(crate) unsafe trait Zeroed: Default {}

/// Copies `words` words, a multiple of 8, with stores that pass the caches by.
///
/// # Safety
/// Both sides are valid for that many words, aligned, and do not overlap.
#[cfg(target_feature = "sse2")]
unsafe fn stream(from: *const i64, to: *mut i64, words: usize) {
    use core::arch::x86_64::_mm_stream_si64;
    for line in (0..words).step_by(8) {
        for word in line..line + 8 {
            // SAFETY: in bounds by the caller's promise. General registers only, so a kernel need not save vector state.
            unsafe { _mm_stream_si64(to.add(word), from.add(word).read()) };
        }
    }
}

#[cfg(target_feature = "sse2")]
fn fence() {
    // Streaming stores are ordered by no release.
    // SAFETY: no precondition but the processor feature, which this function is built for.
    unsafe { core::arch::x86_64::_mm_sfence() };
}

#[cfg(not(target_feature = "sse2"))]
fn fence() {}

/// Copies `words` words, where there are no streaming stores, or the kernel's target does without them.
///
/// # Safety
/// Both sides are valid for that many words, aligned, and do not overlap.
#[cfg(not(target_feature = "sse2"))]
unsafe fn stream(from: *const i64, to: *mut i64, words: usize) {
    // SAFETY: the caller's promise.
    unsafe { core::ptr::copy_nonoverlapping(from, to, words) };
}

/// The direct map: all RAM of the machine as one range of the engine's own addresses.
#[derive(Debug, Clone, Copy)]
pub struct Ram {
    base: NonNull<u8>,
    frames: u32,
    contents: Contents,
}

/// Whether frames have contents to copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contents {
    /// All do.
    All,
    /// Only page tables do: moving data is bookkeeping alone, for zones larger than the host's memory.
    TablesOnly,
}

// SAFETY: the memory outlives every copy of this handle by `new`'s contract; accesses are atomic, or exclusive by protocol.
unsafe impl Send for Ram {}
// SAFETY: as above.
unsafe impl Sync for Ram {}

impl Ram {
    /// Wraps a direct map of `frames` frames; frame 0 starts at `base`.
    ///
    /// # Safety
    /// `frames * 4096` bytes at `base` are mapped readable and writable, page-aligned, and stay so as long as the
    /// machine does. Nobody but the machine's processors, through page tables and this map, writes them.
    pub const unsafe fn new(base: NonNull<u8>, frames: u32, contents: Contents) -> Self {
        Self { base, frames, contents }
    }

    /// Gives the number of frames.
    pub const fn frames(self) -> u32 {
        self.frames
    }

    /// Tells whether data frames have contents.
    pub const fn contents(self) -> Contents {
        self.contents
    }

    fn frame(self, pfn: Pfn, order: Order) -> *mut u8 {
        assert!(pfn.get() as u64 + order.frames() as u64 <= self.frames as u64, "frame {pfn} is outside RAM");
        // SAFETY: the offset is within the mapping by the assertion and `new`'s contract.
        unsafe { self.base.as_ptr().add(pfn.index() * PAGE_SIZE) }
    }

    /// Copies the contents of `order.frames()` frames. Nobody writes either side meanwhile: the source is blocked and
    /// frozen, the destination not yet visible.
    pub fn copy(self, from: Pfn, to: Pfn, order: Order) {
        if self.contents == Contents::TablesOnly {
            return;
        }
        let (from, to) = (self.frame(from, order), self.frame(to, order));
        // SAFETY: both in bounds; two different groups of the same order don't overlap. Were a program still writing the
        // source (a broken flush), it would write raw memory through another mapping, whose bytes may come out torn; no
        // reference to it exists.
        unsafe { core::ptr::copy_nonoverlapping(from, to, PAGE_SIZE * order.frames() as usize) }
    }

    /// Copies as [`Self::copy`] does, but past the caches: a page that moves is mostly one that nobody uses right now, so
    /// it would only push out what is used. It also saves reading the destination first: measured, a page takes two thirds
    /// of the time of `memcpy`. FreeBSD's `pagecopy` does so, too. [`Self::settle_copies`] must follow before others may
    /// look at the destinations.
    pub fn copy_streaming(self, from: Pfn, to: Pfn, order: Order) {
        if self.contents == Contents::TablesOnly {
            return;
        }
        let (from, to) = (self.frame(from, order), self.frame(to, order));
        // SAFETY: as in `copy`; both aligned to a page.
        unsafe { stream(from.cast(), to.cast(), PAGE_SIZE / 8 * order.frames() as usize) }
    }

    /// Makes all that [`Self::copy_streaming`] copied visible before anything that follows; once for a batch.
    pub fn settle_copies(self) {
        fence();
    }

    /// Clears the contents of `order.frames()` frames, which belong to the caller alone.
    pub fn zero(self, pfn: Pfn, order: Order) {
        if self.contents == Contents::All {
            let start = self.frame(pfn, order);
            // SAFETY: in bounds, and the caller's alone.
            unsafe { core::ptr::write_bytes(start, 0, PAGE_SIZE * order.frames() as usize) }
        }
    }

    /// Views a frame as words: a page table's entries, or data that the engine's caller reads and writes.
    ///
    /// The view must not outlive the machine; whoever keeps it keeps what borrows the machine, too.
    #[cfg(not(feature = "loom"))]
    pub(crate) fn words<'a>(self, pfn: Pfn) -> &'a [crate::sync::AtomicU64; 512] {
        // SAFETY: in bounds, aligned to a page, valid for all bit patterns, alive as long as the machine.
        unsafe { &*self.frame(pfn, Order::ZERO).cast() }
    }
}
