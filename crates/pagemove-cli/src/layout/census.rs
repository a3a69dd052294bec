//! What a layout holds: frames by class, pageblocks by what keeps them.
//!
//! Takes a layout, gives counts by zone and in total. Promises that each pageblock counts once, to the first zone that
//! has frames in it, and each frame once, to its own zone.

use std::collections::HashMap;

use serde::{Serialize, Serializer, ser::SerializeMap};

use super::{FrameClass, Layout, blocks::Group};

/// A count for each class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ByClass([u64; FrameClass::COUNT]);

impl ByClass {
    /// Counts frames.
    pub(crate) fn counted(classes: &[FrameClass]) -> Self {
        let mut counts = Self::default();
        classes.iter().for_each(|&class| counts.add(class, 1));
        counts
    }

    /// Returns the count of a class.
    pub(crate) fn of(&self, class: FrameClass) -> u64 {
        self.0[class.index()]
    }

    /// Adds to the count of a class.
    pub(crate) fn add(&mut self, class: FrameClass, count: u64) {
        self.0[class.index()] += count;
    }

    /// Returns the sum over the classes for which `which` holds.
    pub(crate) fn sum(&self, which: impl Fn(FrameClass) -> bool) -> u64 {
        FrameClass::ALL.into_iter().filter(|class| which(*class)).map(|class| self.of(class)).sum()
    }
}

impl Serialize for ByClass {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(FrameClass::COUNT))?;
        for class in FrameClass::ALL {
            map.serialize_entry(class.code(), &self.of(class))?;
        }
        map.end()
    }
}

/// What stock Linux can make of a pageblock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// All frames are free.
    Free,
    /// All frames are free or movable, and not all free: it can be emptied.
    Movable,
    /// Some frames are free or movable, others stay: these hold it hostage.
    Hostage,
    /// No frame is free or movable.
    Full,
}

impl Verdict {
    /// Returns what a person reads.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Free => "wholly free",
            Self::Movable => "could be emptied",
            Self::Hostage => "hostage",
            Self::Full => "nothing to gain",
        }
    }

    /// Judges a pageblock by its frames.
    pub(crate) fn of(frames: &ByClass) -> Self {
        let stay = frames.sum(FrameClass::stays);
        let movable = frames.sum(FrameClass::linux_moves);
        match (frames.of(FrameClass::Free), movable, stay) {
            (_, 0, 0) => Self::Free,
            (_, _, 0) => Self::Movable,
            (0, 0, _) => Self::Full,
            _ => Self::Hostage,
        }
    }
}

/// Pageblocks by verdict; those that are wholly absent don't count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct BlockCounts {
    /// All.
    pub(crate) total: u64,
    /// All frames are free.
    pub(crate) free: u64,
    /// All frames are free or movable, and not all free: they can be emptied.
    pub(crate) movable: u64,
    /// Some frames are free or movable, others stay.
    pub(crate) hostage: u64,
    /// No frame is free or movable.
    pub(crate) full: u64,
    /// Hostages by who holds them; one that several classes hold counts for each.
    pub(crate) held_by: ByClass,
    /// Hostages that this class alone holds.
    pub(crate) held_only_by: ByClass,
}

impl BlockCounts {
    fn add(&mut self, frames: &ByClass, count: u64) -> Verdict {
        let verdict = Verdict::of(frames);
        self.total += count;
        match verdict {
            Verdict::Free => self.free += count,
            Verdict::Movable => self.movable += count,
            Verdict::Full => self.full += count,
            Verdict::Hostage => {
                self.hostage += count;
                let holders = || FrameClass::ALL.into_iter().filter(|class| class.stays() && frames.of(*class) > 0);
                let alone = holders().count() == 1;
                for class in holders() {
                    self.held_by.add(class, count);
                    self.held_only_by.add(class, if alone { count } else { 0 });
                }
            }
        }
        verdict
    }
}

/// What a zone holds, or all zones.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Counts {
    /// Frames that it spans, by class.
    pub(crate) frames: ByClass,
    /// Its pageblocks.
    pub(crate) blocks: BlockCounts,
}

/// The counts of one zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct ZoneCounts {
    /// Its name.
    pub(crate) name: String,
    /// Its NUMA node.
    pub(crate) node: u32,
    /// What it holds.
    #[serde(flatten)]
    pub(crate) counts: Counts,
}

/// What a layout holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Census {
    /// Bytes in a frame. A survey has it once already.
    #[serde(skip)]
    pub(crate) frame_bytes: u64,
    /// Each zone once, though the layout may have it in several parts.
    pub(crate) zones: Vec<ZoneCounts>,
    /// All zones.
    pub(crate) total: Counts,
    /// For each zone of the layout, by number, its place among `zones`.
    #[serde(skip)]
    pub(crate) places: Vec<usize>,
}

impl Census {
    /// Tells whether a zone's name needs its node beside it.
    pub(crate) fn has_several_nodes(&self) -> bool {
        self.zones.iter().any(|zone| zone.node != self.zones[0].node)
    }

    /// Counts a layout; `each` sees every pageblock on the way, or how many in a row are alike.
    pub(crate) fn take(layout: &Layout, mut each: impl FnMut(&ByClass, Verdict, u64)) -> Self {
        let mut zones: Vec<ZoneCounts> = Vec::new();
        let mut place = Vec::new();
        let mut known = HashMap::new();
        for zone in layout.zones() {
            place.push(*known.entry((zone.node, &zone.name)).or_insert_with(|| {
                zones.push(ZoneCounts { name: zone.name.clone(), node: zone.node, counts: Counts::default() });
                zones.len() - 1
            }));
        }

        let mut total = Counts::default();
        for Group { block, count } in layout.block_groups() {
            let frames = ByClass::counted(&block.classes);
            let zone = &mut zones[place[layout.zone_of_block(block.pfn)]].counts;
            zone.blocks.add(&frames, count);
            each(&frames, total.blocks.add(&frames, count), count);
        }

        let (mut at, mut parts) = (layout.first_pfn(), layout.zones().iter().zip(&place).peekable());
        for run in layout.runs() {
            let end = at + run.frames;
            while let Some((zone, place)) = parts.peek() {
                let inside = end.min(zone.end_pfn()).saturating_sub(at.max(zone.start_pfn));
                zones[**place].counts.frames.add(run.class, inside);
                total.frames.add(run.class, inside);
                if zone.end_pfn() > end {
                    break;
                }
                parts.next();
            }
            at = end;
        }
        Self { frame_bytes: layout.sizes().frame_bytes, zones, total, places: place }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{Run, Sizes, Zone};
    use FrameClass::*;

    #[test]
    fn blocks_are_judged_by_what_stays() {
        let rows: [(&[FrameClass], Verdict); 8] = [
            (&[Free], Verdict::Free),
            (&[Free, Anon], Verdict::Movable),
            (&[File, Anon], Verdict::Movable),
            (&[Free, Slab], Verdict::Hostage),
            (&[File, DriverMapped], Verdict::Hostage),
            (&[Free, Absent], Verdict::Hostage),
            (&[Slab, Kernel], Verdict::Full),
            (&[Balloon], Verdict::Full),
        ];
        for (classes, verdict) in rows {
            let mut frames = ByClass::default();
            classes.iter().for_each(|&class| frames.add(class, 3));
            assert_eq!(Verdict::of(&frames), verdict, "{classes:?}");
        }
    }

    #[test]
    fn each_frame_and_block_counts_once_in_its_zone() {
        let zone =
            |name: &str, start_pfn, spanned| Zone { name: name.into(), node: 0, start_pfn, spanned, present: spanned };
        // Blocks of 4: one across two zones, one free, one hostage to two classes, one hostage to one, one hole.
        let zones = vec![zone("Low", 1, 1), zone("High", 2, 14), zone("Low", 20, 4)];
        let runs = [(Absent, 1), (Slab, 1), (Anon, 2), (Free, 4), (Free, 2), (Slab, 1), (Kernel, 1), (Absent, 4)];
        let runs = [&runs[..], &[(Absent, 4), (DriverMapped, 1), (File, 3)]].concat();
        let layout = Layout::new("test".into(), Sizes::usual(2), zones, runs.into_iter().map(Run::from).collect());
        let mut verdicts = Vec::new();
        let census = Census::take(&layout.expect("consistent"), |_, verdict, count| {
            verdicts.extend((0..count).map(|_| verdict))
        });
        use Verdict::{Free as AllFree, Hostage};
        assert_eq!(verdicts, [Hostage, AllFree, Hostage, Hostage]);

        let [low, high] = &census.zones[..] else { panic!("two zones by name: {census:?}") };
        let frames = |zone: &ZoneCounts| [Slab, Anon, Free, Kernel, Absent].map(|class| zone.counts.frames.of(class));
        assert_eq!(frames(low), [1, 0, 0, 0, 0]);
        assert_eq!(frames(high), [1, 2, 6, 1, 4]);
        assert_eq!((low.counts.blocks.hostage, high.counts.blocks.hostage), (2, 1));
        assert_eq!(census.total.frames.sum(|_| true), 19);
        let blocks = census.total.blocks;
        assert_eq!((blocks.total, blocks.free, blocks.movable, blocks.hostage, blocks.full), (4, 1, 0, 3, 0));
        let held = [Slab, Kernel, DriverMapped, Absent];
        assert_eq!(held.map(|class| blocks.held_by.of(class)), [2, 1, 1, 1]);
        assert_eq!(held.map(|class| blocks.held_only_by.of(class)), [0, 0, 1, 0]);
    }
}
