//! The contents of a zone's pageblocks, as a policy sees them: read from summaries, without scanning frames.

use alloc::vec::Vec;

use crate::{
    frame::Class,
    migrate::Policy,
    units::FrameRange,
    zone::{Physical, Summary},
};

/// A pageblock's frames, counted for a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Free.
    pub free: u32,
    /// In use, and moved by the policy.
    pub movable: u32,
    /// In use, and not moved by the policy.
    pub fixed: u32,
}

impl Tally {
    /// Counts a summary's classes for `policy`.
    pub fn new(summary: &Summary, policy: Policy) -> Self {
        let mut tally = Self::default();
        for class in Class::ALL {
            let frames = summary.of(class);
            match class {
                Class::Free => tally.free += frames,
                class if is_fixed(class, policy) => tally.fixed += frames,
                _ => tally.movable += frames,
            }
        }
        tally
    }

    /// Tells whether pages that the policy doesn't move keep the block from becoming free, although the rest is free or
    /// movable: it's held hostage.
    pub fn is_hostage(&self) -> bool {
        self.fixed > 0 && self.free + self.movable > 0
    }

    /// Tells whether all of it is free.
    pub fn is_free(&self) -> bool {
        self.movable + self.fixed == 0
    }
}

/// Tells whether `policy` doesn't move pages of `class`.
pub fn is_fixed(class: Class, policy: Policy) -> bool {
    match class {
        Class::Free | Class::Lru => false,
        Class::DriverUnmapped => policy == Policy::Unmovable,
        Class::DriverMapped | Class::SpaceTable => policy != Policy::Any,
        Class::Pinned | Class::Slab | Class::PageTable | Class::Kernel | Class::Reserved => true,
    }
}

/// One pageblock that can be emptied or filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observed {
    /// The block's number.
    pub block: u32,
    /// Its contents.
    pub tally: Tally,
}

/// The blocks of a zone that can be emptied or filled, in numeric order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// The policy of the tallies.
    pub policy: Policy,
    /// Frames of a block.
    pub block_frames: u32,
    /// Blocks that have movable pages or are partly free.
    pub blocks: Vec<Observed>,
}

impl Observation {
    /// Reads the summaries of the candidate blocks of `range`. The cost depends on their number, not on the range's
    /// size. Drains the CPUs' lists first.
    pub fn of(physical: &Physical, range: FrameRange, policy: Policy) -> Self {
        physical.drain_cpu_lists();
        let mut blocks = Vec::new();
        physical.blocks().for_each_candidate(range, |block, summary| {
            blocks.push(Observed { block, tally: Tally::new(&summary, policy) });
        });
        Self { policy, block_frames: physical.blocks().order().frames(), blocks }
    }
}
