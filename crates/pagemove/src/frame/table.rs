//! The table of all frames, over storage that the machine lends, and their locks.
//!
//! The lock is a mutex of one word: 0 free, 1 held, 2 held and somebody may wait. All waiters are woken together,
//! since most of them don't want the lock but only the end of a move.

use alloc::sync::Arc;
use core::ops::Index;

use super::{Frame, Marks};
use crate::{
    port::{Machine, Table},
    sync::Ordering,
    units::Pfn,
};

const FREE: u32 = 0;
const HELD: u32 = 1;
const CONTENDED: u32 = 2;

/// All frames from 0 up to the end of RAM.
pub struct FrameTable {
    machine: Arc<dyn Machine>,
    frames: Table<Frame>,
}

impl FrameTable {
    /// Gives the bytes of storage that `frames` frames need.
    pub const fn bytes(frames: u32) -> usize {
        frames as usize * size_of::<Frame>()
    }

    /// Makes the table; `None` if the machine lends no storage for it.
    pub fn new(machine: Arc<dyn Machine>, frames: u32) -> Option<Self> {
        let frames = machine.lend(Self::bytes(frames))?.into_table(frames as usize)?;
        Some(Self { machine, frames })
    }

    /// Gives the number of frames.
    pub fn len(&self) -> u32 {
        self.frames.len() as u32
    }

    /// Tells whether there is no frame.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Gives the frame, or `None` beyond the end of RAM.
    pub fn get(&self, pfn: Pfn) -> Option<&Frame> {
        self.frames.get(pfn.index())
    }

    /// Locks the frame if that needs no waiting.
    pub fn try_lock(&self, pfn: Pfn) -> Option<FrameLock<'_>> {
        self.try_lock_raw(pfn).then(|| FrameLock { table: self, pfn })
    }

    /// Locks the frame; waits while somebody else, a move among them, holds it.
    pub fn lock(&self, pfn: Pfn) -> FrameLock<'_> {
        self.lock_raw(pfn);
        FrameLock { table: self, pfn }
    }

    /// Waits until nobody holds the lock at one moment; tells whether somebody did. Needs no reference: see the module's
    /// protocol.
    pub fn wait_unlocked(&self, pfn: Pfn) -> bool {
        let lock = &self[pfn].lock;
        let mut was_held = false;
        loop {
            // Acquire pairs with the Release of `unlock_raw`: what the move did is seen.
            let now = lock.load(Ordering::Acquire);
            was_held |= now != FREE;
            match now {
                FREE => return was_held,
                HELD => {
                    let _ = lock.compare_exchange(HELD, CONTENDED, Ordering::Relaxed, Ordering::Relaxed);
                }
                _ => self.machine.wait(lock, CONTENDED),
            }
        }
    }

    pub(crate) fn try_lock_raw(&self, pfn: Pfn) -> bool {
        // Acquire pairs with the Release of `unlock_raw`.
        self[pfn].lock.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    pub(crate) fn lock_raw(&self, pfn: Pfn) {
        if self.try_lock_raw(pfn) {
            return;
        }
        let lock = &self[pfn].lock;
        // Who waited can't know whether others still do, and so takes the lock as contended.
        while lock.swap(CONTENDED, Ordering::Acquire) != FREE {
            self.machine.wait(lock, CONTENDED);
        }
    }

    /// Locks a frame that was set aside: nobody else takes its lock, at most somebody waits for a lock that it had before.
    pub(crate) fn lock_set_aside(&self, pfn: Pfn) {
        // Relaxed: what led here is the allocator's lock. No compare-and-swap: it's free, and only we would take it.
        self[pfn].lock.store(HELD, Ordering::Relaxed);
    }

    pub(crate) fn unlock_raw(&self, pfn: Pfn) {
        let lock = &self[pfn].lock;
        // Release pairs with the Acquire of the next holder and of `wait_unlocked`.
        let before = lock.swap(FREE, Ordering::Release);
        debug_assert_ne!(before, FREE, "a frame was unlocked that nobody held");
        if before == CONTENDED {
            self.machine.wake(lock);
        }
    }

    /// Marks the page as being written to its backing store: moves leave it, or wait. The caller has a reference.
    pub fn start_writeback(&self, pfn: Pfn) {
        self[pfn].mark(Marks::WRITEBACK);
    }

    /// Ends what [`Self::start_writeback`] began.
    pub fn end_writeback(&self, pfn: Pfn) {
        self[pfn].unmark(Marks::WRITEBACK);
        self.machine.wake(&self[pfn].state);
    }

    /// Waits until the page isn't being written to its backing store.
    pub fn wait_writeback(&self, pfn: Pfn) {
        loop {
            let bits = self[pfn].state.load(Ordering::Acquire);
            if bits & Marks::WRITEBACK.bits() == 0 {
                return;
            }
            self.machine.wait(&self[pfn].state, bits);
        }
    }

    /// Tells whether somebody holds the lock right now.
    pub fn is_locked(&self, pfn: Pfn) -> bool {
        self[pfn].lock.load(Ordering::Relaxed) != FREE
    }
}

impl Index<Pfn> for FrameTable {
    type Output = Frame;

    fn index(&self, pfn: Pfn) -> &Frame {
        &self.frames[pfn.index()]
    }
}

/// Holds the lock of a frame.
#[must_use = "the lock is given back when this is dropped"]
pub struct FrameLock<'a> {
    table: &'a FrameTable,
    pfn: Pfn,
}

impl FrameLock<'_> {
    /// Names the frame.
    pub fn pfn(&self) -> Pfn {
        self.pfn
    }
}

impl Drop for FrameLock<'_> {
    fn drop(&mut self) {
        self.table.unlock_raw(self.pfn);
    }
}
