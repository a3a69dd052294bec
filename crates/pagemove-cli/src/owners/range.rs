//! A list of pageblocks: each one's place, what it's worth, and who holds it.
//!
//! Takes a layout and a range as the kernel's messages or an operator name it; gives a row for each block, or for blocks in a row that are
//! alike. Promises to count only frames of the range.

use comfy_table::Table;
use serde::Serialize;

use super::{groups, names::Names, staying};
use crate::{
    layout::{
        Block, FrameClass, Group, Layout,
        census::{ByClass, Verdict},
        tables::table,
    },
    numbers::{counted, thousands},
    terminal::shown,
};

/// Owners of a block that a row of the table names on a terminal; what a program reads has all.
const MOST_NAMES: usize = 4;
/// Memory blocks that are named below the table.
const MOST_MEMORY_BLOCKS: usize = 12;

/// Which blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Range {
    /// All.
    All,
    /// Those that are held hostage.
    Hostages,
    /// A memory block of `/sys/devices/system/memory`, by number.
    MemoryBlock(u64),
    /// Frames, the end not included.
    Frames(u64, u64),
}

impl Range {
    /// Tells whether it names a place, where blocks are expected.
    pub(crate) fn is_a_place(self) -> bool {
        matches!(self, Self::MemoryBlock(_) | Self::Frames(..))
    }
}

impl std::str::FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse::<super::explain::FrameNumber>().map(|number| number.0);
        match (text, text.strip_prefix("memory"), text.split_once('-')) {
            ("all", ..) => Ok(Self::All),
            ("hostages", ..) => Ok(Self::Hostages),
            (_, Some(block), _) => {
                block.parse().map(Self::MemoryBlock).map_err(|error| format!("memory{block}: {error}"))
            }
            (.., Some((first, end))) => match (number(first)?, number(end)?) {
                (first, end) if first < end => Ok(Self::Frames(first, end)),
                _ => Err("the first PFN must be lower than the end, which is not included".to_owned()),
            },
            _ => Err("a range is `all`, `hostages`, `memory32` or PFNs such as 0x2ef00-0x2f00a".to_owned()),
        }
    }
}

/// Blocks in a row that are alike; mostly one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Row {
    /// Its first frame that is in the range.
    pfn: u64,
    /// How many blocks.
    blocks: u64,
    /// The memory block that has it, of this machine.
    memory_block: Option<u64>,
    node: u32,
    zone: String,
    /// What it's worth.
    state: Verdict,
    // Frames of the range.
    free: u64,
    movable: u64,
    stays: u64,
    /// Who has those that stay, and how many: most first.
    held_by: Vec<(String, u64)>,
    /// Frames that keep the memory block online: Linux moves those of hugetlb for that, and passes over holes and poisoned ones.
    #[serde(skip)]
    keep_online: u64,
}

/// Lists the blocks of a range. `memory_block` is the size of this machine's memory blocks in frames; `None` if the range needs it and there are none.
pub(crate) fn rows(layout: &Layout, names: &Names, range: Range, memory_block: Option<u64>) -> Option<Vec<Row>> {
    // A number that no address has is in no range, as one behind the end of memory.
    let (first, end) = match range {
        Range::All | Range::Hostages => (0, u64::MAX),
        Range::Frames(first, end) => (first, end),
        Range::MemoryBlock(number) => {
            let first = number.saturating_mul(memory_block?);
            (first, first.saturating_add(memory_block?))
        }
    };
    let size = layout.frames_per_block();
    let mut rows = Vec::new();
    for Group { block, count } in groups(layout, names) {
        let verdict = Verdict::of(&ByClass::counted(&block.classes));
        if range == Range::Hostages && verdict != Verdict::Hostage {
            continue;
        }
        let group_end = block.pfn + count * size;
        if group_end <= first || end <= block.pfn {
            continue;
        }
        // The part of the group within the range: its blocks are alike, so a part of a first or last one is cut off by itself.
        let mut at = first.max(block.pfn);
        while at < end.min(group_end) {
            let start = at & !(size - 1);
            let whole = if at == start { (end.min(group_end) - at) / size } else { 0 };
            // Up to the end of the memory block, which is one of the row's columns.
            let border =
                memory_block.map_or(u64::MAX, |frames| (start / frames).saturating_add(1).saturating_mul(frames));
            let whole = whole.min((border.saturating_sub(start) / size).max(1));
            let (blocks, to) = if whole > 0 { (whole, at + whole * size) } else { (1, end.min(start + size)) };
            let one = to.min(start + size);
            let classes = &block.classes[(at - start) as usize..(one - start) as usize];
            rows.push(row(layout, names, memory_block, verdict, blocks, &Block { pfn: at, classes: classes.into() }));
            at = to;
        }
    }
    Some(rows)
}

fn row(layout: &Layout, names: &Names, memory_block: Option<u64>, verdict: Verdict, blocks: u64, block: &Block) -> Row {
    let frames = ByClass::counted(&block.classes);
    let zone = &layout.zones()[layout.zone_of_block(block.pfn & !(layout.frames_per_block() - 1))];
    let mut held_by: Vec<_> =
        staying(block, names).into_iter().map(|(owner, frames)| (names.name(owner), frames)).collect();
    held_by.sort_by_key(|&(_, frames)| std::cmp::Reverse(frames));
    Row {
        pfn: block.pfn,
        blocks,
        memory_block: memory_block.map(|frames| block.pfn / frames),
        node: zone.node,
        zone: zone.name.clone(),
        state: verdict,
        free: frames.of(FrameClass::Free),
        movable: frames.sum(FrameClass::linux_moves),
        stays: frames.sum(FrameClass::stays),
        held_by,
        keep_online: frames.sum(|class| class.stays() && !matches!(class, FrameClass::Hugetlb | FrameClass::Absent)),
    }
}

/// Draws the list, and sums it.
pub(crate) fn describe(rows: &[Row], is_terminal: bool, ascii: bool) -> String {
    if rows.is_empty() {
        return "No block is held hostage.\n".to_owned();
    }
    let sum = |of: fn(&Row) -> u64| -> u64 { rows.iter().map(|row| row.blocks * of(row)).sum() };
    let holding: u64 = rows.iter().filter(|row| row.stays > 0).map(|row| row.blocks).sum();
    let mut text = format!(
        "{}\n{}; frames: {} free, {} movable unless pinned, {} that stay, in {} of the blocks.\n",
        range_table(rows, if is_terminal { MOST_NAMES } else { usize::MAX }, ascii),
        counted(sum(|_| 1), "block"),
        thousands(sum(|row| row.free)),
        thousands(sum(|row| row.movable)),
        thousands(sum(|row| row.stays)),
        thousands(holding),
    );
    let mut busy: Vec<u64> = rows.iter().filter(|row| row.keep_online > 0).filter_map(|row| row.memory_block).collect();
    busy.dedup();
    if !busy.is_empty() {
        let (named, more) = busy.split_at(busy.len().min(MOST_MEMORY_BLOCKS));
        let named: Vec<String> = named.iter().map(|number| format!("memory{number}")).collect();
        let more = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
        text += &format!("Memory blocks that can't go offline while these frames stay: {}{more}.\n", named.join(", "));
    }
    text
}

fn range_table(rows: &[Row], most_names: usize, ascii: bool) -> Table {
    let has_memory_blocks = rows.iter().any(|row| row.memory_block.is_some());
    let header = ["PFN", "blocks", "memory block", "zone", "state", "free", "movable", "stay", "held by"];
    let keep = |cells: Vec<String>| -> Vec<String> {
        cells.into_iter().enumerate().filter(|&(at, _)| has_memory_blocks || at != 2).map(|(_, cell)| cell).collect()
    };
    let cells = |row: &Row| {
        let mut holders: Vec<String> =
            row.held_by.iter().map(|(name, frames)| format!("{name} {}", thousands(*frames))).collect();
        if holders.len() > most_names {
            let more = holders.split_off(most_names).len();
            holders.push(format!("{more} more"));
        }
        let holders = holders.join("; ");
        keep(vec![
            format!("{:#x}", row.pfn),
            thousands(row.blocks),
            row.memory_block.map_or(String::new(), |number| format!("memory{number}")),
            format!("{}, node {}", row.zone, row.node),
            row.state.name().to_owned(),
            thousands(row.free),
            thousands(row.movable),
            thousands(row.stays),
            shown(holders, ascii),
        ])
    };
    let columns: &[usize] = if has_memory_blocks { &[0, 2, 3, 4, 8] } else { &[0, 2, 3, 7] };
    table(&keep(header.map(str::to_owned).to_vec()), rows.iter().map(cells).collect(), columns, ascii)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{Run, Sizes, Zone};

    fn layout() -> Layout {
        use FrameClass::*;
        let runs = [(Free, 12), (Anon, 1), (Free, 2), (Slab, 1), (Kernel, 1), (Anon, 3)].map(Run::from).to_vec();
        let zone = Zone { name: "Normal".into(), node: 0, start_pfn: 16, spanned: 20, present: 20 };
        Layout::new("test".into(), Sizes::usual(2), vec![zone], runs).expect("consistent")
    }

    #[test]
    fn ranges_are_read() {
        let read = |text: &str| text.parse::<Range>();
        assert_eq!(read("0x2ef00-0x2f00a"), Ok(Range::Frames(0x2ef00, 0x2f00a)));
        assert_eq!([read("all"), read("hostages")], [Ok(Range::All), Ok(Range::Hostages)]);
        assert_eq!([read("memory32"), read("1-2")], [Ok(Range::MemoryBlock(32)), Ok(Range::Frames(1, 2))]);
        for wrong in ["", "5", "2-1", "1-1", "0x-5", "memory", "memory-1", "memoryx", "-", "everything"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn blocks_are_listed_within_the_range_only() {
        let layout = layout();
        let list = |range, memory_block| rows(&layout, &Names::default(), range, memory_block);
        let brief = |rows: Option<Vec<Row>>| -> Vec<(u64, u64, u64, u64, u64)> {
            rows.expect("rows").iter().map(|row| (row.pfn, row.blocks, row.free, row.movable, row.stays)).collect()
        };
        assert_eq!(brief(list(Range::All, None)), [(16, 3, 4, 0, 0), (28, 1, 2, 1, 1), (32, 1, 0, 3, 1)]);
        assert_eq!(brief(list(Range::Hostages, None)), [(28, 1, 2, 1, 1), (32, 1, 0, 3, 1)]);
        // Parts of blocks, of a group as well.
        assert_eq!(brief(list(Range::Frames(18, 31), None)), [(18, 1, 2, 0, 0), (20, 2, 4, 0, 0), (28, 1, 2, 1, 0)]);
        assert_eq!(brief(list(Range::Frames(21, 22), None)), [(21, 1, 1, 0, 0)]);
        assert_eq!(brief(list(Range::Frames(0, 16), None)), []);
        assert_eq!(brief(list(Range::MemoryBlock(3), Some(8))), [(24, 1, 4, 0, 0), (28, 1, 2, 1, 1)]);
        // A group ends with its memory block.
        assert_eq!(brief(list(Range::All, Some(8)))[..2], [(16, 2, 4, 0, 0), (24, 1, 4, 0, 0)]);
        assert_eq!(list(Range::MemoryBlock(3), None), None);
        assert_eq!(list(Range::MemoryBlock(u64::MAX), Some(8)), Some(vec![]));

        let rows = list(Range::Hostages, Some(8)).expect("rows");
        assert_eq!((rows[0].memory_block, &rows[1].held_by), (Some(3), &vec![("kernel".to_owned(), 1)]));
        let text = describe(&rows, true, true);
        assert!(
            text.contains("offline while these frames stay: memory3, memory4.")
                && text.contains("2 free, 4 movable")
                && text.contains("slab 1")
                && text.contains("hostage"),
            "{text}"
        );
    }
}
