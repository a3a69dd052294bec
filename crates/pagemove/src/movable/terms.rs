//! Modes and purposes of a move, and an owner's refusals. Plain data.

use bitflags::bitflags;

use crate::report::Reason;

/// What a move may wait for (Linux: `enum migrate_mode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// Never sleeps, nor waits for a lock that a sleeper can hold.
    Async,
    /// May wait for locks, not for I/O.
    SyncLight,
    /// May wait for locks and I/O.
    Sync,
}

/// Why an owner refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The folio can't move.
    No,
    /// The folio can't move now; a later try may succeed.
    Retry,
}

/// The purpose of a move (Linux: `enum migrate_reason`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Purpose {
    /// To get free folios of higher orders.
    Compaction = 1,
    /// To allocate a contiguous range (Linux: CMA, `alloc_contig_range`).
    ContiguousRange = 1 << 1,
    /// To take memory offline.
    Offlining = 1 << 2,
    /// To bring the folio closer to its users, or to a node on request.
    Placement = 1 << 3,
    /// To evacuate failing memory.
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
