//! Selects blocks to empty, and blocks to fill with their pages: a pure function of an observation.

use alloc::vec::Vec;
use core::fmt;

use super::{Observation, Observed};

/// How much to compact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// As many free blocks as possible.
    All,
    /// This many more free blocks, at the least cost.
    Blocks(u32),
}

/// A block to empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Emptied {
    /// The block's number.
    pub block: u32,
    /// Pages to move out.
    pub pages: u32,
}

/// The blocks to empty and to fill.
///
/// # Invariants
/// No block is both emptied and filled. The blocks to fill have enough free frames for all pages to move.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Blocks to empty, cheapest first.
    pub empty: Vec<Emptied>,
    /// Blocks to fill, in this order.
    pub fill: Vec<u32>,
    /// Pages that will be moved.
    pub moves: u64,
    /// Free frames in the blocks to fill.
    pub free_frames: u64,
}

impl Plan {
    /// Makes a plan. Empties the cheapest blocks. Fills blocks with immovable pages first, since they can't become
    /// free, fullest first. Then fills the others, from the most expensive to empty.
    pub fn new(observation: &Observation, goal: Goal) -> Self {
        let (mut hostages, mut clean): (Vec<&Observed>, Vec<&Observed>) =
            observation.blocks.iter().filter(|seen| !seen.tally.is_free()).partition(|seen| seen.tally.fixed > 0);
        hostages.retain(|seen| seen.tally.free > 0);
        hostages.sort_unstable_by_key(|seen| (seen.tally.free, seen.block));
        // Fewest pages first. Among equals the upper block, so that low memory is filled.
        clean.sort_unstable_by_key(|seen| (seen.tally.movable, u32::MAX - seen.block));
        let most = match goal {
            Goal::All => usize::MAX,
            Goal::Blocks(blocks) => blocks as usize,
        };
        let mut free_frames: u64 = hostages.iter().map(|seen| u64::from(seen.tally.free)).sum();
        let mut plan = Self::default();
        // Blocks are emptied from the front of `clean` and filled from its back, until both meet.
        let mut filled = clean.len();
        for (number, seen) in clean.iter().enumerate() {
            if plan.empty.len() >= most || number >= filled {
                break;
            }
            let need = plan.moves + u64::from(seen.tally.movable);
            while free_frames < need && filled > number + 1 {
                filled -= 1;
                free_frames += u64::from(clean[filled].tally.free);
            }
            if free_frames < need {
                break;
            }
            plan.moves = need;
            plan.empty.push(Emptied { block: seen.block, pages: seen.tally.movable });
        }
        // Room may have been counted for a block that is then not emptied: fill only what is needed.
        plan.choose_to_fill(hostages.into_iter().chain(clean[filled.max(plan.empty.len())..].iter().rev().copied()));
        plan
    }

    /// Fills the first of `blocks` that have room for all moves.
    fn choose_to_fill<'o>(&mut self, blocks: impl Iterator<Item = &'o Observed>) {
        for seen in blocks {
            if self.free_frames >= self.moves {
                break;
            }
            self.free_frames += u64::from(seen.tally.free);
            self.fill.push(seen.block);
        }
    }

    /// Makes plans to empty an aligned run of `blocks` blocks each, for a folio that is larger than a block: cheapest first.
    /// `is_free` tells of a block that was not observed whether it's free. No run has pages that can't move.
    pub fn for_runs(observation: &Observation, blocks: u32, is_free: impl Fn(u32) -> bool) -> Vec<Self> {
        let seen = |block| observation.blocks.binary_search_by_key(&block, |seen| seen.block).ok();
        let mut runs: Vec<u32> = observation.blocks.iter().map(|seen| seen.block / blocks * blocks).collect();
        runs.dedup();
        let plan_of = |first: u32| {
            let mut plan = Self::default();
            for block in first..first + blocks {
                let Some(tally) = seen(block).map(|at| observation.blocks[at].tally) else {
                    if is_free(block) {
                        continue;
                    }
                    return None;
                };
                if tally.fixed > 0 {
                    return None;
                }
                plan.moves += u64::from(tally.movable);
                plan.empty.push(Emptied { block, pages: tally.movable });
            }
            let rest = |seen: &&Observed| !(first..first + blocks).contains(&seen.block) && seen.tally.free > 0;
            let mut fill: Vec<&Observed> = observation.blocks.iter().filter(rest).collect();
            // Blocks that can't become free first, then those that cost most to empty.
            fill.sort_unstable_by_key(|seen| (seen.tally.fixed == 0, seen.tally.free, seen.block));
            plan.choose_to_fill(fill.into_iter());
            Some(plan).filter(|plan| plan.free_frames >= plan.moves)
        };
        let mut plans: Vec<Self> = runs.into_iter().filter_map(plan_of).collect();
        plans.sort_by_key(|plan| plan.moves);
        plans
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "empty {} block(s) by moving {} page(s) into {} free frame(s) of {} block(s)",
            self.empty.len(),
            self.moves,
            self.free_frames,
            self.fill.len()
        )?;
        for Emptied { block, pages } in &self.empty {
            writeln!(f, "  empty block {block}: {pages} page(s)")?;
        }
        for block in &self.fill {
            writeln!(f, "  fill block {block}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        compact::{Observed, Tally},
        migrate::Policy,
    };

    fn observation(tallies: &[(u32, u32, u32)]) -> Observation {
        let blocks = tallies
            .iter()
            .enumerate()
            .map(|(block, &(free, movable, fixed))| Observed {
                block: block as u32,
                tally: Tally { free, movable, fixed },
            })
            .collect();
        Observation { policy: Policy::Any, block_frames: 512, blocks }
    }

    #[test]
    fn empties_the_cheap_and_fills_the_full() {
        let seen = observation(&[(500, 12, 0), (100, 412, 0), (300, 212, 0)]);
        let plan = Plan::new(&seen, Goal::All);
        assert_eq!(plan.empty, [Emptied { block: 0, pages: 12 }]);
        assert_eq!(plan.fill, [1]);
        assert_eq!(plan.moves, 12);
    }

    #[test]
    fn hostages_are_filled_first_and_never_emptied() {
        let seen = observation(&[(400, 112, 0), (411, 100, 1), (400, 112, 0)]);
        let plan = Plan::new(&seen, Goal::All);
        assert_eq!(plan.empty.len(), 2);
        assert_eq!(plan.fill, [1]);
        assert_eq!(plan.moves, 224);
    }

    #[test]
    fn a_goal_of_one_block_moves_no_more_than_that_block() {
        let seen = observation(&[(400, 112, 0), (500, 12, 0), (450, 62, 0), (12, 500, 0)]);
        let plan = Plan::new(&seen, Goal::Blocks(1));
        assert_eq!(plan.empty, [Emptied { block: 1, pages: 12 }]);
        assert_eq!(plan.fill, [3]);
    }

    #[test]
    fn without_room_nothing_is_planned() {
        assert_eq!(Plan::new(&observation(&[(0, 512, 0), (0, 512, 0)]), Goal::All), Plan::default());
        assert_eq!(Plan::new(&observation(&[(100, 412, 0)]), Goal::All), Plan::default());
        assert_eq!(Plan::new(&observation(&[]), Goal::All), Plan::default());
    }

    #[test]
    fn the_cheapest_run_without_fixed_pages_is_emptied() {
        // Block 1 is free, block 6 holds what is fixed, and so was not observed.
        let mut seen = observation(&[
            (412, 100, 0),
            (512, 0, 0),
            (500, 12, 0),
            (411, 100, 1),
            (502, 10, 0),
            (500, 12, 0),
            (0, 0, 512),
            (511, 1, 0),
        ]);
        seen.blocks.retain(|seen| seen.tally.free > 0 && seen.tally.free < 512);
        let plans = Plan::for_runs(&seen, 2, |block| block == 1);
        let runs: Vec<Vec<u32>> =
            plans.iter().map(|plan| plan.empty.iter().map(|empty| empty.block).collect()).collect();
        assert_eq!(runs, [&[4, 5][..], &[0]]);
        assert_eq!((plans[0].moves, &plans[0].fill[..]), (22, &[3][..]));
        assert!(Plan::for_runs(&seen, 8, |block| block == 1).is_empty());
        assert!(Plan::for_runs(&observation(&[(0, 512, 0), (1, 511, 0)]), 2, |_| true).is_empty(), "no room");
    }

    /// For any input there is room for all moves, no block is both emptied and filled, and no fixed page is moved.
    #[test]
    fn invariants_hold_for_many_inputs() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = move |below: u32| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) % u64::from(below)) as u32
        };
        for _ in 0..500 {
            let tallies: Vec<_> = (0..random(40))
                .map(|_| {
                    let free = random(513);
                    let fixed = if random(2) == 0 { 0 } else { random(513 - free) };
                    (free, 512 - free - fixed, fixed)
                })
                .collect();
            let seen = observation(&tallies);
            let plan = Plan::new(&seen, Goal::All);
            assert!(plan.free_frames >= plan.moves);
            assert_eq!(plan.moves, plan.empty.iter().map(|empty| u64::from(empty.pages)).sum::<u64>());
            for empty in &plan.empty {
                assert_eq!(tallies[empty.block as usize].2, 0);
                assert!(!plan.fill.contains(&empty.block));
            }
        }
    }
}
