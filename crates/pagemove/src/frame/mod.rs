//! The frame table: 32 bytes for each frame of physical memory, lent by the machine.
//!
//! # Protocol
//!
//! | field | who may change it |
//! | --- | --- |
//! | `lock` | anybody; 0 free, 1 held, 2 held and somebody waits ([`FrameTable::lock`]) |
//! | `counts`: references | +1 by who has one, or by [`Frame::get_unless_zero`]; 0 means free **or frozen by a move** |
//! | `counts`: mappings | who puts an entry into a page table, before it does; who takes one out, after it did |
//! | `pins` | who pins, holding a reference meanwhile; so `pins > 0` implies `refs > 0` |
//! | `state` | kind and order: who allocates; marks: one bit each, set and cleared by that mark's own calls only |
//! | `owner`, `key` | who allocates, before the frame is visible; while the frame is locked, its owner. Free: the zone |
//!
//! A reference is held by each page-table entry (with a map count), by the owner that keeps the frame in an index, by
//! pins, and for short by whoever looks at a frame. A migration entry holds none: the lock of its frame stands for it.
//!
//! References and mappings are two halves of one word, since most changes of one are a change of the other as well.
//!
//! A move claims the frame (reference and lock), turns its entries into migration entries, flushes, and *freezes*:
//! compare-and-swap from the references that it expects, and no mapping, to none at all. Who wants a reference then fails in `get_unless_zero`, and
//! waits for the lock. Reuse of a freed frame can't be mistaken for the old one: who waits holds no claim on the frame,
//! and looks again at the entry or index that led there.

mod pins;
mod state;
mod table;

pub use pins::{PinRecord, Pins};
pub use state::{Class, Kind, Marks, State};
pub use table::{FrameLock, FrameTable};

use crate::{
    port::Zeroed,
    sync::{AtomicU32, AtomicU64, Ordering},
};

/// What is known of one frame.
///
/// # Invariants
/// All zero is a free frame inside a free block. See the module's table for who changes what.
#[derive(Debug, Default)]
#[repr(C, align(32))]
pub struct Frame {
    lock: AtomicU32,
    pins: AtomicU32,
    counts: AtomicU64,
    state: AtomicU32,
    owner: AtomicU32,
    key: AtomicU64,
}

/// References, in the lower half of `counts`.
const REFERENCE: u64 = 1;
/// Mappings, in the upper half.
const MAPPING: u64 = 1 << 32;

#[cfg(not(feature = "loom"))]
const _: () = assert!(size_of::<Frame>() == 32, "Linux has 64; what is here is paid for by every frame of memory");

#[allow(unsafe_code)]
// SAFETY: atomics only.
unsafe impl Zeroed for Frame {}

/// Where a frame stands in the object that its mappings map: which reverse map, and at which page of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Key {
    /// Number of the reverse map in its registry; 0: nothing can map the frame.
    pub rmap: u32,
    /// Page offset in the object; an owner without reverse map may use it for itself.
    pub index: u32,
}

/// What became of a reference that was given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "the last reference obliges to free the frame"]
pub enum Put {
    /// Others are left.
    Shared,
    /// It was the last one; the frame is the caller's alone, to be freed.
    Last,
}

impl Frame {
    /// Takes a reference, unless there is none: then the frame is free or frozen.
    pub fn get_unless_zero(&self) -> bool {
        // Acquire pairs with the Release of `set_counts` and `put`: fields written before the frame got its count are seen.
        // Also on failure, with that of `freeze`: who finds it frozen finds its lock held, and so waits instead of spinning.
        self.counts
            .fetch_update(Ordering::Acquire, Ordering::Acquire, |counts| {
                if counts as u32 == 0 || counts as u32 == u32::MAX { None } else { Some(counts + REFERENCE) }
            })
            .is_ok()
    }

    /// Takes one more reference; the caller has one.
    pub fn get(&self) {
        // Relaxed: the caller's own reference keeps the frame as it is.
        let before = self.counts.fetch_add(REFERENCE, Ordering::Relaxed);
        debug_assert_ne!(before as u32, 0, "a reference was taken without having one");
    }

    /// Gives a reference back.
    pub fn put(&self) -> Put {
        // AcqRel: what each holder did with the frame is before its freeing, which the last one does.
        let before = self.counts.fetch_sub(REFERENCE, Ordering::AcqRel);
        assert_ne!(before as u32, 0, "a reference was given back that nobody had");
        if before as u32 == 1 { Put::Last } else { Put::Shared }
    }

    /// Reads the references.
    pub fn refs(&self) -> u32 {
        // Acquire pairs with the Release of `put` and `unmapped_with_reference`: what those did who are gone is done.
        self.counts.load(Ordering::Acquire) as u32
    }

    /// Reads how many page-table entries map the frame.
    pub fn maps(&self) -> u32 {
        // Acquire pairs with the Release of `unmapped`: the entry is gone when its count is.
        (self.counts.load(Ordering::Acquire) >> 32) as u32
    }

    /// Tells whether nobody has a reference, and nothing maps the frame.
    pub(crate) fn is_frozen(&self) -> bool {
        // Relaxed: to check a caller, not to order anything.
        self.counts.load(Ordering::Relaxed) == 0
    }

    /// Tells whether each reference is a mapping's, but for `others`.
    pub(crate) fn has_only_mappings_and(&self, others: u32) -> bool {
        // Early advice, since `freeze` decides. Acquire pairs with the Release of `put`: the owner that is then asked sees what
        // the last holder wrote down about the page.
        let counts = self.counts.load(Ordering::Acquire);
        counts as u32 == (counts >> 32) as u32 + others
    }

    /// Freezes: from `expected` references and no mapping to none, if the counts are just that. The caller holds the lock
    /// and one of the references.
    pub(crate) fn freeze(&self, expected: u32) -> bool {
        // AcqRel: Acquire pairs with the Release in `put` and `unmapped` of those that are gone, so that their stores are
        // copied; Release orders the blocked entries before the zero that `get_unless_zero` sees.
        let expected = u64::from(expected);
        self.counts.compare_exchange(expected, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Sets the counts of a frame that is frozen or not yet visible.
    pub(crate) fn set_counts(&self, refs: u32, maps: u32) {
        // Release pairs with the Acquire of `get_unless_zero`.
        self.counts.store(u64::from(refs) + u64::from(maps) * MAPPING, Ordering::Release);
    }

    /// Counts an entry that is about to be put into a table, and a reference for it. The caller has a reference, or the
    /// frame's lock while it is frozen or new.
    pub(crate) fn mapped(&self) {
        // Relaxed: the entry itself, written next with Release, publishes them.
        self.counts.fetch_add(MAPPING + REFERENCE, Ordering::Relaxed);
    }

    /// Counts an entry whose reference the caller already holds and hands over.
    pub(crate) fn mapped_with_reference(&self) {
        self.counts.fetch_add(MAPPING, Ordering::Relaxed);
    }

    /// Uncounts an entry that was taken out of a table; its reference is still the caller's.
    pub(crate) fn unmapped(&self) {
        // Release pairs with the Acquire of `maps` and `freeze`.
        let before = self.counts.fetch_sub(MAPPING, Ordering::Release);
        assert!(before >= MAPPING, "more entries were removed than the frame had");
    }

    /// Uncounts an entry that was taken out of a table, and its reference; the caller has another one.
    pub(crate) fn unmapped_with_reference(&self) {
        // Release as in `unmapped`.
        let before = self.counts.fetch_sub(MAPPING + REFERENCE, Ordering::Release);
        assert!(before >= MAPPING && before as u32 > 1, "more entries were removed than the frame had");
    }

    /// Reads how many pins hold the frame.
    pub fn pins(&self) -> u32 {
        // Relaxed, here and below: each pin comes with a reference, whose count orders.
        self.pins.load(Ordering::Relaxed)
    }

    pub(crate) fn pin(&self) {
        self.pins.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn unpin(&self) {
        let before = self.pins.fetch_sub(1, Ordering::Relaxed);
        assert_ne!(before, 0, "a frame was unpinned that had no pin");
    }

    /// Gives the number of the driver's registration that owns the frame; 0 if none does.
    pub fn owner(&self) -> u32 {
        self.owner.load(Ordering::Relaxed)
    }

    /// Gives where the frame stands in its object.
    pub fn key(&self) -> Key {
        let key = self.key.load(Ordering::Relaxed);
        Key { rmap: (key >> 32) as u32, index: key as u32 }
    }

    /// Names owner and place; the frame is locked or not yet visible.
    pub(crate) fn set_owner(&self, owner: u32, key: Key) {
        // Relaxed: published by the lock, the reference count or the entry that leads others here.
        self.owner.store(owner, Ordering::Relaxed);
        self.key.store(u64::from(key.rmap) << 32 | u64::from(key.index), Ordering::Relaxed);
    }

    /// Reads the links of a free block's head: previous and next on its list. Under the zone's lock.
    pub(crate) fn links(&self) -> (u32, u32) {
        let Key { rmap, index } = self.key();
        (rmap, index)
    }

    /// Writes the links. Under the zone's lock.
    pub(crate) fn set_links(&self, previous: u32, next: u32) {
        self.key.store(u64::from(previous) << 32 | u64::from(next), Ordering::Relaxed);
    }

    /// Reads kind, class, order and marks.
    pub fn state(&self) -> State {
        // Relaxed, here and where marks are set: the word stands for itself. Who relies on more has the frame's lock or a
        // reference, or waits for the end of a writeback.
        State::from_bits(self.state.load(Ordering::Relaxed))
    }

    /// Writes the whole state of a frame that nobody else can see.
    pub(crate) fn set_state(&self, state: State) {
        self.state.store(state.bits(), Ordering::Relaxed);
    }

    /// Sets marks.
    pub fn mark(&self, marks: Marks) {
        self.state.fetch_or(marks.bits(), Ordering::Relaxed);
    }

    /// Clears marks.
    pub fn unmark(&self, marks: Marks) {
        // Release pairs with the Acquire of `wait_writeback`: what was written back is.
        self.state.fetch_and(!marks.bits(), Ordering::Release);
    }

    /// Swaps the class that the frame counts as; gives the old one.
    pub(crate) fn reclass(&self, class: Class) -> Class {
        let update = |bits| Some(State::from_bits(bits).with_class(class).bits());
        // AcqRel: of two who settle a class at once the second one sees what the first one had done before.
        match self.state.fetch_update(Ordering::AcqRel, Ordering::Relaxed, update) {
            Ok(before) | Err(before) => State::from_bits(before).class(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frozen_frames_give_no_reference() {
        let frame = Frame::default();
        assert!(!frame.get_unless_zero());
        frame.set_counts(2, 0);
        assert!(!frame.freeze(1));
        frame.mapped_with_reference();
        assert!(!frame.freeze(2), "a mapped frame must not freeze");
        frame.unmapped();
        assert!(frame.freeze(2));
        assert!(!frame.get_unless_zero());
        frame.set_counts(1, 0);
        assert!(frame.get_unless_zero());
        assert_eq!(frame.put(), Put::Shared);
        assert_eq!(frame.put(), Put::Last);
    }

    /// Trap 1 of 2016: naming the owner must not overwrite what leads to the mappings.
    #[test]
    fn trap_1_owner_and_reverse_map_key_are_two_fields() {
        let frame = Frame::default();
        let key = Key { rmap: 0xffff_fffe, index: 0xffff_fffd };
        frame.set_owner(0xffff_ffff, key);
        assert_eq!((frame.owner(), frame.key()), (0xffff_ffff, key));
    }

    /// Trap 3 of 2016: no other path's bit clears the isolation mark.
    #[test]
    fn trap_3_the_isolation_mark_shares_no_bit() {
        let frame = Frame::default();
        frame.set_state(State::new(Kind::Driver, Class::DriverUnmapped, crate::units::Order::ZERO));
        frame.mark(Marks::ISOLATED);
        for other in (Marks::all() - Marks::ISOLATED).iter() {
            frame.mark(other);
            frame.unmark(other);
        }
        frame.reclass(Class::DriverMapped);
        assert!(frame.state().marks().contains(Marks::ISOLATED));
        assert_eq!(frame.state().kind(), Kind::Driver);
    }
}
