//! The word that says how a folio is used: references, mappings, lock, and whether a thread waits for the lock.
//!
//! | bits | field |
//! | --- | --- |
//! | 0 to 29 | references; 0: free, or frozen |
//! | 30 | LOCKED |
//! | 31 | WAITERS: a thread sleeps until the lock is released. Set only while LOCKED |
//! | 32 to 63 | mappings |
//!
//! One word, since each decision of a move needs several fields: a claim takes a reference and the lock; a freeze needs
//! the expected references, no mapping, and the lock held. Each legal change is one method.

use crate::sync::{AtomicU64, Ordering};

const REFERENCE: u64 = 1;
const REFERENCES: u64 = LOCKED - 1;
const LOCKED: u64 = 1 << 30;
const WAITERS: u64 = 1 << 31;
const MAPPING: u64 = 1 << 32;

/// At so many references no mapping is added. Short-lived references may still come on top: there are too few threads
/// to overflow the field.
const MAX_MAPPED_REFERENCES: u64 = 1 << 29;

/// A value of the word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts(u64);

impl Counts {
    pub(crate) fn refs(self) -> u32 {
        (self.0 & REFERENCES) as u32
    }

    pub(crate) fn maps(self) -> u32 {
        (self.0 >> 32) as u32
    }

    pub(crate) fn is_locked(self) -> bool {
        self.0 & LOCKED != 0
    }

    /// Tells whether somebody sleeps until the lock is released.
    pub(crate) fn has_waiters(self) -> bool {
        self.0 & WAITERS != 0
    }

    /// Tells whether all references but `others` are those of mappings.
    pub(crate) fn has_only_mappings_and(self, others: u32) -> bool {
        self.refs() == self.maps() + others
    }
}

/// The result of giving a reference back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "the last reference obliges to free the frame"]
pub(crate) enum Put {
    /// References are left.
    Shared,
    /// It was the last one: the caller must free the frame.
    Last,
}

/// The result of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claim {
    /// The caller has a reference and the lock.
    Claimed,
    /// The lock is held.
    Locked,
    /// There is no reference: free, or not yet published.
    Free,
}

/// The frame has too many mappings to count one more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the page has {MAX_MAPPED_REFERENCES} references; no more mappings of it can be counted")]
pub struct TooManyMappings;

/// The word.
#[derive(Debug, Default)]
pub(super) struct CountsWord(AtomicU64);

impl CountsWord {
    /// Reads the word. Acquire pairs with the Release of `put` and of the calls that uncount mappings: what earlier
    /// holders did is seen.
    pub(super) fn load(&self) -> Counts {
        Counts(self.0.load(Ordering::Acquire))
    }

    /// Tells whether nobody has a reference or the lock, and nothing maps the frame.
    pub(super) fn is_zero(&self) -> bool {
        // Relaxed: to check a caller, not to order anything.
        self.0.load(Ordering::Relaxed) == 0
    }

    /// Takes a reference, unless the count is 0.
    pub(super) fn try_get(&self) -> bool {
        // Acquire pairs with the Release of `publish`, `thaw` and `put`: fields written before the count are seen.
        // Relaxed on failure: a frozen folio's lock is held in the same word, so the caller waits for that.
        let get = |counts| (counts & REFERENCES != 0).then(|| added(counts, REFERENCE));
        self.0.fetch_update(Ordering::Acquire, Ordering::Relaxed, get).is_ok()
    }

    /// Takes another reference; the caller has one.
    pub(super) fn get(&self) {
        // Relaxed: the caller's reference keeps the frame allocated.
        let before = self.0.fetch_add(REFERENCE, Ordering::Relaxed);
        assert_ne!(before & REFERENCES, 0, "a reference was taken without having one");
        added(before, REFERENCE);
    }

    /// Gives `references` references back.
    pub(super) fn put(&self, references: u32) -> Put {
        // AcqRel: each holder's accesses come before the freeing, which the last one does.
        let before = self.0.fetch_sub(u64::from(references) * REFERENCE, Ordering::AcqRel);
        put_of(before, references)
    }

    /// Takes a reference and the lock.
    pub(super) fn claim(&self) -> Claim {
        let claim =
            |counts| (counts & REFERENCES != 0 && counts & LOCKED == 0).then(|| added(counts, REFERENCE) | LOCKED);
        // Acquire as in `try_get` and `try_lock`. An owner that is asked afterwards sees what the last holder recorded.
        // On failure the caller only tries again.
        match self.0.fetch_update(Ordering::Acquire, Ordering::Relaxed, claim) {
            Ok(_) => Claim::Claimed,
            Err(before) if before & LOCKED != 0 => Claim::Locked,
            Err(_) => Claim::Free,
        }
    }

    /// Takes the lock; if it is held, gives the word. Panics without any reference: the frame may be freed, and its
    /// next user would find it locked.
    pub(super) fn try_lock(&self) -> Result<(), Counts> {
        let lock = |counts| {
            let is_free = counts & LOCKED == 0;
            assert!(!is_free || counts & REFERENCES != 0, "a frame was locked that nobody has a reference to");
            is_free.then_some(counts | LOCKED)
        };
        // Acquire pairs with the Release of `unlock`.
        self.0.fetch_update(Ordering::Acquire, Ordering::Relaxed, lock).map(drop).map_err(Counts)
    }

    /// Takes the lock of a frame that only the caller can use: a new one, or a reserved destination.
    pub(super) fn lock_exclusive(&self) {
        // No compare-and-swap: others only read the word, since it isn't locked and has no reference.
        debug_assert!(self.is_zero(), "a frame in use was taken for a new one");
        self.0.store(LOCKED, Ordering::Relaxed);
    }

    /// Sets WAITERS for a lock that was held when `seen` was read; false if the word has changed since.
    pub(super) fn announce_waiter(&self, seen: Counts) -> bool {
        // Relaxed: the event count orders waiters and wakers (`FrameTable`).
        let set = || self.0.compare_exchange(seen.0, seen.0 | WAITERS, Ordering::Relaxed, Ordering::Relaxed);
        seen.0 & WAITERS != 0 || set().is_ok()
    }

    /// Releases the lock; tells whether threads wait for it.
    pub(super) fn unlock(&self) -> bool {
        // Release pairs with the Acquire of the next holder and of waiters.
        let before = self.0.fetch_and(!(LOCKED | WAITERS), Ordering::Release);
        unlocked(before)
    }

    /// Releases the lock and gives a reference back, in one change.
    pub(super) fn unlock_and_put(&self) -> (bool, Put) {
        let release = |counts: u64| Some((counts & !(LOCKED | WAITERS)).wrapping_sub(REFERENCE));
        // AcqRel as in `unlock` and `put`.
        let (Ok(before) | Err(before)) = self.0.fetch_update(Ordering::AcqRel, Ordering::Relaxed, release);
        (unlocked(before), put_of(before, 1))
    }

    /// Freezes: from `expected` references, the lock and no mapping to the lock alone. False if the word is anything
    /// else.
    pub(super) fn freeze(&self, expected: u32) -> bool {
        // AcqRel: Acquire pairs with the Release in `put` and `unmap` of earlier users, so that their stores are
        // copied; Release orders the blocked entries before the zero that `try_get` sees.
        self.0
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |counts| {
                (counts & !WAITERS == u64::from(expected) | LOCKED).then_some(counts & (LOCKED | WAITERS))
            })
            .is_ok()
    }

    /// Ends a freeze: `try_get` succeeds again.
    pub(super) fn thaw(&self, refs: u32, maps: u32) {
        // An addition, since WAITERS may be set meanwhile. Release pairs with the Acquire of `try_get`.
        let before = self.0.fetch_add(u64::from(refs) * REFERENCE + u64::from(maps) * MAPPING, Ordering::Release);
        debug_assert_eq!(before & !(LOCKED | WAITERS), 0, "a frame was thawed that wasn't frozen");
    }

    /// Gives a frame that nobody else has seen its first reference.
    pub(super) fn publish(&self) {
        debug_assert!(self.is_zero(), "a frame in use was taken for a new one");
        // Release pairs with the Acquire of `try_get`.
        self.0.store(REFERENCE, Ordering::Release);
    }

    /// Counts `entries` entries before they are put into a table, and their references.
    pub(super) fn map(&self, entries: u32) -> Result<(), TooManyMappings> {
        let more = u64::from(entries) * (MAPPING + REFERENCE);
        // Relaxed: the entries, written next with Release, publish them.
        let before = self.0.fetch_add(more, Ordering::Relaxed);
        if before & REFERENCES < MAX_MAPPED_REFERENCES {
            return Ok(());
        }
        self.0.fetch_sub(more, Ordering::Relaxed);
        Err(TooManyMappings)
    }

    /// Counts an entry again that its move uncounted when it blocked it.
    pub(super) fn map_again(&self) {
        // Relaxed as in `map`.
        let before = self.0.fetch_add(MAPPING + REFERENCE, Ordering::Relaxed);
        added(before, MAPPING + REFERENCE);
    }

    /// Uncounts an entry after it was taken out of a table; the caller keeps its reference.
    pub(super) fn unmap(&self) {
        // Release pairs with the Acquire of `load` and `freeze`.
        let before = self.0.fetch_sub(MAPPING, Ordering::Release);
        assert!(before >= MAPPING, "more entries were removed than the frame had");
    }

    /// Uncounts `entries` entries after they were taken out of a table, and their references; the caller has another one.
    pub(super) fn unmap_with_reference(&self, entries: u32) {
        let entries = u64::from(entries);
        // Release as in `unmap`.
        let before = self.0.fetch_sub(entries * (MAPPING + REFERENCE), Ordering::Release);
        let had = before >= entries * MAPPING && before & REFERENCES > entries * REFERENCE;
        assert!(had, "more entries were removed than the frame had");
    }
}

/// Adds references; panics rather than overflow into the lock.
fn added(counts: u64, more: u64) -> u64 {
    assert_ne!(counts & REFERENCES, REFERENCES, "a frame has more references than can be counted");
    counts + more
}

fn put_of(before: u64, references: u32) -> Put {
    let (before, given) = (before & REFERENCES, u64::from(references) * REFERENCE);
    assert!(before >= given, "a reference was given back that nobody had");
    if before == given { Put::Last } else { Put::Shared }
}

fn unlocked(before: u64) -> bool {
    debug_assert_ne!(before & LOCKED, 0, "a frame was unlocked that nobody had locked");
    before & WAITERS != 0
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;

    #[test]
    fn frozen_frames_give_no_reference() {
        let word = CountsWord::default();
        assert!(!word.try_get());
        word.publish();
        assert_eq!(word.claim(), Claim::Claimed);
        assert_eq!(word.claim(), Claim::Locked);
        assert!(!word.freeze(1), "with another count than expected");
        word.map(1).unwrap();
        assert!(!word.freeze(3), "while mapped");
        word.unmap();
        assert!(word.announce_waiter(word.load()));
        assert_eq!(word.put(1), Put::Shared);
        assert!(word.freeze(2));
        assert_eq!((word.try_get(), word.claim()), (false, Claim::Locked));
        word.thaw(2, 0);
        assert!(word.try_get());
        assert_eq!(word.put(1), Put::Shared);
        assert_eq!(word.unlock_and_put(), (true, Put::Shared), "the waiter is remembered over freeze and thaw");
        assert_eq!(word.put(1), Put::Last);
        assert!(word.is_zero());
    }

    #[test]
    fn freezing_needs_the_lock() {
        let word = CountsWord::default();
        word.publish();
        assert!(!word.freeze(1));
        word.try_lock().unwrap();
        assert!(word.freeze(1));
    }

    #[test]
    #[should_panic(expected = "nobody has a reference to")]
    fn a_free_frame_is_not_locked() {
        let _ = CountsWord::default().try_lock();
    }

    /// One mapping too many is refused, and changes nothing.
    #[test]
    fn mappings_do_not_overflow() {
        let word = CountsWord::default();
        word.thaw(MAX_MAPPED_REFERENCES as u32 - 1, MAX_MAPPED_REFERENCES as u32 - 1);
        word.map(1).unwrap();
        assert_eq!(word.map(1), Err(TooManyMappings));
        assert_eq!(
            (word.load().refs(), word.load().maps()),
            (MAX_MAPPED_REFERENCES as u32, MAX_MAPPED_REFERENCES as u32)
        );
        assert!(!word.load().is_locked());
        word.get();
        assert!(word.try_get(), "short references go on");
        word.unmap_with_reference(1);
    }
}
