//! What is said of a move: how far it goes, what it's for, why an owner refuses. Plain data.

use bitflags::bitflags;

use crate::report::Reason;

/// How far a move goes to succeed, as users of the field know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// Never sleeps, nor waits for a lock that a sleeper can hold.
    Async,
    /// May wait for locks, not for I/O.
    SyncLight,
    /// Waits for I/O, too.
    Sync,
}

/// Why an owner lets a folio stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It can't be moved.
    No,
    /// It can't be moved now; a moment later it may.
    Retry,
}

/// What a move is made for (Linux: `enum migrate_reason`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Purpose {
    /// To get free folios of higher orders.
    Compaction = 1,
    /// To get a range that somebody wants as a whole (Linux: CMA, `alloc_contig_range`).
    ContiguousRange = 1 << 1,
    /// To take memory out of use.
    Offlining = 1 << 2,
    /// To bring the folio nearer to its users, or to other memory on their request.
    Placement = 1 << 3,
    /// To leave memory that shows errors.
    FailingMemory = 1 << 4,
}

bitflags! {
    /// A set of purposes.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Purposes: u8 {
        /// [`Purpose::Compaction`].
        const COMPACTION = Purpose::Compaction as u8;
        /// [`Purpose::ContiguousRange`].
        const CONTIGUOUS_RANGE = Purpose::ContiguousRange as u8;
        /// [`Purpose::Offlining`].
        const OFFLINING = Purpose::Offlining as u8;
        /// [`Purpose::Placement`].
        const PLACEMENT = Purpose::Placement as u8;
        /// [`Purpose::FailingMemory`].
        const FAILING_MEMORY = Purpose::FailingMemory as u8;
    }
}

impl Purposes {
    /// Tells whether `purpose` is one of them.
    pub fn include(self, purpose: Purpose) -> bool {
        self.bits() & purpose as u8 != 0
    }
}

impl Purpose {
    /// All purposes.
    pub const ALL: [Purpose; 5] =
        [Self::Compaction, Self::ContiguousRange, Self::Offlining, Self::Placement, Self::FailingMemory];
}

impl Refusal {
    pub(crate) fn reason(self) -> Reason {
        match self {
            Refusal::No => Reason::Refused,
            Refusal::Retry => Reason::Retry,
        }
    }
}
