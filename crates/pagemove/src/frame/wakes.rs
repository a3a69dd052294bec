//! The word on which threads sleep that wait for a folio's lock: an event count, and when a move that threads waited for has ended.
//!
//! | bits | field |
//! | --- | --- |
//! | 0 to 11 | events |
//! | 12 to 31 | the time, in units of 1.05 ms; 0: there was no such move, or the machine has no clock |
//!
//! With the time a mover knows which folios threads have just waited for. Without it a page that moves without a pause can be
//! blocked again before any of them has run: one thread was seen to fault 1,797 times in a row.

use crate::sync::{AtomicU32, Ordering};

const TIME_SHIFT: u32 = 12;
const EVENTS: u32 = (1 << TIME_SHIFT) - 1;
/// 2^20 ns.
const UNIT_SHIFT: u32 = 20;
/// For so many units after such a move a folio isn't claimed: time for a woken thread to get a CPU where two threads share it, with
/// slices of up to 4 ms. The time wraps after 18 minutes, when a folio is left alone once more in vain.
const GRACE: u32 = 8;

/// The word.
#[derive(Debug, Default)]
pub(super) struct Wakes(AtomicU32);

impl Wakes {
    /// Reads the word; a waiter calls it before it reads the lock.
    pub(super) fn load(&self) -> u32 {
        // Acquire pairs with the Release of `raise`: a waiter that reads the new count finds the lock released, so it
        // never sleeps on a count that is raised for an earlier holder only.
        self.0.load(Ordering::Acquire)
    }

    /// The word itself, to sleep on.
    pub(super) fn word(&self) -> &AtomicU32 {
        &self.0
    }

    /// Counts an event.
    pub(super) fn raise(&self) {
        let raised = |wakes: u32| Some(wakes & !EVENTS | wakes.wrapping_add(1) & EVENTS);
        // Release pairs with the Acquire of `load`: a thread that reads the new value finds the lock released.
        let _ = self.0.fetch_update(Ordering::Release, Ordering::Relaxed, raised);
    }

    /// Says that a move has ended for which threads have waited.
    pub(super) fn has_moved(&self, now_ns: u64) {
        // Relaxed, here and below: a hint.
        let at = |wakes: u32| Some(time_of(now_ns) << TIME_SHIFT | wakes & EVENTS);
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, at);
    }

    /// Tells whether there was such a move, at a known time.
    pub(super) fn has_time(&self) -> bool {
        self.0.load(Ordering::Relaxed) >> TIME_SHIFT != 0
    }

    /// Tells whether there was such a move not long before `now_ns`.
    pub(super) fn is_recent(&self, now_ns: u64) -> bool {
        let then = self.0.load(Ordering::Relaxed) >> TIME_SHIFT;
        let passed = time_of(now_ns).wrapping_sub(then) & (u32::MAX >> TIME_SHIFT);
        then != 0 && passed < GRACE
    }
}

fn time_of(now_ns: u64) -> u32 {
    (now_ns >> UNIT_SHIFT) as u32 & (u32::MAX >> TIME_SHIFT)
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;

    const UNIT: u64 = 1 << UNIT_SHIFT;

    #[test]
    fn a_waiter_goes_first_for_a_while() {
        let wakes = Wakes::default();
        assert!(!wakes.has_time() && !wakes.is_recent(5 * UNIT));
        for start in [5 * UNIT, 77 * UNIT, (1 << 20) * UNIT - UNIT, 9 << 38] {
            wakes.has_moved(start);
            wakes.raise();
            assert!(wakes.is_recent(start) && wakes.is_recent(start + (u64::from(GRACE) - 1) * UNIT), "{start}");
            assert!(!wakes.is_recent(start + u64::from(GRACE) * UNIT), "{start}");
        }
    }

    #[test]
    fn each_event_changes_the_word() {
        let wakes = Wakes::default();
        // The latest time that the word can have.
        wakes.has_moved(((1 << (u32::BITS - TIME_SHIFT)) - 1) * UNIT);
        let time = wakes.load() & !EVENTS;
        for event in 0..10_000 {
            let before = wakes.load();
            wakes.raise();
            assert_ne!(wakes.load(), before, "event {event}");
            assert_eq!(wakes.load() & !EVENTS, time, "event {event}");
        }
    }

    #[test]
    fn without_a_clock_nobody_goes_first() {
        let wakes = Wakes::default();
        wakes.has_moved(0);
        assert!(!wakes.has_time() && !wakes.is_recent(0));
    }
}
