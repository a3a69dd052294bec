//! The time of a move's steps. Plain data, and a stopwatch that reads the clock only if it is on.

use crate::zone::Physical;

/// The time of each step of moves, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StepTimes {
    /// References, locks, destinations, `isolate`.
    pub claim: u64,
    /// Migration entries.
    pub block: u64,
    /// TLB flushes.
    pub flush: u64,
    /// Freezing, and preparing destinations.
    pub freeze: u64,
    /// Contents, and owners' tables.
    pub copy: u64,
    /// Present entries for the destinations.
    pub rebind: u64,
    /// `putback`, waking, freeing.
    pub release: u64,
}

impl StepTimes {
    pub(super) fn add(&mut self, other: Self) {
        self.claim += other.claim;
        self.block += other.block;
        self.flush += other.flush;
        self.freeze += other.freeze;
        self.copy += other.copy;
        self.rebind += other.rebind;
        self.release += other.release;
    }
}

/// A stopwatch that reads the machine's clock only if it's on.
pub(super) struct Stopwatch<'p> {
    physical: Option<&'p Physical>,
    last: u64,
}

impl<'p> Stopwatch<'p> {
    pub(super) fn new(physical: &'p Physical, on: bool) -> Self {
        Self { physical: on.then_some(physical), last: if on { physical.machine().now_ns() } else { 0 } }
    }

    /// Gives the nanoseconds since the last call.
    pub(super) fn lap(&mut self) -> u64 {
        let Some(physical) = self.physical else { return 0 };
        let now = physical.machine().now_ns();
        core::mem::replace(&mut self.last, now).abs_diff(now)
    }
}
