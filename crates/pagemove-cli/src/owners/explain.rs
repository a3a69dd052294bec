//! All about one pageblock: its zone, what it's worth, and each run of frames with its owner.

use std::fmt::Write as _;

use super::names::{Names, Owner};
use crate::layout::{
    FrameClass, Group, Layout,
    census::{ByClass, Verdict},
};
use crate::numbers::thousands;

/// A frame's number, as `0x1a2b` or in decimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameNumber(pub(crate) u64);

impl std::str::FromStr for FrameNumber {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = match text.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16),
            None => text.parse(),
        };
        number.map(Self).map_err(|error| format!("{error}; a PFN is a number such as 4660 or 0x1234"))
    }
}

/// Describes the pageblock of a frame; `None` if the layout has no such block.
pub(crate) fn explain(layout: &Layout, names: &Names, FrameNumber(pfn): FrameNumber) -> Option<String> {
    let start = pfn & !(layout.frames_per_block() - 1);
    let size = layout.frames_per_block();
    let before = |group: &Group| group.block.pfn <= start;
    let group = layout.block_groups().take_while(before).find(|group| start < group.block.pfn + group.count * size)?;
    let block = group.block;
    let zone = &layout.zones()[layout.zone_of_block(start)];
    let end = start + block.classes.len() as u64 - 1;
    let mut text = format!("PFN {start:#x} to {end:#x}, zone {}, node {}: ", zone.name, zone.node);
    text += match Verdict::of(&ByClass::counted(&block.classes)) {
        Verdict::Free => "wholly free.\n",
        Verdict::Movable => "could be emptied, unless a page of it is pinned (a name below may say so).\n",
        Verdict::Hostage => "a hostage of the frames that stay.\n",
        Verdict::Full => "nothing to gain: no frame is free or movable.\n",
    };
    let named = |pfn: u64, class: FrameClass| -> Owner { names.owner(class, pfn) };
    let mut frames = (start..).zip(&block.classes).peekable();
    while let Some((first, &class)) = frames.next() {
        let owner = named(first, class);
        let mut last = first;
        while let Some((pfn, _)) = frames.next_if(|&(pfn, &class)| named(pfn, class) == owner) {
            last = pfn;
        }
        let stays = if class.stays() { "stays" } else { "" };
        let count = thousands(last - first + 1);
        let _ = writeln!(text, "  {first:#10x} {count:>6}  {stays:5}  {}", names.name(owner));
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{Run, Sizes, Zone};

    #[test]
    fn a_block_is_told_by_its_runs() {
        use FrameClass::*;
        let runs = [(Free, 4), (Anon, 1), (Free, 2), (Slab, 1)].map(Run::from).to_vec();
        let zone = Zone { name: "DMA32".into(), node: 3, start_pfn: 32, spanned: 8, present: 8 };
        let layout = Layout::new("test".into(), Sizes::usual(2), vec![zone], runs).expect("consistent");
        let told = |pfn| explain(&layout, &Names::default(), FrameNumber(pfn));
        let text = told(38).expect("a block");
        assert!(text.starts_with("PFN 0x24 to 0x27, zone DMA32, node 3: a hostage"), "{text}");
        let lines: Vec<Vec<&str>> = text.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(
            lines,
            [vec!["0x24", "1", "anonymous"], vec!["0x25", "2", "free"], vec!["0x27", "1", "stays", "slab"]]
        );
        assert!(told(33).is_some_and(|text| text.contains("wholly free")));
        assert_eq!((told(0), told(40), told(u64::MAX)), (None, None, None));
        assert_eq!(["0x1f", "31"].map(str::parse), [Ok(FrameNumber(31)), Ok(FrameNumber(31))]);
        assert!(["", "0x", "-1", "1f"].iter().all(|text| text.parse::<FrameNumber>().is_err()));
    }
}
