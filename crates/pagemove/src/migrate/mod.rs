//! The move of a page, and of many in batches: claim, block, flush, freeze, copy, rebind, release (DESIGN, section 4).
//!
//! | step | done by | undone by |
//! | --- | --- | --- |
//! | claim: reference, lock, off its owner, mark | `claim` | `release` |
//! | block: migration entries for all mappings | [`crate::rmap::ReverseMap::block`] | [`crate::rmap::ReverseMap::rebind`] to the source |
//! | flush: once for the batch | [`crate::paging::FlushDebt::pay`] | – |
//! | freeze: references from what is expected to none | `freeze` | the count is set back |
//! | copy: contents, and the owner's tables | [`crate::movable::MovableOps::migrate`], or a plain copy | the owner's, before it refuses |
//! | rebind: mappings to the destination | `rebind` | can't fail |
//! | release: wake, free the source, put back | `release` | can't fail |
//!
//! A batch takes locks without waiting, so that two batches can't wait for each other; what it finds locked is tried
//! again alone, where the mode may wait.

mod destination;
mod mover;

pub use destination::{AnyFree, Destination, TheseFrames};
pub use mover::{Mover, StepTimes};

use alloc::vec::Vec;

pub use crate::movable::Mode;
use crate::{report::Reason, units::Pfn};

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
    /// Pages that share one flush, 1 to [`Options::MOST`].
    pub batch: usize,
}

impl Options {
    /// Largest batch, as Linux's (`NR_MAX_BATCHED_MIGRATION`).
    pub const MOST: usize = 512;

    /// Moves anything, in full batches.
    pub const fn new(mode: Mode) -> Self {
        Self { mode, policy: Policy::Any, batch: Self::MOST }
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
