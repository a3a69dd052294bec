//! Free blocks by migratetype and order, and pageblocks by migratetype (`/proc/pagetypeinfo`, which root may read): where a small order fails
//! though much is free, the blocks are of another type.
//!
//! Takes the file's text; lines of another form are passed over.

use std::{collections::BTreeMap, fs};

use serde::{Deserialize, Serialize};

use crate::{
    layout::tables::table,
    numbers::thousands,
    terminal::{plain, shown},
};

/// Where Linux stops counting: it prints `>100000`.
const MOST: u64 = 100_000;

/// A migratetype of a zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct OfType {
    pub(crate) node: u32,
    pub(crate) zone: String,
    pub(crate) migratetype: String,
    /// Free blocks by order, from 0 on; 100,000 stands for more as well.
    pub(crate) blocks: Vec<u64>,
    /// Pageblocks of this type.
    pub(crate) pageblocks: u64,
}

/// Reads those of this machine; none if this user may not.
pub(crate) fn read() -> Vec<OfType> {
    parse(&fs::read_to_string("/proc/pagetypeinfo").unwrap_or_default())
}

fn parse(text: &str) -> Vec<OfType> {
    let zone = |line: &str| -> Option<(u32, String, String)> {
        let (node, rest) = line.strip_prefix("Node ")?.split_once(", zone")?;
        let (zone, rest) = rest.trim_start().split_once([' ', ','])?;
        Some((node.trim().parse().ok()?, plain(zone), rest.to_owned()))
    };
    let mut found = Vec::new();
    let mut pageblocks = BTreeMap::<(u32, String, String), u64>::new();
    let mut names: Vec<String> = Vec::new();
    for line in text.lines() {
        if let Some(header) = line.strip_prefix("Number of blocks type") {
            names = header.split_whitespace().map(plain).collect();
        } else if let Some((node, zone, rest)) = zone(line) {
            let mut words = rest.split_whitespace();
            if rest.trim_start().starts_with("type ") {
                let Some(migratetype) = words.nth(1).map(plain) else { continue };
                let count = |word: &str| word.strip_prefix('>').unwrap_or(word).parse().ok();
                if let Some(blocks) = words.map(count).collect() {
                    found.push(OfType { node, zone, migratetype, blocks, pageblocks: 0 });
                }
            } else {
                for (name, count) in names.iter().zip(words) {
                    if let Ok(count) = count.parse() {
                        pageblocks.insert((node, zone.clone(), name.clone()), count);
                    }
                }
            }
        }
    }
    for of_type in &mut found {
        let key = (of_type.node, of_type.zone.clone(), of_type.migratetype.clone());
        of_type.pageblocks = pageblocks.get(&key).copied().unwrap_or(0);
    }
    found.retain(|of_type| of_type.pageblocks > 0 || of_type.blocks.iter().any(|&count| count > 0));
    found
}

/// Draws them; nothing if there are none.
pub(crate) fn describe(types: &[OfType], ascii: bool) -> String {
    let orders = types.iter().map(|of_type| of_type.blocks.len()).max().unwrap_or(0);
    if orders == 0 {
        return String::new();
    }
    let mut header = vec!["free, by type and order".to_owned()];
    header.extend((0..orders).map(|order| order.to_string()));
    header.push("pageblocks".to_owned());
    let row = |of_type: &OfType| {
        let name = format!("{} {}, {}", of_type.zone, of_type.node, of_type.migratetype);
        let mut cells = vec![shown(name, ascii)];
        cells.extend((0..orders).map(|order| match of_type.blocks.get(order).copied().unwrap_or(0) {
            MOST.. => format!(">{}", thousands(MOST)),
            count => thousands(count),
        }));
        cells.push(thousands(of_type.pageblocks));
        cells
    };
    format!("{}\n", table(&header, types.iter().map(row).collect(), &[0], ascii))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_read_with_their_pageblocks() {
        let text = "Page block order: 9\n\nFree pages count per migrate type at order  0  1\n\
                    Node    0, zone      DMA, type    Unmovable 0 0 \nNode    0, zone   Normal, type    Unmovable 716 1532 \n\
                    Node    0, zone   Normal, type      Movable >100000 54124 \nNode 0, zone Normal, type Isolate x 1\n\n\
                    Number of blocks type     Unmovable      Movable \nNode 0, zone      DMA            1            7 \n\
                    Node 0, zone   Normal          160        10184 \n";
        let found = parse(text);
        let told: Vec<_> = found
            .iter()
            .map(|of| (of.zone.as_str(), of.migratetype.as_str(), of.blocks.clone(), of.pageblocks))
            .collect();
        assert_eq!(
            told,
            [
                ("DMA", "Unmovable", vec![0, 0], 1),
                ("Normal", "Unmovable", vec![716, 1532], 160),
                ("Normal", "Movable", vec![100_000, 54_124], 10_184),
            ]
        );
        let text = describe(&found, true);
        assert!(text.contains("Normal 0, Movable") && text.contains(">100,000") && text.is_ascii(), "{text}");
        assert!(text.lines().all(|line| line.len() <= 120), "{text}");
        assert_eq!(describe(&parse("nonsense\nNode 0, zone\nNode 0, zone N, type\nNode 0, zone N, type X"), true), "");
    }
}
