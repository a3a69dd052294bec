//! The blocks, packed for `map.js`.
//!
//! Takes what there is to tell, gives one JSON object, safe to stand in a `script` element. Promises at most [`MOST_RUNS`] runs of frames of
//! hostage blocks, and a quarter as many of others: a machine of 1 TiB has 524,288 blocks, and its page is still one that a browser opens.

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
    owners::{groups, names::Owner, staying},
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
    owners: Vec<Owner>,
    numbers: BTreeMap<Owner, usize>,
}

impl Names {
    fn number(&mut self, owner: Owner, view: &View<'_>) -> usize {
        match self.numbers.entry(owner) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(new) => {
                self.names.push(view.names.name(owner));
                self.owners.push(owner);
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
    let mut names = Names { names: Vec::new(), owners: Vec::new(), numbers: BTreeMap::new() };
    for class in 0..FrameClass::COUNT {
        names.number(Owner::Class(class), view);
    }
    let zones = view.census.zones.iter().map(|zone| (zone.name.as_str(), zone.node)).collect();
    // Of hostages, and of others, which are of less interest.
    let (mut hostages_left, mut others_left) = (most_runs, most_runs / 4);
    let (mut text, mut left_out) = (String::new(), 0);
    let first = layout.first_pfn();
    let mut next = first;
    for Group { block, count } in groups(layout, view.names) {
        let frames = ByClass::counted(&block.classes);
        let verdict = Verdict::of(&frames);
        let holders = if verdict == Verdict::Hostage { staying(&block, view.names) } else { BTreeMap::new() };
        let most = holders.iter().max_by_key(|&(_, frames)| frames);
        let most = most.map_or(0, |(&owner, _)| names.number(owner, view) + 1);
        let gap = (block.pfn - next) / layout.frames_per_block();
        next = block.pfn + count * layout.frames_per_block();
        let zone = view.census.places[layout.zone_of_block(block.pfn)];
        let movable = frames.sum(FrameClass::linux_moves);
        let numbers = [gap, count, zone as u64, verdict as u64, frames.of(FrameClass::Free), movable, most as u64];
        let numbers = numbers.map(|number| if number == 0 { String::new() } else { Base36(number).to_string() });
        text += &numbers.join(",");
        let left = if verdict == Verdict::Hostage { &mut hostages_left } else { &mut others_left };
        let runs = if *left > 0 { runs(&block, view, &mut names) } else { Vec::new() };
        if !runs.is_empty() && runs.len() <= *left {
            *left -= runs.len();
            text.push(';');
            let run = |&(name, frames): &(usize, u64)| match frames {
                1 => Base36(name as u64).to_string(),
                frames => format!("{}.{}", Base36(name as u64), Base36(frames)),
            };
            text += &runs.iter().map(run).collect::<Vec<_>>().join(",");
        } else {
            *left = 0;
            left_out += count;
            if !holders.is_empty() {
                // Whom the filter looks for.
                let holders = holders.keys().map(|&owner| Base36(names.number(owner, view) as u64).to_string());
                text += &format!(";;{}", holders.collect::<Vec<_>>().join(","));
            }
        }
        text.push(' ');
    }
    let stays = names.owners.iter().map(|owner| owner.stays()).collect();
    let owners = view.holdings.iter().take(most_owners).map(|holding| names.number(holding.key, view)).collect();
    let (frame_bytes, frames) = (view.census.frame_bytes, layout.frames_per_block());
    let blocks = text.trim_end().to_owned();
    let data = Data { frame_bytes, frames, first, names: names.names, stays, owners, zones, blocks };
    // Numbers and strings only, so that it can't fail. No `<`: a name must not end the element.
    let json = serde_json::to_string(&data).unwrap_or_default().replace('<', "\\u003c");
    Packed { json, left_out }
}

/// The frames of a block: numbers of names, and how many frames in a row have it.
fn runs(block: &Block, view: &View<'_>, names: &mut Names) -> Vec<(usize, u64)> {
    let mut runs: Vec<(Owner, u64)> = Vec::new();
    for (pfn, &class) in (block.pfn..).zip(&block.classes) {
        let owner = view.names.owner(class, pfn);
        match runs.last_mut() {
            Some((last, frames)) if *last == owner => *frames += 1,
            _ => runs.push((owner, 1)),
        }
    }
    runs.into_iter().map(|(owner, frames)| (names.number(owner, view), frames)).collect()
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
    fn without_room_frames_are_left_out_and_holders_kept() {
        let (layout, names) = (layout(), Names::default());
        let view = View::of(&layout, &names);
        let blocks = |most| {
            let Packed { json, left_out } = packed_within(&view, 9, most);
            let data: serde_json::Value = serde_json::from_str(&json).expect("JSON");
            (data["blocks"].as_str().expect("text").to_owned(), left_out)
        };
        let all = ",2,,,4,,;0.4 2,1,,2,2,1,4;3,1,0.2 ,1,,3,,,;8.4";
        assert_eq!(blocks(8), (all.to_owned(), 0));
        assert_eq!(blocks(4), (",2,,,4,,;0.4 2,1,,2,2,1,4;3,1,0.2 ,1,,3,,,".to_owned(), 1));
        assert_eq!(blocks(2), (",2,,,4,, 2,1,,2,2,1,4;;3 ,1,,3,,,".to_owned(), 4));
    }

    #[test]
    fn numbers_are_read_by_javascript() {
        assert_eq!(
            [0, 35, 36, 1296, u64::MAX].map(|n| Base36(n).to_string()),
            ["0", "z", "10", "100", "3w5e11264sgsf"]
        );
    }
}
