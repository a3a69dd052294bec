//! What compaction could free at most, found without doing it.
//!
//! Takes a layout, gives for each zone the blocks that could be emptied into the free frames of others, and the pages that would have to move.
//! Promises the most that the layout allows: pages stay in their zone, and none is reclaimed. Linux reaches less, since pinned pages look
//! like others here, and it stops early; or a little more, since free frames on per-CPU lists look like the kernel's.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    FrameClass, Group, Layout,
    census::{ByClass, Verdict},
};

/// The plan of one zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Plan {
    pub(crate) node: u32,
    pub(crate) zone: String,
    /// Blocks that are wholly free.
    pub(crate) free: u64,
    /// Blocks that could be emptied, if there was room for their pages.
    pub(crate) movable: u64,
    /// Those for whose pages there is room, at most.
    pub(crate) freed: u64,
    /// Pages to move for that.
    pub(crate) pages: u64,
}

/// Blocks that are alike: movable pages and free frames in each, and how many there are.
#[derive(Clone, Copy)]
struct Source {
    movable: u64,
    free: u64,
    blocks: u64,
}

/// Plans each zone by itself, in the order of the layout.
pub(crate) fn plan(layout: &Layout) -> Vec<Plan> {
    // By node and name: a zone may have several parts.
    let mut zones = BTreeMap::<(u32, &str), (u64, u64, Vec<Source>)>::new();
    for Group { block, count } in layout.block_groups() {
        let zone = &layout.zones()[layout.zone_of_block(block.pfn)];
        let (free, room, sources) = zones.entry((zone.node, &zone.name)).or_default();
        let frames = ByClass::counted(&block.classes);
        match Verdict::of(&frames) {
            Verdict::Free => *free += count,
            Verdict::Movable => sources.push(Source {
                movable: frames.sum(FrameClass::linux_moves),
                free: frames.of(FrameClass::Free),
                blocks: count,
            }),
            Verdict::Hostage => *room += count * frames.of(FrameClass::Free),
            Verdict::Full => {}
        }
    }
    let plan = |((node, zone), (free, room, sources)): ((u32, &str), (u64, u64, Vec<Source>))| {
        let movable = sources.iter().map(|source| source.blocks).sum();
        let (freed, pages) = empty(sources, room);
        Plan { node, zone: zone.to_owned(), free, movable, freed, pages }
    };
    zones.into_iter().map(plan).collect()
}

/// Empties the blocks with fewest pages first, into `room`, and into the blocks with most pages once that is full. Gives how many
/// are emptied, and the pages moved.
fn empty(mut sources: Vec<Source>, mut room: u64) -> (u64, u64) {
    sources.sort_by_key(|source| source.movable);
    let (mut freed, mut pages) = (0, 0);
    let (mut first, mut end) = (0, sources.len());
    while first < end {
        let source = sources[first];
        // Each such block has a page: else it would be wholly free.
        let fit = (room / source.movable.max(1)).min(source.blocks);
        freed += fit;
        pages += fit * source.movable;
        room -= fit * source.movable;
        sources[first].blocks -= fit;
        if sources[first].blocks == 0 {
            first += 1;
            continue;
        }
        // No room for another one: one of the fullest takes pages, and isn't emptied itself. As many at once as it takes for one more.
        let last = &mut sources[end - 1];
        let wanted = (source.movable - room).div_ceil(last.free.max(1));
        let taken = wanted.min(last.blocks);
        last.blocks -= taken;
        room += taken * last.free;
        if last.blocks == 0 {
            end -= 1;
        }
    }
    (freed, pages)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{Run, Sizes, Zone};

    fn planned(runs: &[(FrameClass, u64)]) -> (u64, u64, u64, u64) {
        let spanned = runs.iter().map(|run| run.1).sum();
        let zone = Zone { name: "Normal".into(), node: 0, start_pfn: 0, spanned, present: spanned };
        let runs = runs.iter().copied().map(Run::from).collect();
        let layout = Layout::new("test".into(), Sizes::usual(2), vec![zone], runs).expect("consistent");
        let [Plan { free, movable, freed, pages, .. }] = plan(&layout)[..] else { panic!("one zone") };
        (free, movable, freed, pages)
    }

    #[test]
    fn the_cheapest_are_emptied_into_the_fullest() {
        use FrameClass::*;
        // Of four blocks of four, with 1, 3, 2 and 2 pages: the one goes to the 3, then 2 to 2.
        let runs = [(Anon, 1), (Free, 3), (Anon, 3), (Free, 1), (File, 2), (Free, 2), (Anon, 2), (Free, 2)];
        assert_eq!(planned(&runs), (0, 4, 2, 3));
        // A hostage's free frames are room too.
        assert_eq!(planned(&[(Anon, 1), (Free, 3), (Slab, 1), (Free, 3), (Free, 4)]), (1, 1, 1, 1));
        // No room at all; and just one block with pages, which stays.
        assert_eq!(planned(&[(Anon, 8)]), (0, 2, 0, 0));
        assert_eq!(planned(&[(Anon, 1), (Free, 3)]), (0, 1, 0, 0));
        // Full ones can't take any.
        assert_eq!(planned(&[(Anon, 1), (Free, 3), (Anon, 400)]), (0, 101, 0, 0));
    }

    /// A bound that nothing passes: pages need frames.
    #[test]
    fn no_plan_frees_more_than_the_free_frames_allow() {
        use rand::{RngExt as _, SeedableRng as _};
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(7);
        for _ in 0..300 {
            let classes = [FrameClass::Free, FrameClass::Anon, FrameClass::Slab];
            let mut runs: Vec<(FrameClass, u64)> = Vec::new();
            let mut total = 0;
            while total < 160 {
                let (class, frames) = (classes[rng.random_range(0..3)], rng.random_range(1..9));
                if runs.last().is_none_or(|last| last.0 != class) {
                    runs.push((class, frames));
                    total += frames;
                }
            }
            if total % 4 > 0 {
                runs.push((FrameClass::Kernel, 4 - total % 4));
            }
            let frames = |wanted| runs.iter().filter(|run| run.0 == wanted).map(|run| run.1).sum::<u64>();
            let (free, movable, freed, pages) = planned(&runs);
            assert!((free + freed) * 4 <= frames(FrameClass::Free) && freed <= movable, "{runs:?}");
            assert!(pages <= frames(FrameClass::Anon) && pages >= freed, "{runs:?}");
        }
    }
}
