//! The move of a folio, and of many in batches: claim, block, flush, freeze, copy, commit, rebind, release (DESIGN, section 4).
//!
//! | step | file | undone by |
//! | --- | --- | --- |
//! | claim: reference, lock, destination; owners isolate | `claim` | `release` |
//! | block: migration entries for all mappings | `transfer`, [`crate::rmap::ReverseMap::block`] | rebind to the source |
//! | flush: once for the batch | [`crate::paging::FlushDebt::pay`] | – |
//! | freeze: references from what is expected to none | `transfer` | the count is set back |
//! | copy: contents | `transfer`, [`crate::movable::MovableOps::copy`] | – |
//! | commit: owners' tables, then the destination's counts | `transfer`, [`crate::movable::MovableOps::migrate`] | can't fail once a token is exchanged |
//! | rebind: mappings to the destination | `transfer`, [`crate::rmap::ReverseMap::rebind`] | can't fail |
//! | release: putback, wake, free the source | `release` | can't fail |
//!
//! A batch takes locks without waiting, so that two batches can't wait for each other; what it finds locked is tried
//! again alone, where the mode may wait.

mod claim;
mod budget;
mod destination;
mod mover;
mod parts;
mod release;
mod times;
mod transfer;

pub use destination::{AnyFree, Destination, TheseFrames};
pub use mover::{Mover, migrate};
pub use times::StepTimes;

use alloc::vec::Vec;

pub use crate::movable::{Mode, Purpose};
use crate::{report::Reason, units::Pfn};

/// References of a folio that is claimed and blocked: ours, and its owner's.
fn expected(has_owner: bool) -> u32 {
    1 + u32::from(has_owner)
}

/// Which drivers' pages move; for comparing what each rule costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Policy {
    /// None do.
    Unmovable,
    /// Those that nothing maps, as in Linux since 4.8.
    Unmapped,
    /// All.
    Any,
}

impl Policy {
    /// All policies, the strictest first.
    pub const ALL: [Policy; 3] = [Policy::Unmovable, Policy::Unmapped, Policy::Any];

    /// Gives the name that the command takes and prints.
    pub const fn name(self) -> &'static str {
        match self {
            Policy::Unmovable => "unmovable",
            Policy::Unmapped => "unmapped",
            Policy::Any => "any",
        }
    }
}

/// How to move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// What may be waited for.
    pub mode: Mode,
    /// What is tried at all.
    pub policy: Policy,
    /// What it's for; owners may allow some purposes only.
    pub purpose: Purpose,
    /// How many share one flush.
    pub batch: Batch,
}

/// How many folios share one flush, and are blocked at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Batch {
    /// So many folios, 1 to [`Options::MOST`]. All of them take each step before any takes the next one.
    Folios(usize),
    /// As many as can be moved in so many microseconds, by what base pages have cost before: a thread that touches one waits about that
    /// long at most, if the owners' callbacks don't take longer. Each is unblocked a few folios after its own copy, and those that
    /// somebody waits for go first.
    Micros(u32),
}

impl Options {
    /// Largest batch, as Linux's (`NR_MAX_BATCHED_MIGRATION`).
    pub const MOST: usize = 512;

    /// Moves anything, in batches of 50 microseconds.
    pub const fn new(mode: Mode) -> Self {
        Self { mode, policy: Policy::Any, purpose: Purpose::Compaction, batch: Batch::Micros(50) }
    }

    /// The same in full batches: the most moves a second, but long waits.
    pub const fn in_full_batches(self) -> Self {
        Self { batch: Batch::Folios(Self::MOST), ..self }
    }

    /// Gives how often a page is tried that stays for a reason that passes; Linux 6.12 tries 3 times, then 7 in SYNC.
    const fn tries(&self) -> u32 {
        match self.mode {
            Mode::Async => 3,
            Mode::SyncLight | Mode::Sync => 10,
        }
    }
}

/// What became of the pages.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outcome {
    /// Base pages moved.
    pub moved: u64,
    /// Those that stayed, and why.
    pub stayed: Vec<(Pfn, Reason)>,
}
