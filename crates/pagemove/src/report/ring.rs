//! A ring of recent events, for failure reports. Writers never wait for each other or for a reader.

use alloc::boxed::Box;

use super::Reason;
use crate::{
    sync::{AtomicU64, Ordering},
    units::Pfn,
};

/// Events kept.
const EVENTS: usize = if cfg!(feature = "loom") { 2 } else { 1024 };

/// An event of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// `from` was moved to `to`.
    Moved {
        /// Source frame.
        from: Pfn,
        /// Destination frame.
        to: Pfn,
    },
    /// `pfn` wasn't moved.
    Stayed {
        /// The frame.
        pfn: Pfn,
        /// Why.
        reason: Reason,
    },
}

/// The ring. Each event is two words of a frame number and the event's own number, written without a lock. So a reader
/// skips events that are overwritten during the read, or written by two writers at once, a whole ring apart.
#[derive(Debug)]
pub struct Ring {
    next: AtomicU64,
    // Boxed: a kernel boots on a small stack.
    slots: Box<[[AtomicU64; 2]]>,
}

impl Default for Ring {
    fn default() -> Self {
        Self { next: AtomicU64::new(0), slots: (0..EVENTS).map(|_| Default::default()).collect() }
    }
}

/// In the second word: a reason, and no frame.
const STAYED: u64 = Pfn::LIMIT;
/// First bit of the event's number.
const NUMBER: u32 = STAYED.trailing_zeros() + 1;

/// An event's number, in the upper bits of both words; never 0 in a ring's first round.
fn number(ticket: u64) -> u64 {
    (ticket + 1) << NUMBER
}

impl Ring {
    /// Gives its bytes on the heap.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.slots)
    }

    /// Appends events, overwriting the oldest.
    pub fn push(&self, events: impl ExactSizeIterator<Item = Event>) {
        // Relaxed: tickets only have to be unique.
        let first = self.next.fetch_add(events.len() as u64, Ordering::Relaxed);
        for (ticket, event) in (first..).zip(events) {
            let [stamp, value] = &self.slots[ticket as usize % EVENTS];
            // No memory has a frame beyond the limit, but anybody can ask for a move of one.
            let number_of = |pfn: Pfn| pfn.get().min(Pfn::LIMIT - 1);
            let (pfn, second) = match event {
                Event::Moved { from, to } => (number_of(from), number_of(to)),
                Event::Stayed { pfn, reason } => (number_of(pfn), STAYED | reason as u64),
            };
            // Relaxed: each word is written at once, and identifies its event.
            value.store(number(ticket) | second, Ordering::Relaxed);
            stamp.store(number(ticket) | pfn, Ordering::Relaxed);
        }
    }

    /// Calls `see` with the events still in the ring, oldest first.
    pub fn for_each(&self, mut see: impl FnMut(Event)) {
        let end = self.next.load(Ordering::Relaxed);
        for ticket in end.saturating_sub(EVENTS as u64)..end {
            let [stamp, value] = &self.slots[ticket as usize % EVENTS];
            let words = [stamp, value].map(|word| word.load(Ordering::Relaxed));
            if words.iter().any(|word| word >> NUMBER != number(ticket) >> NUMBER) {
                continue;
            }
            let [pfn, second] = words.map(|word| Pfn::new(word & (Pfn::LIMIT - 1)));
            see(if words[1] & STAYED != 0 {
                let Some(&reason) = Reason::ALL.get(second.get() as usize) else { continue };
                Event::Stayed { pfn, reason }
            } else {
                Event::Moved { from: pfn, to: second }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn keeps_the_last_events_in_order() {
        let ring = Ring::default();
        let moved = |number| Event::Moved { from: Pfn::new(number), to: Pfn::new(number + 1) };
        for number in (0..3000).step_by(3) {
            ring.push([number, number + 1, number + 2].map(moved).into_iter());
        }
        ring.push(core::iter::once(Event::Stayed { pfn: Pfn::new(u64::MAX), reason: Reason::Mapped }));
        let mut seen = Vec::new();
        ring.for_each(|event| seen.push(event));
        assert_eq!(seen.len(), EVENTS);
        assert_eq!(seen[0], Event::Moved { from: Pfn::new(1977), to: Pfn::new(1978) });
        assert_eq!(seen[EVENTS - 1], Event::Stayed { pfn: Pfn::new(Pfn::LIMIT - 1), reason: Reason::Mapped });
    }
}
