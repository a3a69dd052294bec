//! Moves of folios in batches: claim, block, flush, freeze, copy, commit, rebind, release (DESIGN, section 4).
//!
//! | step | file | undone by |
//! | --- | --- | --- |
//! | claim: reference, lock, destination; owners isolate | `claim` | `release` |
//! | block: migration entries for all mappings | `transfer`, [`crate::rmap::ReverseMap::block`] | rebind to the source |
//! | flush: once for the batch | [`crate::paging::FlushDebt::pay`] | – |
//! | freeze: from the expected references to none | `transfer` | thaw |
//! | copy: contents | `transfer`, [`crate::movable::MovableOps::copy`] | – |
//! | commit: owners' tables, then the destination's counts | `transfer`, [`crate::movable::MovableOps::migrate`] | can't fail once a token is exchanged |
//! | rebind: mappings to the destination | `transfer`, [`crate::rmap::ReverseMap::rebind`] | can't fail |
//! | release: putback, wake, free the source | `release` | can't fail |
//!
//! Page tables have no references, and move by a path of their own (`tables`).
//!
//! A batch takes folio locks without waiting, so that two batches can't wait for each other. A folio found locked is
//! tried again alone, if the mode may wait.

mod claim;
mod budget;
mod destination;
mod mover;
mod parts;
mod release;
mod split;
mod tables;
mod times;
mod transfer;

pub use destination::{AnyFree, Destination, TheseFrames};
pub use mover::{Mover, migrate};
pub use split::{split, split_partly_mapped};
pub use times::StepTimes;

use alloc::vec::Vec;

pub use crate::movable::{Mode, Purpose};
use crate::{report::Reason, units::Pfn};

/// The expected references of a claimed and blocked folio: ours, and its owner's.
fn expected(has_owner: bool) -> u32 {
    1 + u32::from(has_owner)
}

/// Which pages may move besides the LRU's; to compare the policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Policy {
    /// None.
    Unmovable,
    /// Drivers' unmapped ones, as in Linux since 4.8.
    Unmapped,
    /// All: drivers' mapped ones and page tables too.
    Any,
}

impl Policy {
    /// All policies, the strictest first.
    pub const ALL: [Policy; 3] = [Policy::Unmovable, Policy::Unmapped, Policy::Any];

    /// Gives the name, for the command line and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Policy::Unmovable => "unmovable",
            Policy::Unmapped => "unmapped",
            Policy::Any => "any",
        }
    }
}

/// The options of a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// What may be waited for.
    pub mode: Mode,
    /// Which drivers' pages may move.
    pub policy: Policy,
    /// The purpose; owners may allow only some.
    pub purpose: Purpose,
    /// The size of a batch, whose folios share one flush.
    pub batch: Batch,
}

/// The size of a batch: its folios are blocked at the same time, and share one flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Batch {
    /// A number of folios, 1 to [`Options::MOST`]. All take each step before any takes the next one.
    Folios(usize),
    /// As many folios as move in this many microseconds, by the measured cost of base pages: a thread that touches one
    /// waits at most about that long, unless owners' callbacks take longer. Folios are unblocked in small parts, and
    /// those with waiters go first.
    Micros(u32),
}

impl Options {
    /// The largest batch (Linux: `NR_MAX_BATCHED_MIGRATION`).
    pub const MOST: usize = 512;

    /// Any page may move, in batches of 50 microseconds, for compaction.
    pub const fn new(mode: Mode) -> Self {
        Self { mode, policy: Policy::Any, purpose: Purpose::Compaction, batch: Batch::Micros(50) }
    }

    /// The same with the largest batches: the highest rate of moves, but long waits.
    pub const fn in_full_batches(self) -> Self {
        Self { batch: Batch::Folios(Self::MOST), ..self }
    }

    /// Gives how often a page is tried that stays for a transient reason; Linux 6.12 tries 3 times, then 7 in SYNC.
    const fn tries(&self) -> u32 {
        match self.mode {
            Mode::Async => 3,
            Mode::SyncLight | Mode::Sync => 10,
        }
    }
}

/// The result of a move.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outcome {
    /// Base pages moved, and page tables.
    pub moved: u64,
    /// The folios and page tables that stayed, each with the reason.
    pub stayed: Vec<(Pfn, Reason)>,
}
