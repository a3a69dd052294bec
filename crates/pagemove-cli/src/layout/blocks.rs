//! The pageblocks of a layout, expanded to one class for each frame.
//!
//! Takes a layout, gives its pageblocks by rising PFN. Promises that each has exactly `2^pageblock_order` frames, of
//! which at least one isn't absent; a hole of any size costs one step, and in groups also memory of one class.

use super::{FrameClass, Layout, Run};

/// One pageblock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Block {
    /// PFN of the first frame, a multiple of the block's size.
    pub(crate) pfn: u64,
    /// The class of each frame.
    pub(crate) classes: Box<[FrameClass]>,
}

/// The pageblocks of a layout that have at least one frame.
#[derive(Debug, Clone)]
pub(crate) struct Blocks<'a> {
    size: u64,
    pfn: u64,
    /// What is left of the run at `pfn`.
    run: Run,
    rest: std::slice::Iter<'a, Run>,
}

/// Pageblocks in a row that are alike: one, or some whose frames all have one class and count to one zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Group {
    /// The first of them.
    pub(crate) block: Block,
    /// How many.
    pub(crate) count: u64,
}

impl Layout {
    /// Returns the pageblocks that have at least one frame in groups, by rising PFN: a file of a few bytes may have millions of them.
    pub(crate) fn block_groups(&self) -> impl Iterator<Item = Group> {
        let mut blocks = self.blocks();
        let size = self.frames_per_block();
        std::iter::from_fn(move || {
            let block = blocks.next()?;
            // What is left of the block's last run, up to the end of its zone: the next zone's blocks count to that.
            let of_zone =
                self.zones()[self.zone_of_block(block.pfn)].end_pfn().saturating_sub(block.pfn).div_ceil(size);
            let class = block.classes[0];
            let is_uniform = blocks.run.class == class && block.classes.iter().all(|&other| other == class);
            let more = if is_uniform { (blocks.run.frames / size).min(of_zone.saturating_sub(1)) } else { 0 };
            blocks.run.frames -= more * size;
            blocks.pfn += more * size;
            Some(Group { block, count: 1 + more })
        })
    }

    /// Returns the pageblocks that have at least one frame, by rising PFN.
    pub(crate) fn blocks(&self) -> Blocks<'_> {
        Blocks::new(self)
    }
}

impl<'a> Blocks<'a> {
    fn new(layout: &'a Layout) -> Self {
        let run = Run { class: FrameClass::Absent, frames: 0 };
        Self { size: layout.frames_per_block(), pfn: layout.first_pfn(), run, rest: layout.runs().iter() }
    }

    /// Goes on to the next run once this one is used up; false at the end.
    fn refill(&mut self) -> bool {
        while self.run.frames == 0 {
            match self.rest.next() {
                Some(run) => self.run = *run,
                None => return false,
            }
        }
        true
    }
}

impl Iterator for Blocks<'_> {
    type Item = Block;

    fn next(&mut self) -> Option<Block> {
        if !self.refill() {
            return None;
        }
        if self.run.class == FrameClass::Absent {
            // Neighbouring runs differ in class, so a wholly absent block is always within one run.
            let hole = self.run.frames / self.size * self.size;
            self.run.frames -= hole;
            self.pfn += hole;
            if !self.refill() {
                return None;
            }
        }
        let pfn = self.pfn;
        let mut classes = Vec::with_capacity(self.size as usize);
        while (classes.len() as u64) < self.size && self.refill() {
            let take = self.run.frames.min(self.size - classes.len() as u64);
            classes.resize(classes.len() + take as usize, self.run.class);
            self.run.frames -= take;
        }
        self.pfn += self.size;
        Some(Block { pfn, classes: classes.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{Sizes, Zone};

    fn zone(start_pfn: u64, spanned: u64) -> Zone {
        Zone { name: "Normal".into(), node: 0, start_pfn, spanned, present: spanned }
    }

    fn layout(zones: Vec<Zone>, runs: &[(FrameClass, u64)]) -> Layout {
        Layout::new("test".into(), Sizes::usual(2), zones, runs.iter().copied().map(Run::from).collect())
            .expect("consistent")
    }

    #[test]
    fn blocks_are_whole_and_holes_are_passed_over() {
        use FrameClass::*;
        // Frame 0 is outside the zone; 7..17 is a hole with blocks 8..12 and 12..16 wholly in it.
        let runs = [(Absent, 1), (Free, 5), (Anon, 1), (Absent, 10), (Slab, 1), (Absent, 2)];
        let layout = layout(vec![zone(1, 6), zone(17, 1)], &runs);
        let blocks: Vec<_> = layout.blocks().map(|block| (block.pfn, block.classes.to_vec())).collect();
        assert_eq!(
            blocks,
            [
                (0, vec![Absent, Free, Free, Free]),
                (4, vec![Free, Free, Anon, Absent]),
                (16, vec![Absent, Slab, Absent, Absent]),
            ]
        );
        assert_eq!(layout.frames(), 20);
    }

    #[test]
    fn blocks_of_one_class_are_a_group_within_their_zone() {
        use FrameClass::*;
        let runs = [(Free, 14), (Anon, 2), (Free, 24), (Slab, 4)];
        let layout = layout(vec![zone(0, 20), zone(20, 24)], &runs);
        let groups: Vec<_> = layout.block_groups().map(|group| (group.block.pfn, group.count)).collect();
        assert_eq!(groups, [(0, 3), (12, 1), (16, 1), (20, 5), (40, 1)]);
        let count: u64 = layout.block_groups().map(|group| group.count).sum();
        assert_eq!(count, layout.blocks().count() as u64);
    }

    #[test]
    fn a_hole_at_either_end_yields_no_block() {
        use FrameClass::*;
        let layout = layout(vec![zone(8, 16)], &[(Absent, 8), (File, 4), (Absent, 4)]);
        let pfns: Vec<_> = layout.blocks().map(|block| block.pfn).collect();
        assert_eq!(pfns, [16]);
        assert_eq!(layout.zone_of_block(16), 0);
    }
}
