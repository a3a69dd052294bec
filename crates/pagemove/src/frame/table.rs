//! The table of all frames, in storage lent by the machine, and the folios' locks.
//!
//! # Waiting for a lock
//! The lock is a bit of the folio's word. A thread can't sleep on that word, since it changes all the time. So each
//! frame has an event count, `wakes`: a waiter reads it, reads the lock, sets WAITERS, and sleeps while the event count
//! is unchanged. Releasing a lock with WAITERS raises the event count and wakes all, since most waiters don't want the
//! lock: they wait for the end of a move. So that they can use the page before the next move, the event count has the time, and a
//! claim leaves the folio alone for a while.

use alloc::sync::Arc;
use core::ops::Index;

use super::{Counts, Frame, Marks, Put, Spans};
use crate::{
    port::{Machine, Table, might_wait, wait},
    sync::Ordering,
    units::Pfn,
};

/// The frames of all zones, and of holes between them.
pub struct FrameTable {
    machine: Arc<dyn Machine>,
    spans: Spans,
    /// The frame of the first entry.
    start: Pfn,
    frames: Table<Frame>,
}

impl FrameTable {
    /// Gives the storage that the frames of `spans` need, in bytes.
    pub(crate) fn bytes(spans: &Spans) -> usize {
        spans.frames() as usize * size_of::<Frame>()
    }

    /// Makes the table; `None` if the machine lends no storage for it.
    pub(crate) fn new(machine: Arc<dyn Machine>, spans: Spans) -> Option<Self> {
        let (memory, entries) = spans.lend(&*machine, 0, size_of::<Frame>())?;
        let (start, frames) = (spans.ends().start, memory.into_table(entries)?);
        Some(Self { machine, spans, start, frames })
    }

    /// Gives the number of a frame of a zone, for 4 bytes instead of 8.
    pub(crate) fn number(&self, pfn: Pfn) -> u32 {
        self.spans.number(pfn).unwrap_or_else(|| not_in_memory(pfn))
    }

    /// Gives the frame of a number.
    pub(crate) fn pfn(&self, number: u32) -> Pfn {
        self.spans.pfn(number)
    }

    /// Gives the first frame behind all zones.
    pub fn end(&self) -> Pfn {
        self.spans.ends().end
    }

    /// Gives the number of frames of all zones, of holes of less than 128 MiB, and of a few in front of each part of memory.
    pub fn len(&self) -> u32 {
        self.spans.frames()
    }

    /// Tells whether there is no frame.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Gives the spans.
    pub(crate) fn spans(&self) -> &Spans {
        &self.spans
    }

    /// Gives the frame; `None` below the first zone and behind the last. A frame of a hole is like a free one inside a block.
    #[inline(always)]
    pub fn get(&self, pfn: Pfn) -> Option<&Frame> {
        self.frames.get(self.place(pfn))
    }

    /// The place of a frame in the table, or a place beyond it.
    #[inline(always)]
    fn place(&self, pfn: Pfn) -> usize {
        pfn.get().wrapping_sub(self.start.get()) as usize
    }

    /// Waits until the lock of `pfn`'s folio is free at some moment; tells whether it was held. Needs no reference: see
    /// the protocol of the module [`crate::frame`].
    pub fn wait_unlocked(&self, pfn: Pfn) -> bool {
        might_wait(&*self.machine);
        let mut was_held = false;
        loop {
            // Again each time: a split makes the page a folio of its own.
            let frame = self.head(pfn);
            let wakes = frame.wakes.load();
            let counts = frame.counts.load();
            if !counts.is_locked() {
                return was_held;
            }
            was_held = true;
            self.sleep(frame, counts, wakes);
        }
    }

    /// Locks the frame if that needs no wait. The caller has a reference.
    pub(crate) fn try_lock_raw(&self, pfn: Pfn) -> bool {
        self[pfn].counts.try_lock().is_ok()
    }

    /// Locks the frame; waits while the lock is held, for example by a move. The caller has a reference.
    pub(crate) fn lock_raw(&self, pfn: Pfn) {
        might_wait(&*self.machine);
        let frame = &self[pfn];
        loop {
            let wakes = frame.wakes.load();
            match frame.counts.try_lock() {
                Ok(()) => return,
                Err(counts) => self.sleep(frame, counts, wakes),
            }
        }
    }

    /// Sleeps until the lock is released. `counts`, read after `wakes`, showed it held. May return early.
    fn sleep(&self, frame: &Frame, counts: Counts, wakes: u32) {
        if frame.counts.announce_waiter(counts) {
            wait(&*self.machine, frame.wakes.word(), wakes);
        }
    }

    /// Locks a frame that only the caller can use: new or set aside, and without reference.
    pub(crate) fn lock_exclusive(&self, pfn: Pfn) {
        self[pfn].counts.lock_exclusive();
    }

    /// Releases the lock; tells whether threads waited for it.
    pub(crate) fn unlock_raw(&self, pfn: Pfn) -> bool {
        let has_waiters = self[pfn].counts.unlock();
        if has_waiters {
            self.wake_waiters(pfn);
        }
        has_waiters
    }

    /// Releases the lock and gives the caller's reference back, in one change.
    pub(crate) fn unlock_and_put(&self, pfn: Pfn) -> Put {
        let (has_waiters, put) = self[pfn].counts.unlock_and_put();
        if has_waiters {
            self.wake_waiters(pfn);
        }
        put
    }

    #[cold]
    fn wake_waiters(&self, pfn: Pfn) {
        self[pfn].wakes.raise();
        self.machine.wake(self[pfn].wakes.word());
    }

    /// For a while the folio isn't claimed: threads have waited for a move of it.
    #[cold]
    pub(crate) fn let_waiters_go_first(&self, pfn: Pfn) {
        self[pfn].wakes.has_moved(self.machine.now_ns());
    }

    /// Waits until threads that have waited for a move of the folio had their time; not for those that wait later, or it might never end.
    pub(crate) fn wait_for_waiters(&self, pfn: Pfn) {
        let seen = self[pfn].wakes.load();
        while self.is_awaited(pfn) && self[pfn].wakes.load() == seen {
            self.machine.pause();
        }
    }

    /// Tells whether threads that have waited for a move of the folio may still be about to use it.
    pub(crate) fn is_awaited(&self, pfn: Pfn) -> bool {
        let wakes = &self[pfn].wakes;
        // Most frames never had a waiter, and the clock isn't read for them.
        wakes.has_time() && wakes.is_recent(self.machine.now_ns())
    }

    /// Marks the folio of a dirty entry for `pfn`, whatever owns it. (Trap 2 of 2016 was to look for a page cache here.)
    pub(crate) fn mark_dirty(&self, pfn: Pfn) {
        let frame = self.head(pfn);
        // Read first: the mark is mostly set already, and a read costs little compared with an atomic change.
        if !frame.state().marks().contains(Marks::DIRTY) {
            frame.mark(Marks::DIRTY);
        }
    }

    /// Marks the folio as being written to its backing store: moves skip it, or wait. The caller has a reference.
    pub(crate) fn start_writeback(&self, pfn: Pfn) {
        self[pfn].mark(Marks::WRITEBACK);
    }

    /// Ends the writeback; [`Self::wake_writeback`] must follow.
    pub(crate) fn end_writeback(&self, pfn: Pfn) {
        self[pfn].unmark(Marks::WRITEBACK);
    }

    /// Wakes the threads that wait for the end of a writeback.
    pub(crate) fn wake_writeback(&self, pfn: Pfn) {
        self.machine.wake(&self[pfn].state);
    }

    /// Waits for the end of a writeback.
    pub(crate) fn wait_writeback(&self, pfn: Pfn) {
        might_wait(&*self.machine);
        loop {
            let bits = self[pfn].state.load(Ordering::Acquire);
            if bits & Marks::WRITEBACK.bits() == 0 {
                return;
            }
            wait(&*self.machine, &self[pfn].state, bits);
        }
    }

    /// Tells whether the lock is held right now.
    pub fn is_locked(&self, pfn: Pfn) -> bool {
        self[pfn].counts.load().is_locked()
    }
}

impl Index<Pfn> for FrameTable {
    type Output = Frame;

    #[inline(always)]
    fn index(&self, pfn: Pfn) -> &Frame {
        &self.frames[self.place(pfn)]
    }
}

// Cold and out of line, to keep formatting off the hot path.
#[cold]
pub(crate) fn not_in_memory(pfn: Pfn) -> ! {
    panic!("frame {pfn} is in no zone of this memory")
}
