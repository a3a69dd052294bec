//! Who holds hostage blocks: each frame that stays gets the best name that this machine gives.
//!
//! Takes a layout and the names of mapped frames; gives a row for each owner: frames, blocks that it holds, and those that it holds alone, which would be
//! gained if just its pages could move. Promises that each frame that stays counts to one owner; what has no name is an owner too.

pub(crate) mod explain;
pub(crate) mod mapped;
mod smaps;
pub(crate) mod sums;
pub(crate) mod table;

use std::{cmp::Reverse, collections::BTreeMap};

use serde::Serialize;

use self::mapped::Mapped;
use crate::layout::{
    FrameClass, Group, Layout,
    census::{ByClass, Verdict},
};

/// An owner of frames that stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Owner {
    /// What a process maps, by number.
    Mapped(u32),
    /// All others of a class, by its place in [`FrameClass::ALL`].
    Class(usize),
}

impl Owner {
    fn of(class: FrameClass, pfn: u64, mapped: &Mapped) -> Self {
        let number = mapped.number(pfn).filter(|_| class == FrameClass::DriverMapped);
        number.map_or(Self::Class(class.index()), Self::Mapped)
    }

    fn name(self, mapped: &Mapped) -> String {
        match self {
            Self::Mapped(number) => mapped.name(number),
            Self::Class(place) => FrameClass::ALL[place].name().to_owned(),
        }
    }

    fn source(self) -> &'static str {
        match self {
            Self::Mapped(_) => "maps and pagemap of its processes",
            Self::Class(place) => FrameClass::ALL[place].description(),
        }
    }
}

/// What an owner holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Holding {
    /// Its name.
    pub(crate) owner: String,
    /// Processes that map its frames; 0: not a matter of processes.
    pub(crate) processes: u64,
    /// The first frame of one of the blocks that it holds, of one that it holds alone if there is one.
    pub(crate) example: u64,
    /// What it is, or how the name is known.
    pub(crate) source: &'static str,
    /// Frames in hostage blocks.
    pub(crate) frames: u64,
    /// Hostage blocks with one of its frames.
    pub(crate) blocks: u64,
    /// Those in which only its frames stay.
    pub(crate) alone: u64,
}

/// Counts what each owner holds; those who hold most alone come first.
pub(crate) fn holdings(layout: &Layout, mapped: &Mapped) -> Vec<Holding> {
    let mut counts = BTreeMap::<Owner, [u64; 3]>::new();
    let mut examples = BTreeMap::<Owner, u64>::new();
    let mut here = BTreeMap::<Owner, u64>::new();
    for Group { block, count } in layout.block_groups() {
        if Verdict::of(&ByClass::counted(&block.classes)) != Verdict::Hostage {
            continue;
        }
        here.clear();
        for (pfn, &class) in (block.pfn..).zip(&block.classes).filter(|(_, class)| class.stays()) {
            *here.entry(Owner::of(class, pfn, mapped)).or_default() += 1;
        }
        let alone = if here.len() == 1 { count } else { 0 };
        for (&owner, &frames) in &here {
            let sums = counts.entry(owner).or_default();
            if sums[1] == 0 || alone > 0 && sums[2] == 0 {
                examples.insert(owner, block.pfn);
            }
            for (sum, more) in sums.iter_mut().zip([count * frames, count, alone]) {
                *sum += more;
            }
        }
    }
    let holding = |(owner, [frames, blocks, alone]): (Owner, [u64; 3])| Holding {
        owner: owner.name(mapped),
        processes: if let Owner::Mapped(number) = owner { mapped.processes(number) } else { 0 },
        example: examples.get(&owner).copied().unwrap_or(0),
        source: owner.source(),
        frames,
        blocks,
        alone,
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
        let found = holdings(&layout, &Mapped::default());
        let rows: Vec<_> = found.iter().map(|row| (row.owner.as_str(), row.frames, row.blocks, row.alone)).collect();
        // The block of four slabs is nobody's hostage.
        assert_eq!(rows, [("driver, mapped", 3, 2, 2), ("slab", 1, 1, 1)]);
        assert_eq!(found.iter().map(|row| row.example).collect::<Vec<_>>(), [4, 0]);
    }
}
