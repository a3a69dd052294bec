//! Free blocks by order, which anybody may read (`/proc/buddyinfo`), and what they say of fragmentation.

use std::{fs, path::Path};

use serde::{Deserialize, Serialize};

use crate::{
    layout::tables::{mib, table},
    numbers::thousands,
    terminal::plain,
};

/// What two of the columns say.
pub(crate) const LEGEND: &str = "Unusable: free memory in blocks that are smaller than a pageblock. Index: why there is none: from 0, memory is \
                                 short, to\n1000, memory is fragmented; -1000: there is one.";

/// The free blocks of a zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct FreeBlocks {
    pub(crate) node: u32,
    pub(crate) zone: String,
    /// By order, from 0 on.
    pub(crate) blocks: Vec<u64>,
    pub(crate) free_frames: u64,
    /// Of 1000 free frames, how many are in blocks too small for a pageblock (Linux: `unusable_index`).
    pub(crate) unusable_per_mille: u64,
    /// Why a pageblock can't be had: from 0, for lack of memory, to 1000, for fragmentation; -1000: there is one (Linux: `extfrag_index`).
    pub(crate) fragmentation_index: i64,
}

/// Reads those of this machine; `order` is that of a pageblock. None if the kernel doesn't say.
pub(crate) fn read(order: u8) -> Vec<FreeBlocks> {
    parse(&fs::read_to_string(Path::new("/proc/buddyinfo")).unwrap_or_default(), order)
}

/// Reads lines such as `Node 0, zone   Normal    8    4    0`; passes over others.
pub(crate) fn parse(text: &str, order: u8) -> Vec<FreeBlocks> {
    let zone = |line: &str| {
        let (node, rest) = line.strip_prefix("Node ")?.split_once(", zone")?;
        let mut words = rest.split_whitespace();
        let (node, name) = (node.trim().parse().ok()?, words.next()?.to_owned());
        let counts = words.map(|word| word.parse().ok()).collect::<Option<Vec<u64>>>()?;
        Some(FreeBlocks::of(node, name, counts, order))
    };
    text.lines().filter_map(zone).collect()
}

impl FreeBlocks {
    /// Counts the blocks of at least this order, in blocks of this order.
    pub(crate) fn of_order(&self, order: u8) -> u64 {
        let large = self.blocks.iter().enumerate().skip(order.into());
        let counts = large.map(|(at, &count)| count.saturating_mul(1 << (at - usize::from(order)).min(32)));
        counts.fold(0, u64::saturating_add)
    }

    fn of(node: u32, zone: String, blocks: Vec<u64>, order: u8) -> Self {
        let frames = |from: usize| {
            let frames =
                blocks.iter().enumerate().skip(from).map(|(order, &count)| count.saturating_mul(1 << order.min(32)));
            frames.fold(0, u64::saturating_add)
        };
        let (free_frames, suitable) = (frames(0), frames(order.into()));
        let total = blocks.iter().fold(0, |sum: u64, &count| sum.saturating_add(count));
        let fragmentation_index = match total {
            0 => 0,
            _ if suitable > 0 => -1000,
            // As Linux computes it.
            total => 1000 - ((1000 + u128::from(free_frames) * 1000 / (1 << order)) / u128::from(total)) as i64,
        };
        let small = u128::from(free_frames - suitable) * 1000;
        let unusable_per_mille = small.checked_div(free_frames.into()).unwrap_or(0) as u64;
        Self { node, zone: plain(&zone), blocks, free_frames, unusable_per_mille, fragmentation_index }
    }
}

/// Draws them; nothing if there are none.
pub(crate) fn describe(zones: &[FreeBlocks], frame_bytes: u64, ascii: bool) -> String {
    let orders = zones.iter().map(|zone| zone.blocks.len()).max().unwrap_or(0);
    if orders == 0 {
        return String::new();
    }
    let mut header = vec!["free blocks of order".to_owned()];
    header.extend((0..orders).map(|order| order.to_string()));
    header.extend(["MiB", "unusable", "index"].map(str::to_owned));
    let row = |zone: &FreeBlocks| {
        let mut cells = vec![format!("{}, node {}", zone.zone, zone.node)];
        cells.extend((0..orders).map(|order| thousands(zone.blocks.get(order).copied().unwrap_or(0))));
        let unusable = format!("{:.1} %", zone.unusable_per_mille as f64 / 10.0);
        cells.extend([mib(zone.free_frames, frame_bytes), unusable, zone.fragmentation_index.to_string()]);
        cells
    };
    let drawn = table(&header, zones.iter().map(row).collect(), &[0], ascii);
    format!("{drawn}\n{LEGEND}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn indices_are_linuxs() {
        let found = parse(
            "Node 0, zone   Normal  8  4  0  0  0\nNode 1, zone  DMA32  0  0  0  1  2\nNode 1, zone  Movable  0 0 0 0 0\nnonsense\n",
            3,
        );
        let told: Vec<_> =
            found.iter().map(|zone| (zone.free_frames, zone.unusable_per_mille, zone.fragmentation_index)).collect();
        // 1000 - (1000 + 16 * 1000 / 8) / 12
        assert_eq!(told, [(16, 1000, 750), (40, 0, -1000), (0, 0, 0)]);
        assert_eq!(found.iter().map(|zone| zone.of_order(3)).collect::<Vec<_>>(), [0, 5, 0]);
        let text = describe(&found, 4096, true);
        assert!(text.contains("Normal, node 0") && text.contains("100.0 %") && text.is_ascii(), "{text}");
        assert_eq!(describe(&[], 4096, true), "");
        let most = u64::MAX;
        assert_eq!(parse(&format!("Node 0, zone N {most} {most} {most}"), 2)[0].free_frames, most);
        assert_eq!(parse("Node x, zone N 1\nNode 0, zone\nNode 0, zone N 1 -1", 2), []);
    }
}
