//! The blocks, packed for `map.js`.
//!
//! Takes what there is to tell, gives one JSON object, safe to stand in a `script` element. Promises at most [`MOST_RUNS`] runs of frames,
//! those of hostage blocks first: a machine of 1 TiB has 524,288 blocks, and its page is still one that a browser opens.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt::{self, Write as _},
};

use serde::Serialize;

use crate::{
    layout::{
        Block, FrameClass, Group,
        census::{ByClass, Verdict},
    },
    owners::{names::Owner, staying},
    survey::view::View,
};

/// Runs of frames with one owner, at most: some 5 bytes each.
const MOST_RUNS: usize = 600_000;

/// What the script gets.
pub(super) struct Packed {
    /// The object.
    pub(super) json: String,
    /// Blocks whose frames are left out.
    pub(super) left_out: u64,
}

/// The object's fields.
#[derive(Serialize)]
struct Data<'v> {
    frame_bytes: u64,
    /// Frames in a block.
    frames: u64,
    /// PFN of the first block, unless there is a gap before it.
    first: u64,
    /// The classes, in the order of [`FrameClass::ALL`], then other owners.
    names: Vec<String>,
    /// Which of them stay.
    stays: Vec<bool>,
    /// Indices of names, those with a row in the table of owners, in its order.
    owners: Vec<usize>,
    zones: Vec<(&'v str, u32)>,
    blocks: String,
}

/// Gives each owner a number: a class its own, the others those behind.
struct Names {
    names: Vec<String>,
    numbers: BTreeMap<Owner, usize>,
}

impl Names {
    fn number(&mut self, owner: Owner, view: &View<'_>) -> usize {
        match self.numbers.entry(owner) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(new) => {
                self.names.push(view.names.name(owner));
                *new.insert(self.names.len() - 1)
            }
        }
    }
}

/// Packs all blocks; the first owners, so many, can be chosen.
pub(super) fn packed(view: &View<'_>, most_owners: usize) -> Packed {
    packed_within(view, most_owners, MOST_RUNS)
}

fn packed_within(view: &View<'_>, most_owners: usize, most_runs: usize) -> Packed {
    let layout = view.layout;
    let mut names = Names { names: Vec::new(), numbers: BTreeMap::new() };
    for class in 0..FrameClass::COUNT {
        names.number(Owner::Class(class), view);
    }
    let zones: Vec<(&str, u32)> = view.census.zones.iter().map(|zone| (zone.name.as_str(), zone.node)).collect();
    let zone_of = |pfn| {
        let zone = &layout.zones()[layout.zone_of_block(pfn)];
        zones.iter().position(|&(name, node)| name == zone.name && node == zone.node).unwrap_or(0)
    };
    let runs_of = |wanted: fn(Verdict) -> bool| -> usize {
        let groups = layout.block_groups().filter(|group| wanted(verdict(&group.block)));
        groups.map(|group| group.block.classes.chunk_by(|left, right| left == right).count()).sum()
    };
    let all_fit = runs_of(|_| true) <= most_runs;
    let (mut text, mut runs_left, mut left_out) = (String::new(), most_runs, 0);
    let first = layout.first_pfn() & !(layout.frames_per_block() - 1);
    let mut next = first;
    for Group { block, count } in layout.block_groups() {
        let frames = ByClass::counted(&block.classes);
        let verdict = Verdict::of(&frames);
        let owner = if verdict == Verdict::Hostage { holder(&block, view) } else { None };
        let owner = owner.map_or(0, |owner| names.number(owner, view) + 1);
        let gap = (block.pfn - next) / layout.frames_per_block();
        next = block.pfn + count * layout.frames_per_block();
        let movable = frames.sum(FrameClass::linux_moves);
        let numbers = [gap, count, zone_of(block.pfn) as u64, verdict as u64, frames.of(FrameClass::Free), movable];
        let numbers = numbers.into_iter().chain([owner as u64]).map(|number| match number {
            0 => String::new(),
            number => Base36(number).to_string(),
        });
        text += &numbers.collect::<Vec<_>>().join(",");
        let runs = runs(&block, view, &mut names);
        // What all frames are follows from the counts only for these.
        if all_fit || (verdict == Verdict::Hostage && runs.len() <= runs_left) {
            runs_left = runs_left.saturating_sub(runs.len());
            text.push(';');
            let run = |&(name, frames): &(usize, u64)| match frames {
                1 => Base36(name as u64).to_string(),
                frames => format!("{}.{}", Base36(name as u64), Base36(frames)),
            };
            text += &runs.iter().map(run).collect::<Vec<_>>().join(",");
        } else {
            left_out += count;
        }
        text.push(' ');
    }
    let mut stays: Vec<bool> = FrameClass::ALL.into_iter().map(FrameClass::stays).collect();
    // Only what stays has an owner that is no class.
    stays.resize(names.names.len(), true);
    let owners = view.holdings.iter().take(most_owners).map(|holding| names.numbers[&holding.key]).collect();
    let (frame_bytes, frames) = (view.census.frame_bytes, layout.frames_per_block());
    let data = Data {
        frame_bytes,
        frames,
        first,
        names: names.names,
        stays,
        owners,
        zones,
        blocks: text.trim_end().to_owned(),
    };
    // Numbers and strings only, so that it can't fail. No `<`: a name must not end the element.
    let json = serde_json::to_string(&data).unwrap_or_default().replace('<', "\\u003c");
    Packed { json, left_out }
}

fn verdict(block: &Block) -> Verdict {
    Verdict::of(&ByClass::counted(&block.classes))
}

/// Gives who holds most frames of a block.
fn holder(block: &Block, view: &View<'_>) -> Option<Owner> {
    staying(block, view.names).into_iter().max_by_key(|&(_, frames)| frames).map(|(owner, _)| owner)
}

/// The frames of a block: numbers of names, and how many frames in a row have it.
fn runs(block: &Block, view: &View<'_>, names: &mut Names) -> Vec<(usize, u64)> {
    let mut runs: Vec<(usize, u64)> = Vec::new();
    for (pfn, &class) in (block.pfn..).zip(&block.classes) {
        let name = names.number(view.names.owner(class, pfn), view);
        match runs.last_mut() {
            Some((last, frames)) if *last == name => *frames += 1,
            _ => runs.push((name, 1)),
        }
    }
    runs
}

/// A number as JavaScript's `parseInt(text, 36)` reads it.
struct Base36(u64);

impl fmt::Display for Base36 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(number) = self;
        if *number >= 36 {
            write!(f, "{}", Self(number / 36))?;
        }
        f.write_char(char::from_digit((number % 36) as u32, 36).unwrap_or('0'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        layout::{Layout, Run, Sizes, Zone},
        owners::names::Names,
    };

    fn layout() -> Layout {
        use FrameClass::*;
        // Blocks of 4: two free, a hole of two, a hostage, one that stays whole.
        let runs = [(Free, 8), (Absent, 8), (Slab, 1), (Anon, 1), (Free, 2), (Kernel, 4)].map(Run::from).to_vec();
        let zone = |start_pfn, spanned| Zone { name: "N<ormal".into(), node: 1, start_pfn, spanned, present: spanned };
        Layout::new("test".into(), Sizes::usual(2), vec![zone(32, 8), zone(48, 8)], runs).expect("consistent")
    }

    #[test]
    fn blocks_are_packed_with_their_frames() {
        let layout = layout();
        let names = Names::default();
        let view = View::of(&layout, &names);
        let Packed { json, left_out } = packed(&view, 9);
        assert_eq!(left_out, 0);
        assert!(!json.contains('<'), "{json}");
        let data: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        // Gap, count, zone, verdict, free, movable, holder; then name.length.
        assert_eq!(data["blocks"], ",2,,,4,,;0.4 2,1,,2,2,1,4;3,1,0.2 ,1,,3,,,;8.4");
        assert_eq!(
            (&data["names"][3], &data["stays"][3], &data["stays"][0]),
            (&"slab".into(), &true.into(), &false.into())
        );
        assert_eq!(data["first"], 32);
        assert_eq!(data["owners"], serde_json::json!([3]));
        assert_eq!(data["zones"], serde_json::json!([["N<ormal", 1]]));
    }

    #[test]
    fn without_room_the_hostages_frames_come_first() {
        let (layout, names) = (layout(), Names::default());
        let view = View::of(&layout, &names);
        let blocks = |most| {
            let Packed { json, left_out } = packed_within(&view, 9, most);
            let data: serde_json::Value = serde_json::from_str(&json).expect("JSON");
            (data["blocks"].as_str().expect("text").split(' ').filter(|block| block.contains(';')).count(), left_out)
        };
        assert_eq!([blocks(5), blocks(4), blocks(2)], [(3, 0), (1, 3), (0, 4)]);
    }

    #[test]
    fn numbers_are_read_by_javascript() {
        assert_eq!(
            [0, 35, 36, 1296, u64::MAX].map(|n| Base36(n).to_string()),
            ["0", "z", "10", "100", "3w5e11264sgsf"]
        );
    }
}
