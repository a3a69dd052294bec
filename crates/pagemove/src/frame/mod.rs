//! The frame table: 32 bytes for each frame of physical memory, in storage lent by the machine.
//!
//! # Protocol
//!
//! | field | changed by |
//! | --- | --- |
//! | `counts`: references | +1 by a holder of one, or by [`Physical::get`](crate::zone::Physical::get); 0 means free **or frozen by a move** |
//! | `counts`: mappings | +1 before an entry is put into a page table, -1 after one is taken out; by the calls of `mappings` |
//! | `counts`: lock | a holder of a reference |
//! | `wakes` | changed, with the time, by the thread that releases the lock and finds waiters; it wakes them afterwards |
//! | `pins` | +1 by a holder of a reference, which the pin keeps; so `pins > 0` implies `refs > 0` |
//! | `state` | kind and order: the allocator; marks: one bit each, set and cleared by that mark's own calls only |
//! | `owner`, `key` | the allocation, before the frame is published; the owner, under the lock. Free: the zone |
//!
//! These are the fields of a head. A tail has only its state, and counts of its page's own mappings (`mappings`).
//!
//! A reference is held by each page-table entry (with a map count), by the owner that keeps the frame in an index, by
//! pins, and for a short time by look-ups. A migration entry holds none: the lock of its frame stands for it.
//!
//! A move claims the frame (reference and lock), turns its entries into migration entries, flushes, and *freezes*: from
//! the expected references and no mapping to none at all. Others then fail to get a reference, and wait for the lock. A
//! waiter holds no reference, so the frame may be freed and reused meanwhile; afterwards it reads the entry or index
//! again.

mod counts;
mod mappings;
mod pins;
mod spans;
mod state;
mod table;
mod wakes;

pub use counts::TooManyMappings;
pub(crate) use counts::{Claim, Counts, Put};
pub use pins::{PinRecord, Pins};
pub(crate) use spans::{SECTION, Spans};
pub use state::{Class, Kind, Marks, State};
pub use table::FrameTable;
pub(crate) use table::not_in_memory;

use counts::CountsWord;
use wakes::Wakes;

use crate::{
    port::Zeroed,
    sync::{AtomicU32, AtomicU64, Ordering},
};

/// The metadata of one frame (Linux: `struct page`).
///
/// # Invariants
/// All zero is a free frame inside a free block. The module's table says what changes each field.
#[derive(Debug, Default)]
#[repr(C, align(32))]
pub struct Frame {
    counts: CountsWord,
    wakes: Wakes,
    pins: AtomicU32,
    state: AtomicU32,
    owner: AtomicU32,
    key: AtomicU64,
}

#[cfg(not(feature = "loom"))]
const _: () = assert!(size_of::<Frame>() == 32, "Linux has 64; what is here is paid for by every frame of memory");

#[allow(unsafe_code)]
// SAFETY: atomics only.
unsafe impl Zeroed for Frame {}

/// The place of a folio in its object: the reverse map that finds its mappings, and the page offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Key {
    /// Number of the reverse map in its registry; 0: none, the folio can't be mapped.
    pub rmap: u32,
    /// Page offset in the object; an owner without reverse map may use it as it likes.
    pub index: u32,
}

impl Frame {
    /// Takes a reference, unless the count is 0: then the frame is free or frozen (Linux: `folio_try_get`).
    pub(crate) fn try_get(&self) -> bool {
        self.counts.try_get()
    }

    /// Takes another reference; the caller has one (Linux: `folio_get`).
    pub(crate) fn get(&self) {
        self.counts.get();
    }

    pub(crate) fn put(&self) -> Put {
        self.counts.put(1)
    }

    /// Gives `references` references back.
    pub(crate) fn put_many(&self, references: u32) -> Put {
        self.counts.put(references)
    }

    /// Takes a reference and the lock in one change, without waiting.
    pub(crate) fn claim(&self) -> Claim {
        self.counts.claim()
    }

    /// Reads references, mappings and lock together.
    pub(crate) fn counts(&self) -> Counts {
        self.counts.load()
    }

    /// Reads the references.
    pub fn refs(&self) -> u32 {
        self.counts.load().refs()
    }

    /// Reads the number of page-table entries that map the folio or a page of it; of its head.
    pub fn maps(&self) -> u32 {
        self.counts.load().maps()
    }

    /// Tells whether the frame has no reference, no mapping and no lock holder.
    pub(crate) fn is_unused(&self) -> bool {
        self.counts.is_zero()
    }

    /// Freezes: from exactly `expected` references and no mapping to none. The caller holds the lock and one of the
    /// references (Linux: `folio_ref_freeze`).
    pub(crate) fn freeze(&self, expected: u32) -> bool {
        self.counts.freeze(expected)
    }

    /// Ends a freeze with these counts: of a source that stays, or of a destination at its commit.
    pub(crate) fn thaw(&self, refs: u32, maps: u32) {
        self.counts.thaw(refs, maps);
    }

    /// Gives a frame its first reference; nobody else has seen it yet.
    pub(crate) fn publish(&self) {
        self.counts.publish();
    }

    /// Reads the number of pins of the folio, at its head; 0 at a tail.
    pub fn pins(&self) -> u32 {
        // Relaxed, here and below: each pin holds a reference, whose count orders.
        if self.state().kind() == Kind::Tail { 0 } else { self.pins.load(Ordering::Relaxed) }
    }

    pub(crate) fn pin(&self) {
        self.pins.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn unpin(&self) {
        let before = self.pins.fetch_sub(1, Ordering::Relaxed);
        assert_ne!(before, 0, "a frame was unpinned that had no pin");
    }

    /// Counts `entries` entries and their references in the folio's word; called by [`FrameTable`]'s calls for mappings.
    pub(crate) fn map(&self, entries: u32) -> Result<(), TooManyMappings> {
        self.counts.map(entries)
    }

    /// Counts an entry again, as [`FrameTable::map_again`] does, in the folio's word.
    pub(crate) fn map_again(&self) {
        self.counts.map_again();
    }

    /// Uncounts an entry, as [`FrameTable::unmap`] does, in the folio's word.
    pub(crate) fn unmap(&self) {
        self.counts.unmap();
    }

    /// Uncounts `entries` entries and their references, as [`FrameTable::unmap_with_reference`] does, in the folio's word.
    pub(crate) fn unmap_with_reference(&self, entries: u32) {
        self.counts.unmap_with_reference(entries);
    }

    /// Clears the count of a tail's own mappings, before the tail becomes a folio.
    pub(crate) fn clear_page_maps(&self) {
        debug_assert_eq!(self.pins.load(Ordering::Relaxed), 0, "a page was made a folio while mapped");
        self.pins.store(0, Ordering::Relaxed);
    }

    /// Gives the number of the driver's registration that owns the folio, at its head; 0 if none does, and at a tail.
    pub fn owner(&self) -> u32 {
        if self.state().kind() == Kind::Tail { 0 } else { self.owner.load(Ordering::Relaxed) }
    }

    /// Gives the folio's place in its object.
    pub fn key(&self) -> Key {
        let key = self.key.load(Ordering::Relaxed);
        Key { rmap: (key >> 32) as u32, index: key as u32 }
    }

    /// Sets owner and place; the frame is locked or not yet visible.
    pub(crate) fn set_owner(&self, owner: u32, key: Key) {
        // Relaxed: the lock, the reference count, or the entry that maps the frame publishes both.
        self.owner.store(owner, Ordering::Relaxed);
        self.key.store(u64::from(key.rmap) << 32 | u64::from(key.index), Ordering::Relaxed);
    }

    /// Reads a free block's links: previous and next on its list. Under the zone's lock.
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
        // Relaxed, here and where marks are set: the word publishes nothing else. The frame's lock, a reference, or the
        // wait for the end of a writeback does.
        State::from_bits(self.state.load(Ordering::Relaxed))
    }

    /// Sets the whole state of a frame that nobody else can see.
    pub(crate) fn set_state(&self, state: State) {
        self.state.store(state.bits(), Ordering::Relaxed);
    }

    /// Sets marks; tells whether any of them is new.
    pub(crate) fn mark(&self, marks: Marks) -> bool {
        let before = self.state.fetch_or(marks.bits(), Ordering::Relaxed);
        !State::from_bits(before).marks().contains(marks)
    }

    /// Clears marks.
    pub(crate) fn unmark(&self, marks: Marks) {
        // Release pairs with the Acquire of `wait_writeback`: a waiter sees the page written back.
        self.state.fetch_and(!marks.bits(), Ordering::Release);
    }

    /// Sets the class that the frame is counted under; gives the old one.
    pub(crate) fn swap_class(&self, class: Class) -> Class {
        let update = |bits| Some(State::from_bits(bits).with_class(class).bits());
        // AcqRel: of two threads that set a class at once, the second one sees what the first one did before.
        match self.state.fetch_update(Ordering::AcqRel, Ordering::Relaxed, update) {
            Ok(before) | Err(before) => State::from_bits(before).class(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Trap 1 of 2016: naming the owner must not overwrite the key of the reverse map.
    #[test]
    fn trap_1_owner_and_reverse_map_key_are_two_fields() {
        let frame = Frame::default();
        let key = Key { rmap: 0xffff_fffe, index: 0xffff_fffd };
        frame.set_owner(0xffff_ffff, key);
        assert_eq!((frame.owner(), frame.key()), (0xffff_ffff, key));
    }

    /// Trap 3 of 2016: a page is isolated while it's locked, and only unlocking clears that.
    #[test]
    fn trap_3_the_isolation_mark_shares_no_bit() {
        let frame = Frame::default();
        frame.set_state(State::new(Kind::Driver, Class::DriverUnmapped, crate::units::Order::ZERO));
        frame.publish();
        assert!(matches!(frame.claim(), Claim::Claimed));
        for mark in Marks::all().iter() {
            frame.mark(mark);
            frame.unmark(mark);
        }
        frame.swap_class(Class::DriverMapped);
        frame.set_owner(u32::MAX, Key { rmap: u32::MAX, index: u32::MAX });
        frame.map(1).unwrap();
        frame.unmap_with_reference(1);
        assert_eq!(frame.put(), Put::Shared);
        assert!(frame.freeze(1));
        assert!(frame.counts().is_locked());
        frame.thaw(1, 0);
        assert!(frame.counts().is_locked());
    }
}
