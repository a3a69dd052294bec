//! Per-CPU lists of free order-0 frames, by migratetype. Most allocations take no shared lock, and change no atomic but
//! the frame's own.
//!
//! # Protocol
//! The owning CPU enters with plain stores and loads: it sets `inside`, then reads `revoked`; if that is set it uses
//! the zone's lists instead. A draining thread sets `revoked`, makes all CPUs pass a memory barrier
//! ([`Machine::barrier`]), and waits until `inside` is clear. One of the two stores comes before that barrier, so at
//! least one of the two threads sees the other's. This is biased locking: the rare side pays for both.
//!
//! `unsafe`: access to the lists through a shared reference. Relies on this protocol and on the contract of
//! [`Machine`].
#![allow(unsafe_code)]

use alloc::vec::Vec;
use core::{
    cell::UnsafeCell,
    ops::{Deref, DerefMut},
};

use super::pageblock::Migratetype;
use crate::{
    frame::Class,
    port::Machine,
    sync::{AtomicBool, Ordering, light_barrier},
    units::Pfn,
};

/// Frames that an empty list is refilled with.
pub(super) const BATCH: usize = 64;
/// Most frames on a list, for a zone of any size.
const MAX_HIGH: usize = 4096;

/// The class that listed frames are accounted under, the list's usual one: so freeing and allocating through the list
/// changes no count for pages of that class.
pub(super) const fn listed_class(migratetype: Migratetype) -> Class {
    match migratetype {
        Migratetype::Movable => Class::Lru,
        Migratetype::Unmovable => Class::Kernel,
        Migratetype::Reclaimable => Class::Slab,
    }
}

/// Lists of one CPU for one zone.
pub(crate) struct CpuLists {
    lists: [Vec<Pfn>; 3],
    high: usize,
}

impl CpuLists {
    /// Makes empty lists for a zone of `frames` frames shared by `cpus` CPUs; all lists together keep at most an eighth
    /// of it, as in Linux since 5.14.
    fn new(frames: u32, cpus: usize) -> Self {
        let high = Self::most(frames, cpus);
        Self { lists: core::array::from_fn(|_| Vec::with_capacity(high + BATCH)), high }
    }

    /// Gives the limit of each list (Linux: `high`).
    fn most(frames: u32, cpus: usize) -> usize {
        (frames as usize / 8 / cpus / 3).clamp(BATCH, MAX_HIGH)
    }

    /// Gives the limit of a list; above it, half of that many frames are returned to the zone.
    pub(super) fn high(&self) -> usize {
        self.high
    }

    /// Gives the list of `migratetype`.
    pub(super) fn list(&mut self, migratetype: Migratetype) -> &mut Vec<Pfn> {
        &mut self.lists[migratetype as usize]
    }

    /// Gives the list of `migratetype` if it is below its limit.
    pub(super) fn list_with_space(&mut self, migratetype: Migratetype) -> Option<&mut Vec<Pfn>> {
        self.lists.get_mut(migratetype as usize).filter(|list| list.len() < self.high)
    }

    /// Gives the number of frames on all lists.
    pub(super) fn len(&self) -> usize {
        self.lists.iter().map(Vec::len).sum()
    }

    /// Tells whether no list has a frame.
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Empties all lists into `out`.
    pub(super) fn drain(&mut self, mut out: impl FnMut(Pfn)) {
        self.lists.iter_mut().flat_map(|list| list.drain(..)).for_each(&mut out);
    }
}

/// The lists of one CPU, with the flags of the protocol. On separate cache lines.
#[repr(align(128))]
pub(crate) struct CpuLocal {
    inside: AtomicBool,
    revoked: AtomicBool,
    lists: UnsafeCell<CpuLists>,
}

// SAFETY: the lists are reached only through `CpuGuard`, of which one exists at a time by the protocol above.
unsafe impl Sync for CpuLocal {}

impl CpuLocal {
    pub(crate) fn new(frames: u32, cpus: usize) -> Self {
        Self {
            inside: AtomicBool::new(false),
            revoked: AtomicBool::new(false),
            lists: UnsafeCell::new(CpuLists::new(frames, cpus)),
        }
    }

    /// Enters as the owning CPU; `None` if revoked or re-entered (an interrupt handler may get the same CPU number).
    ///
    /// # Safety
    /// The caller has claimed the CPU from the machine, and keeps it until the value is dropped.
    pub(crate) unsafe fn enter(&self) -> Option<CpuGuard<'_>> {
        // Relaxed: only this CPU sets it.
        if self.inside.load(Ordering::Relaxed) {
            return None;
        }
        self.inside.store(true, Ordering::Relaxed);
        // The CPU may do the load before the store; the draining thread's barrier makes up for that.
        light_barrier();
        // Acquire pairs with the Release in `CpuGuard::drop` of the thread that revoked: what it did to the lists is seen.
        if self.revoked.load(Ordering::Acquire) {
            self.inside.store(false, Ordering::Release);
            return None;
        }
        Some(CpuGuard { flag: &self.inside, local: self })
    }

    /// Keeps the owning CPU from entering again, until [`Self::finish_revoking`].
    fn begin_revoking(&self, machine: &dyn Machine) {
        // Acquire pairs with the Release of the thread that revoked before; the barrier orders this before the read of
        // `inside`.
        while self.revoked.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            machine.pause();
        }
    }

    /// Waits until the owning CPU has left.
    ///
    /// # Safety
    /// The caller has begun to revoke these lists, and has then made all CPUs pass a barrier; one barrier serves many
    /// lists.
    unsafe fn finish_revoking(&self, machine: &dyn Machine) -> CpuGuard<'_> {
        // Acquire pairs with the Release of the CPU when it leaves.
        while self.inside.load(Ordering::Acquire) {
            machine.pause();
        }
        CpuGuard { flag: &self.revoked, local: self }
    }

    /// Gives the bytes of a CPU's lists for a zone of `frames` frames shared by `cpus` CPUs.
    pub(super) fn bytes(frames: u32, cpus: usize) -> usize {
        size_of::<Self>() + Migratetype::ALL.len() * (CpuLists::most(frames, cpus) + BATCH) * size_of::<Pfn>()
    }
}

/// Enters lists from any CPU: keeps their owning CPUs out, and waits until these have left. One barrier serves all of them. The
/// result must be read to its end, and calls of `lists` must give the same ones.
pub(crate) fn revoke_all<'c, L: Iterator<Item = &'c CpuLocal>>(
    lists: impl Fn() -> L,
    machine: &dyn Machine,
) -> impl Iterator<Item = CpuGuard<'c>> {
    // Each list is closed to its CPU before the barrier, and read after it.
    lists().for_each(|cpu| cpu.begin_revoking(machine));
    machine.barrier();
    // SAFETY: begun above for the same lists, and the barrier passed since.
    lists().map(move |cpu| unsafe { cpu.finish_revoking(machine) })
}

/// Access to a CPU's lists; ends when dropped.
pub(crate) struct CpuGuard<'a> {
    flag: &'a AtomicBool,
    local: &'a CpuLocal,
}

impl Deref for CpuGuard<'_> {
    type Target = CpuLists;

    fn deref(&self) -> &CpuLists {
        // SAFETY: one guard at a time. The owning CPU's and a draining thread's: the CPU found `revoked` clear after it
        // had set `inside`, so before the thread's barrier; the thread then waited for `inside`. Two draining threads
        // exclude each other by `revoked`. Two guards of the owning CPU would break `enter`'s contract.
        unsafe { &*self.local.lists.get() }
    }
}

impl DerefMut for CpuGuard<'_> {
    fn deref_mut(&mut self) -> &mut CpuLists {
        // SAFETY: as in `deref`.
        unsafe { &mut *self.local.lists.get() }
    }
}

impl Drop for CpuGuard<'_> {
    fn drop(&mut self) {
        self.flag.store(false, Ordering::Release);
    }
}
