//! Who holds hostage blocks: each frame that stays gets the best name that this machine gives.
//!
//! Takes a layout and the names of frames; gives a row for each owner: frames, blocks that it holds, and those that it holds alone, which would be
//! gained if just its pages could move. Promises that each frame that stays counts to one owner; what has no name is an owner too.

pub(crate) mod explain;
mod kit;
mod lists;
mod mapped;
pub(crate) mod names;
pub(crate) mod page_owner;
pub(crate) mod pinners;
pub(crate) mod range;
mod regions;
mod saved;
mod smaps;
pub(crate) mod sums;
pub(crate) mod table;
mod wanted;

use std::{cmp::Reverse, collections::BTreeMap};

use serde::Serialize;

use self::names::{Names, Owner};
use crate::layout::{
    Block, FrameClass, Group, Layout,
    census::{ByClass, Verdict},
};

/// What an owner holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Holding {
    /// Which one.
    #[serde(skip)]
    pub(crate) key: Owner,
    /// Its name.
    pub(crate) owner: String,
    /// Processes that map its frames; 0: not a matter of processes.
    pub(crate) processes: u64,
    /// Their numbers; some of many.
    pub(crate) pids: Vec<u32>,
    /// The first frame of one of the blocks that it holds, of one that it holds alone if there is one.
    pub(crate) example: u64,
    /// What it is, or how the name is known.
    pub(crate) source: String,
    /// Frames in hostage blocks.
    pub(crate) frames: u64,
    /// Hostage blocks with one of its frames.
    pub(crate) blocks: u64,
    /// Those in which only its frames stay.
    pub(crate) alone: u64,
    /// Pages beside them in these, which would have to move.
    pub(crate) to_move: u64,
}

/// Gives the pageblocks in groups of which all blocks have the same owners: blocks of one class may have several.
pub(crate) fn groups<'a>(layout: &'a Layout, names: &'a Names) -> impl Iterator<Item = Group> + 'a {
    layout.block_groups().flat_map(move |Group { block, count }| {
        let size = block.classes.len() as u64;
        // Parts to be looked at, the first one last: blocks before them, and how many they are.
        let mut parts = vec![(0, count)];
        std::iter::from_fn(move || {
            let (at, mut count) = parts.pop()?;
            let pfn = block.pfn + at * size;
            while count > 1 && !names.is_uniform(block.classes[0], pfn, pfn + count * size) {
                let first = count / 2;
                parts.push((at + first, count - first));
                count = first;
            }
            Some(Group { block: Block { pfn, classes: block.classes.clone() }, count })
        })
    })
}

/// Counts the frames of a block that stay, by owner.
pub(crate) fn staying(block: &Block, names: &Names) -> BTreeMap<Owner, u64> {
    let mut counts = BTreeMap::new();
    for (pfn, &class) in (block.pfn..).zip(&block.classes).filter(|(_, class)| class.stays()) {
        *counts.entry(names.owner(class, pfn)).or_default() += 1;
    }
    counts
}

/// Counts what each owner holds; those who hold most alone come first.
pub(crate) fn holdings(layout: &Layout, names: &Names) -> Vec<Holding> {
    let mut counts = BTreeMap::<Owner, [u64; 4]>::new();
    let mut examples = BTreeMap::<Owner, u64>::new();
    for Group { block, count } in groups(layout, names) {
        let classes = ByClass::counted(&block.classes);
        if Verdict::of(&classes) != Verdict::Hostage {
            continue;
        }
        let here = staying(&block, names);
        let alone = if here.len() == 1 { count } else { 0 };
        for (&owner, &frames) in &here {
            let sums = counts.entry(owner).or_default();
            if sums[1] == 0 || alone > 0 && sums[2] == 0 {
                examples.insert(owner, block.pfn);
            }
            let to_move = alone * classes.sum(FrameClass::linux_moves);
            for (sum, more) in sums.iter_mut().zip([count * frames, count, alone, to_move]) {
                *sum += more;
            }
        }
    }
    let holding = |(owner, [frames, blocks, alone, to_move]): (Owner, [u64; 4])| Holding {
        key: owner,
        owner: names.name(owner),
        processes: names.processes(owner),
        pids: names.pids(owner),
        example: examples.get(&owner).copied().unwrap_or(0),
        source: names.source(owner),
        frames,
        blocks,
        alone,
        to_move,
    };
    let mut holdings: Vec<Holding> = counts.into_iter().map(holding).collect();
    holdings.sort_by_key(|holding| Reverse((holding.alone, holding.blocks)));
    holdings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{Run, Sizes, Zone};

    #[test]
    fn each_frame_that_stays_counts_to_one_owner() {
        use FrameClass::*;
        let runs = [(Free, 3), (Slab, 1), (Anon, 2), (DriverMapped, 2), (Slab, 4), (Free, 3), (DriverMapped, 1)];
        let zone = Zone { name: "Normal".into(), node: 0, start_pfn: 0, spanned: 16, present: 16 };
        let runs = runs.map(Run::from).to_vec();
        let layout = Layout::new("test".into(), Sizes::usual(2), vec![zone], runs).expect("consistent");
        let found = holdings(&layout, &Names::default());
        let rows: Vec<_> = found.iter().map(|row| (row.owner.as_str(), row.frames, row.blocks, row.alone)).collect();
        // The block of four slabs is nobody's hostage.
        assert_eq!(rows, [("driver, mapped", 3, 2, 2), ("slab", 1, 1, 1)]);
        assert_eq!(found.iter().map(|row| row.to_move).collect::<Vec<_>>(), [2, 0]);
        assert_eq!(found.iter().map(|row| row.example).collect::<Vec<_>>(), [4, 0]);
    }
}
