//! A processor's own lists of free order-0 frames, by migratetype, so that most allocations take no shared lock and make
//! no atomic change but that of the frame itself.
//!
//! # Protocol
//! The processor enters with plain stores and loads: `inside` on, then it looks whether `revoked` is set, and if so goes
//! away to the zone's lists. Who comes from elsewhere, to drain, sets `revoked`, makes all processors pass a memory barrier
//! ([`Machine::barrier`]), and waits until `inside` is off. Of the two stores one comes before that barrier, so that one
//! of the two sees the other's. That is biased locking: the rare side pays for both.
//!
//! `unsafe`: handing out the lists by shared reference, relying on this protocol and on what [`Machine`] promises.
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

/// Frames fetched at once when a list is empty.
pub(super) const BATCH: usize = 64;
/// Most frames that a list keeps, however large the zone.
const HIGHEST: usize = 4096;

/// The class that frames on a list count as: what they mostly were, and will be. So freeing and allocating through the
/// list changes no count for pages of that class.
pub(super) const fn listed_class(migratetype: Migratetype) -> Class {
    match migratetype {
        Migratetype::Movable => Class::Lru,
        Migratetype::Unmovable => Class::Kernel,
        Migratetype::Reclaimable => Class::Slab,
    }
}

/// Lists of one processor for one zone.
pub(crate) struct CpuLists {
    lists: [Vec<Pfn>; 3],
    high: usize,
}

impl CpuLists {
    /// Makes empty lists for a zone of `frames` frames that `cpus` processors share; all lists together keep at most an
    /// eighth of it, as in Linux since 5.14.
    fn new(frames: u32, cpus: usize) -> Self {
        let high = (frames as usize / 8 / cpus / 3).clamp(BATCH, HIGHEST);
        Self { lists: core::array::from_fn(|_| Vec::with_capacity(high + BATCH)), high }
    }

    /// Gives the number of frames beyond which a list gives half of them back.
    pub(super) fn high(&self) -> usize {
        self.high
    }

    /// Gives the list of `migratetype`.
    pub(super) fn list(&mut self, migratetype: Migratetype) -> &mut Vec<Pfn> {
        &mut self.lists[migratetype as usize]
    }

    /// Gives the list of `migratetype` if it has room for one more.
    pub(super) fn room(&mut self, migratetype: Migratetype) -> Option<&mut Vec<Pfn>> {
        self.lists.get_mut(migratetype as usize).filter(|list| list.len() < self.high)
    }

    /// Gives the number of frames on all lists.
    pub(super) fn len(&self) -> usize {
        self.lists.iter().map(Vec::len).sum()
    }

    /// Empties all lists into `out`.
    pub(super) fn drain(&mut self, mut out: impl FnMut(Pfn)) {
        self.lists.iter_mut().flat_map(|list| list.drain(..)).for_each(&mut out);
    }
}

/// The lists of one processor, and who is at them. On cache lines of its own.
#[repr(align(128))]
pub(crate) struct CpuLocal {
    inside: AtomicBool,
    revoked: AtomicBool,
    lists: UnsafeCell<CpuLists>,
}

// SAFETY: the lists are reached only through `Inside`, of which one exists at a time by the protocol above.
unsafe impl Sync for CpuLocal {}

impl CpuLocal {
    pub(crate) fn new(frames: u32, cpus: usize) -> Self {
        Self {
            inside: AtomicBool::new(false),
            revoked: AtomicBool::new(false),
            lists: UnsafeCell::new(CpuLists::new(frames, cpus)),
        }
    }

    /// Gives the bytes of it all.
    pub(super) fn bytes(&self, machine: &dyn Machine) -> usize {
        let inside = self.revoke(machine);
        size_of::<Self>() + inside.lists.iter().map(Vec::capacity).sum::<usize>() * size_of::<Pfn>()
    }

    /// Goes in as the processor that the lists are of; `None` if somebody else is at them, or this processor already is,
    /// further up its stack.
    ///
    /// # Safety
    /// The caller is alone on the processor until the value is dropped: it has claimed it from the machine.
    pub(crate) unsafe fn enter(&self) -> Option<Inside<'_>> {
        // Relaxed: only this processor sets it.
        if self.inside.load(Ordering::Relaxed) {
            return None;
        }
        self.inside.store(true, Ordering::Relaxed);
        // The processor may still do the load first: the barrier that the other side orders makes up for it.
        light_barrier();
        // Acquire pairs with the Release in `Inside::drop` of who revoked: what he did to the lists is seen.
        if self.revoked.load(Ordering::Acquire) {
            self.inside.store(false, Ordering::Release);
            return None;
        }
        Some(Inside { flag: &self.inside, of: &self.lists })
    }

    /// Goes in from any processor: keeps the lists' own one out, and waits until it is out.
    pub(crate) fn revoke(&self, machine: &dyn Machine) -> Inside<'_> {
        self.begin_revoking(machine);
        machine.barrier();
        // SAFETY: just begun, and the barrier passed.
        unsafe { self.finish_revoking(machine) }
    }

    /// Keeps the lists' own processor from entering again, until [`Self::finish_revoking`].
    pub(crate) fn begin_revoking(&self, machine: &dyn Machine) {
        // Acquire pairs with the Release of the one who revoked before; the barrier orders it before the look at `inside`.
        while self.revoked.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            machine.pause();
        }
    }

    /// Waits until the processor is out.
    ///
    /// # Safety
    /// The caller has begun to revoke these lists, and has made all processors pass a barrier since: one suffices for many lists.
    pub(crate) unsafe fn finish_revoking(&self, machine: &dyn Machine) -> Inside<'_> {
        // Acquire pairs with the Release of the processor when it goes.
        while self.inside.load(Ordering::Acquire) {
            machine.pause();
        }
        Inside { flag: &self.revoked, of: &self.lists }
    }
}

/// Access to a processor's lists; ends when dropped.
pub(crate) struct Inside<'a> {
    flag: &'a AtomicBool,
    of: &'a UnsafeCell<CpuLists>,
}

impl Deref for Inside<'_> {
    type Target = CpuLists;

    fn deref(&self) -> &CpuLists {
        // SAFETY: one `Inside` at a time: of two of them, the processor's own one found `revoked` off after it had set
        // `inside`, and so came before the barrier of the other, who then waited for `inside`. Two others exclude each
        // other by `revoked`; two of the processor's own would break `enter`'s condition.
        unsafe { &*self.of.get() }
    }
}

impl DerefMut for Inside<'_> {
    fn deref_mut(&mut self) -> &mut CpuLists {
        // SAFETY: as in `deref`.
        unsafe { &mut *self.of.get() }
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.flag.store(false, Ordering::Release);
    }
}
