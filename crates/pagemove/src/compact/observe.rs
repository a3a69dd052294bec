//! What is in the pageblocks of a zone, as a policy sees it: read from summaries, without a look at any frame.

use alloc::vec::Vec;

use crate::{
    frame::Class,
    migrate::Policy,
    units::FrameRange,
    zone::{Physical, Summary},
};

/// A pageblock's frames, as a policy sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Free.
    pub free: u32,
    /// In use, and the policy moves them.
    pub movable: u32,
    /// In use, and the policy does not move them.
    pub fixed: u32,
}

impl Tally {
    /// Sorts a summary's classes as `policy` does.
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

    /// Tells whether the block can't become free because of pages that the policy does not move, though it holds others
    /// or free ones as well: it's held hostage.
    pub fn is_hostage(&self) -> bool {
        self.fixed > 0 && self.free + self.movable > 0
    }

    /// Tells whether all of it is free.
    pub fn is_free(&self) -> bool {
        self.movable + self.fixed == 0
    }
}

/// Tells whether `policy` leaves pages of `class` where they are.
pub fn is_fixed(class: Class, policy: Policy) -> bool {
    match class {
        Class::Free | Class::Lru => false,
        Class::DriverUnmapped => policy == Policy::Unmovable,
        Class::DriverMapped => policy != Policy::Any,
        Class::Pinned | Class::Slab | Class::PageTable | Class::Kernel | Class::Reserved => true,
    }
}

/// One pageblock that can be emptied or filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observed {
    /// Its number.
    pub block: u32,
    /// What is in it.
    pub tally: Tally,
}

/// The blocks of a zone that can be emptied or filled, by number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// The policy that the tallies are for.
    pub policy: Policy,
    /// Frames of a block.
    pub block_frames: u32,
    /// Blocks with something movable in them, or partly free.
    pub blocks: Vec<Observed>,
}

impl Observation {
    /// Reads the summaries of the blocks of `range` that the index names. Costs by those, not by the range's size.
    /// Collects the free frames from the processors' lists first.
    pub fn of(physical: &Physical, range: FrameRange, policy: Policy) -> Self {
        physical.drain_cpu_lists();
        let mut blocks = Vec::new();
        physical.blocks().for_each_candidate(range, |block, summary| {
            blocks.push(Observed { block, tally: Tally::new(&summary, policy) });
        });
        Self { policy, block_frames: physical.blocks().order().frames(), blocks }
    }
}
