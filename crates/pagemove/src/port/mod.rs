//! What a machine must offer: a direct map of its RAM, storage, TLB flushes, a processor's number, waiting, masked interrupts and time.
//!
//! | file | does |
//! | --- | --- |
//! | `mod` | the trait, and the plain functions and names in it |
//! | `ram` | the direct map |
//! | `lent` | memory for metadata |
//! | `masked` | the lock that interrupt handlers may take |
//!
//! # What may be called where
//!
//! An interrupt handler may run at any point of the code that it interrupts, so also while that has a lock or a CPU's lists. It may
//! call what says "yes" in the last column, on a machine that gives an [`InterruptMask`].
//!
//! | call | may sleep | may interrupt other CPUs | in an interrupt |
//! | --- | --- | --- | --- |
//! | `Physical::alloc_with` with `Effort::Lists` | no | no | yes |
//! | `alloc`, `alloc_exactly`; `alloc_with` with `Effort::Drain` | no | yes | no |
//! | `alloc_with` with `Effort::Compact` | yes | yes | no |
//! | `Physical::get`; `publish` and dropping of a `FrozenFolio`; `clone` and dropping of a `FolioRef` | no | no | yes |
//! | dropping a `PinnedPage`; `Pins::of`, `all` | no | no | yes, if the heap may be called there |
//! | reading frames, summaries, counters and events | no | no | yes |
//! | `FolioRef::try_lock`, `start_writeback`; dropping a `LockedFolio` or `Writeback` | no | no | yes, if [`Machine::wake`] may be called there |
//! | `FolioRef::lock`, `FrameTable::wait_unlocked` | yes | no | no |
//! | `drain_cpu_lists`, `free_frames` | no | yes | no |
//! | all else: indexes, registrations, reverse maps, address spaces, moves, compaction | yes | yes | no |
//!
//! What may interrupt other CPUs waits for them, so it must not be called with interrupts masked: two CPUs that did would wait for
//! each other. With debug assertions the engine calls [`Machine::might_wait`] at the start of allocations, draining, locks of frames,
//! unregistering, moves, flushes, and calls of address spaces.
//!
//! The table of pins is on the heap, and changed with interrupts masked. So a kernel that has pins needs a heap that doesn't sleep,
//! and that masks interrupts if handlers use it or drop pins. A heap whose memory is the engine's takes it with `Effort::Lists`.
//!
//! In an interrupt nobody drops the last `Arc` of the engine.

mod lent;
mod masked;
mod ram;

pub use lent::LentMemory;
pub(crate) use lent::{Table, Zeroed};
pub(crate) use masked::MaskedMutex;
pub use ram::{Contents, Ram};

use crate::{
    sync::AtomicU32,
    units::{Order, Pfn, VirtAddr},
};

/// The machine below the engine. A kernel implements it over its hardware; `pagemove-hosted` does inside a Linux process.
///
/// # Safety
/// Between a call of [`CpuClaim::claim`] that gives a processor's number and the [`CpuClaim::release`] that follows, nobody
/// else gets the same number, but for code that interrupts the claimer and ends before it goes on. [`Self::barrier`] and
/// [`Self::take_ram`] do what they say.
#[allow(unsafe_code, reason = "a processor's number is relied on for exclusive access")]
pub unsafe trait Machine: Send + Sync + 'static {
    /// Gives the direct map of all RAM that the engine may manage, to the engine that boots first; `None` to all others: two would hand out
    /// the same frames.
    fn take_ram(&self) -> Option<Ram>;

    /// Takes note that an engine has ended, or didn't boot, and uses the RAM no longer: a machine may give it to another one.
    fn return_ram(&self) {}

    /// Lends `bytes` of zeroed memory, aligned to 64 bytes, for the engine's metadata; `None` if it can't be had.
    fn lend(&self, bytes: usize) -> Option<LentMemory>;

    /// Takes note of a new address space, whose top-level table at frame `root` is empty, before any CPU is switched to it. A kernel fills
    /// in the entries of its own half, which the engine leaves alone. Gives a word that comes with every flush of the space: a PCID, or
    /// where the machine keeps which CPUs have it.
    fn root_made(&self, id: SpaceId, root: Pfn) -> u64 {
        let _ = (id, root);
        0
    }

    /// Ends an address space that is empty and flushed. When this returns no CPU has its root any more, though one had been switched away
    /// from it lazily: the frame is freed then.
    fn root_freed(&self, space: Space) {
        let _ = space;
    }

    /// Removes the translations of all `ranges` from every processor's TLB, and waits until no processor uses one.
    ///
    /// Accesses that used an old translation are complete when this returns. A fill that read the tables before must
    /// not become visible afterwards.
    fn flush(&self, ranges: &[FlushRange]);

    /// Gives the number of processors.
    fn cpus(&self) -> usize;

    /// Tells how a caller claims the processor that it's on; asked once, at boot.
    fn cpu_claim(&self) -> CpuClaim;

    /// Tells how interrupts are masked on the caller's processor; asked once, at boot. `None`: no interrupt handler calls the engine.
    fn interrupt_mask(&self) -> Option<InterruptMask> {
        None
    }

    /// Makes every processor pass a full memory barrier before this returns; a kernel interrupts them (Linux offers it to
    /// programs as `membarrier`). Called when free frames are collected from all processors.
    fn barrier(&self);

    /// Sleeps while `word` holds `value`, until [`Self::wake`] is called for it; may return early.
    fn wait(&self, word: &AtomicU32, value: u32);

    /// Wakes all that wait on `word`.
    fn wake(&self, word: &AtomicU32);

    /// Called, with debug assertions only, at the start of every call that may sleep or wait for other processors. A machine that can
    /// tell panics if interrupts are masked, or if an interrupt handler is the caller (Linux: `might_sleep`).
    fn might_wait(&self) {}

    /// Lets others run for a moment.
    fn pause(&self) {
        core::hint::spin_loop();
    }

    /// Gives a monotonic time in nanoseconds.
    fn now_ns(&self) -> u64;
}

/// How a caller keeps the processor that it's on to itself for a few instructions. Plain functions, as each allocation
/// calls them. Claims nest: an interrupt handler claims while the code that it interrupted has a claim.
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

/// How interrupts are masked on the processor that the caller is on: all those whose handlers call the engine. Plain functions, as
/// for [`CpuClaim`]. Handlers that can't be masked must not call the engine.
#[derive(Debug, Clone, Copy)]
pub struct InterruptMask {
    /// Masks, and keeps the caller on its processor. Gives what [`Self::restore`] needs to put back what was before; calls nest.
    pub mask: fn() -> usize,
    /// Restores what the call of [`Self::mask`] found that gave the value. Called on the same processor, the last one first.
    pub restore: fn(usize),
}

/// Calls [`Machine::might_wait`] where debug assertions are on; elsewhere it costs nothing.
#[inline(always)]
pub(crate) fn might_wait(machine: &dyn Machine) {
    if cfg!(debug_assertions) {
        machine.might_wait();
    }
}

/// Names an address space in flushes (an ASID or PCID without its limit of bits). Never given twice: 2^64 don't wrap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpaceId(pub u64);

/// An address space as the machine knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Space {
    /// Its number.
    pub id: SpaceId,
    /// The frame of its top-level table: what a CPU's register (CR3) holds.
    pub root: Pfn,
    /// What [`Machine::root_made`] gave: the machine's own.
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
    /// What each entry maps: order 0 or 9. A machine that flushes page by page can go by this step.
    pub order: Order,
    /// A table that entries of this range point to was taken out: translations that were kept of upper levels must go as well (x86:
    /// INVLPG drops them anyway; Arm: not a last-level invalidation).
    pub tables_changed: bool,
}
