//! What a machine must provide: direct map of its RAM, metadata storage, TLB flushes, CPU numbers, interrupt masks,
//! waits, time.
//!
//! | file | does |
//! | --- | --- |
//! | `mod` | the trait and its types |
//! | `ram` | the direct map |
//! | `lent` | memory for metadata |
//! | `overlay` | a machine on top of another one |
//! | `masked` | the lock that interrupt handlers may take |
//!
//! # What may be called where
//!
//! An interrupt handler may run at any point, also while the interrupted code holds a lock or is inside a CPU's lists.
//! It may make the calls with "yes" in the last column, on a machine that gives an [`InterruptMask`].
//!
//! | call | may sleep | may interrupt other CPUs | in an interrupt |
//! | --- | --- | --- | --- |
//! | `Physical::alloc_with` with `Effort::Lists` | no | no | yes |
//! | `alloc`, `alloc_exactly`; `alloc_with` with `Effort::Drain` | no | yes | no |
//! | `alloc_with` with `Effort::Compact` | yes | yes | no |
//! | `Physical::get`; `publish` and dropping of a `FrozenFolio`; `clone` and dropping of a `FolioRef` | no | no | yes |
//! | dropping a `PinnedPage`; `Pins::of`, `all` | no | no | yes, if the heap may be called there |
//! | `alloc_unreported`; `FrozenFolio::free_reported` | no | no | yes |
//! | reading frames, summaries, counters and events; `free_frames`, `reported_frames` | no | no | yes |
//! | `FolioRef::try_lock`, `start_writeback`; dropping a `LockedFolio` or `Writeback` | no | no | yes, if [`Machine::wake`] may be called there |
//! | `FolioRef::lock`, `FrameTable::wait_unlocked` | yes | no | no |
//! | `drain_cpu_lists` | no | yes | no |
//! | all else: indexes, registrations, reverse maps, address spaces, moves, compaction | yes | yes | no |
//!
//! A call that may interrupt other CPUs waits for them. It must not be made with interrupts masked: two such CPUs would
//! wait for each other. With debug assertions the engine calls [`Machine::might_wait`] at the start of allocations,
//! drains, frame locks, unregistering, moves, flushes, and calls of address spaces.
//!
//! The table of pins is on the heap, and changed with interrupts masked. So a kernel that uses pins needs a heap that
//! doesn't sleep, and that masks interrupts if handlers use it or drop pins. A heap built on the engine allocates with
//! `Effort::Lists`.
//!
//! An interrupt handler must not drop the last `Arc` of the engine.

mod lent;
mod masked;
mod overlay;
mod ram;

pub use lent::LentMemory;
pub(crate) use lent::{Table, Zeroed};
pub(crate) use masked::MaskedMutex;
pub use ram::{Contents, Ram};

pub use crate::sync::Preemption;

use core::ops::Range;

use crate::{
    sync::{AtomicU32, assert_none_held},
    units::{Order, Pfn, VirtAddr},
};

/// The machine below the engine. A kernel implements it on its hardware, `pagemove-hosted` inside a Linux process.
///
/// # Safety
/// From a [`CpuClaim::claim`] that gives a CPU's number to the matching [`CpuClaim::release`], nobody else gets the
/// same number, except an interrupt handler, which ends before the claimer continues. [`Self::take_ram`], [`Self::lend_sparse`],
/// [`Self::flush`], [`Self::move_root`], [`Self::root_freed`] and [`Self::barrier`] do as documented: the engine frees frames, and
/// reads memory, by what they promise.
#[allow(
    unsafe_code,
    reason = "a processor's number is relied on for exclusive access; some calls are the engine's alone"
)]
pub unsafe trait Machine: Send + Sync + 'static {
    /// Gives the direct map of all RAM that the engine may manage to the first engine that boots; `None` to others,
    /// since two would allocate the same frames.
    fn take_ram(&self) -> Option<Ram>;

    /// Called when an engine has ended, or didn't boot, and no longer uses the RAM: a machine may give it to another one.
    ///
    /// # Safety
    /// Only the engine calls it, once for each time it took the RAM.
    unsafe fn return_ram(&self) {}

    /// Lends `bytes` of zeroed memory, aligned to 64 bytes, for the engine's metadata; `None` if there is none.
    fn lend(&self, bytes: usize) -> Option<LentMemory>;

    /// As [`Self::lend`], for a table of memory that has holes of 128 MiB or more. Only the ranges `used`, ascending, are
    /// written to; they begin and end within pages, and two may share one. The rest is only read, and reads as zero. A kernel
    /// takes a range of virtual addresses, maps memory for the used parts, and one frame of zeros, read-only, for the rest
    /// (Linux: the virtual memory map). Unless a machine implements it, all of the table is lent.
    fn lend_sparse(&self, bytes: usize, used: &[Range<usize>]) -> Option<LentMemory> {
        let _ = used;
        self.lend(bytes)
    }

    /// Called for a new address space, with its empty top-level table at frame `root`, before any CPU switches to it. A
    /// kernel fills in the entries of its own half; the engine doesn't change these. It may also put tables of its own, of any level,
    /// into the lower half, outside of the space's bounds: the engine neither frees nor moves them. Gives a word that is
    /// passed to every flush of the space: a PCID, or a pointer to the machine's set of CPUs that use it.
    ///
    /// # Safety
    /// Only the engine calls it, once for each space; the frame is its own.
    unsafe fn root_made(&self, id: SpaceId, root: Pfn) -> u64 {
        let _ = (id, root);
        0
    }

    /// Moves the root of `space` to frame `to`, a copy of its lower half with the upper half empty. A kernel fills in the entries
    /// of its own half there, then calls `publish`, after which [`PageTable::root`](crate::paging::PageTable::root) gives
    /// `to`, and then makes every CPU that has the old root loaded load the new one, which drops all that the CPU keeps of
    /// the upper levels. When this returns no CPU uses the old root, nor loads it later: a CPU that reads the root and loads it does both
    /// while this waits for it, or reads it again afterwards. Called with the locks of a move of page tables held;
    /// CPUs that wait for these must answer.
    ///
    /// # Safety
    /// Only the engine calls it, for a space that hasn't ended; the frame is its own.
    unsafe fn move_root(&self, space: Space, to: Pfn, publish: &mut dyn FnMut());

    /// Called when an address space ends, empty and flushed. When this returns no CPU has the root loaded, not even a
    /// lazily switched one (Linux: lazy TLB); then the frame is freed.
    ///
    /// # Safety
    /// Only the engine calls it, once for each space; nothing runs in it any more.
    unsafe fn root_freed(&self, space: Space) {
        let _ = space;
    }

    /// Removes the translations of all `ranges` from every CPU's TLB, and waits until no CPU uses one.
    ///
    /// When this returns, accesses by an old translation are complete, and a fill that read the old tables can't become
    /// visible any more.
    fn flush(&self, ranges: &[FlushRange]);

    /// Gives the number of CPUs.
    fn cpus(&self) -> usize;

    /// Gives the functions that claim the caller's CPU; called once, at boot.
    fn cpu_claim(&self) -> CpuClaim;

    /// Gives the functions that mask interrupts on the caller's CPU; called once, at boot. `None`: no handler calls the
    /// engine.
    fn interrupt_mask(&self) -> Option<InterruptMask> {
        None
    }

    /// Gives the functions with which a thread keeps its CPU while it holds a lock; called at boot. `None`: threads are never preempted,
    /// or locks sleep (feature `std`). Otherwise a thread that is preempted with a lock makes others spin for it in vain.
    fn preemption(&self) -> Option<Preemption> {
        None
    }

    /// Makes every CPU pass a full memory barrier before this returns; a kernel sends interrupts (Linux offers it to
    /// programs as `membarrier`). Called to drain the CPUs' lists of free frames.
    fn barrier(&self);

    /// Sleeps while `word` holds `value`, until [`Self::wake`] is called for it; may return early.
    fn wait(&self, word: &AtomicU32, value: u32);

    /// Wakes all threads that wait on `word`.
    fn wake(&self, word: &AtomicU32);

    /// Called, with debug assertions only, at the start of every call that may sleep or wait for other CPUs. A machine
    /// that can tell panics if interrupts are masked, or if an interrupt handler is the caller (Linux: `might_sleep`).
    fn might_wait(&self) {}

    /// Lets other threads run for a moment, in a loop that waits.
    fn pause(&self) {
        core::hint::spin_loop();
    }

    /// Gives a monotonic time in nanoseconds.
    fn now_ns(&self) -> u64;
}

/// How a caller keeps its CPU to itself for a few instructions. Plain functions, since each allocation calls them.
/// Claims nest: an interrupt handler claims while the interrupted code has a claim.
#[derive(Debug, Clone, Copy)]
pub struct CpuClaim {
    /// Claims the CPU, and gives its number; a kernel disables preemption. A number of [`Machine::cpus`] or more means:
    /// no CPU is claimed, and the call uses the shared lists.
    pub claim: fn() -> usize,
    /// Ends the claim, whatever number it gave. `None` if each thread has its CPU for life.
    pub release: Option<fn()>,
}

impl CpuClaim {
    /// No call ever claims a CPU.
    pub const NONE: Self = Self { claim: || usize::MAX, release: None };
}

/// How interrupts are masked on the caller's CPU: all those whose handlers call the engine. Plain functions, as in
/// [`CpuClaim`]. Handlers that can't be masked (NMI) must not call the engine.
#[derive(Debug, Clone, Copy)]
pub struct InterruptMask {
    /// Masks interrupts, and keeps the caller on its CPU. Gives the previous state, for [`Self::restore`]; calls nest.
    pub mask: fn() -> usize,
    /// Restores the state that [`Self::mask`] gave. Called on the same CPU, for the last mask first.
    pub restore: fn(usize),
}

/// Calls [`Machine::might_wait`] with debug assertions; otherwise nothing.
#[inline(always)]
pub(crate) fn might_wait(machine: &dyn Machine) {
    if cfg!(debug_assertions) {
        machine.might_wait();
    }
}

/// Sleeps while `word` holds `value` ([`Machine::wait`]). The caller holds no lock that spins without `std`: the machine may run
/// another thread, which waits for that lock on the same CPU for ever.
pub(crate) fn wait(machine: &dyn Machine, word: &AtomicU32, value: u32) {
    assert_none_held();
    machine.wait(word, value);
}

/// The number of an address space (an ASID or PCID without its limit of bits). Never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpaceId(pub u64);

/// An address space, as the machine sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Space {
    /// Its number.
    pub id: SpaceId,
    /// The frame of its top-level table, for CR3. In a flush it may be out of date, since roots move: a machine finds the CPUs
    /// of a space by its number or the word.
    pub root: Pfn,
    /// The machine's word, from [`Machine::root_made`].
    pub word: u64,
}

/// Translations to flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlushRange {
    /// The address space.
    pub space: Space,
    /// First page.
    pub start: VirtAddr,
    /// Number of 4 KiB pages.
    pub pages: u32,
    /// The order of each entry, 0 or 9: the step of a machine that flushes page by page. With `tables_changed` the step is 0,
    /// and entries of either order may have been there.
    pub order: Order,
    /// A page table of this range was removed, or one that serves `start` is moving, or the entries' order isn't known. So
    /// cached upper-level entries must be flushed as well, and translations of any order (x86: INVLPG does so anyway; Arm:
    /// not a last-level invalidation, and no TTL hint).
    pub tables_changed: bool,
}
