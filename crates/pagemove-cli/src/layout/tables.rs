//! The tables of a survey.
//!
//! Takes a census, gives tables ready to print, in UTF-8 or in ASCII. Promises that a class without frames takes no
//! line.

use comfy_table::{Cell, CellAlignment, Table, presets};

use super::{
    FrameClass,
    census::{Census, Counts},
};
use crate::numbers::thousands;

/// With more zones only their sum is shown; `--json` has all.
const MOST_ZONES: usize = 64;
/// Columns of counts that fit beside each other on a screen: zones, and the total.
const GROUPS: usize = 4;

/// A table in the style of all tables here: names on the left, numbers on the right.
pub(crate) fn table(header: &[String], rows: Vec<Vec<String>>, text_columns: &[usize], ascii: bool) -> Table {
    let mut table = Table::new();
    table.load_style(if ascii { presets::ASCII_BORDERS_ONLY_CONDENSED } else { presets::UTF8_BORDERS_ONLY });
    let row = |cells: &[String]| {
        let cell = |(column, text): (usize, &String)| {
            let right = !text_columns.contains(&column);
            Cell::new(text).set_alignment(if right { CellAlignment::Right } else { CellAlignment::Left })
        };
        cells.iter().enumerate().map(cell).collect::<Vec<_>>()
    };
    table.set_header(row(header));
    table.add_rows(rows.iter().map(|cells| row(cells)));
    table
}

/// Frames and MiB by class; several tables if the zones don't fit beside each other.
pub(crate) fn frame_tables(census: &Census, ascii: bool) -> Vec<Table> {
    let several_nodes = census.has_several_nodes();
    let name = |name: &str, node| {
        if several_nodes { format!("{name} {node}") } else { name.to_owned() }
    };
    let shown = if census.zones.len() > MOST_ZONES { &[][..] } else { &census.zones };
    let zones = shown.iter().map(|zone| (name(&zone.name, zone.node), &zone.counts));
    let groups: Vec<(String, &Counts)> = zones.chain([("all".to_owned(), &census.total)]).collect();
    let of_group = |groups: &[(String, &Counts)]| {
        let mut header = vec!["frames".to_owned()];
        header.extend(groups.iter().flat_map(|(name, _)| [name.clone(), "MiB".to_owned()]));
        let classes = FrameClass::ALL.into_iter().filter(|class| census.total.frames.of(*class) > 0);
        let mut rows: Vec<Vec<String>> = classes
            .map(|class| {
                let counts = groups.iter().map(|(_, counts)| counts.frames.of(class));
                [
                    vec![class.name().to_owned()],
                    counts.flat_map(|frames| [thousands(frames), mib(frames, census.frame_bytes)]).collect(),
                ]
                .concat()
            })
            .collect();
        let sums = groups.iter().map(|(_, counts)| counts.frames.sum(|_| true));
        rows.push(
            [vec!["all".to_owned()], sums.flat_map(|sum| [thousands(sum), mib(sum, census.frame_bytes)]).collect()]
                .concat(),
        );
        table(&header, rows, &[0], ascii)
    };
    groups.chunks(GROUPS).map(of_group).collect()
}

/// Pageblocks by verdict, zone by zone.
pub(crate) fn block_table(census: &Census, ascii: bool) -> Table {
    let header = ["blocks", "wholly free", "could be emptied", "hostage", "nothing to gain", "all"].map(str::to_owned);
    let row = |name: String, counts: &Counts| {
        let blocks = &counts.blocks;
        let numbers = [blocks.free, blocks.movable, blocks.hostage, blocks.full, blocks.total].map(thousands);
        [vec![name], numbers.to_vec()].concat()
    };
    let shown = if census.zones.len() > MOST_ZONES { &[][..] } else { &census.zones };
    let zones = shown.iter().map(|zone| row(format!("{}, node {}", zone.name, zone.node), &zone.counts));
    table(&header, zones.chain([row("all".to_owned(), &census.total)]).collect(), &[0], ascii)
}

/// Writes frames as MiB, with a decimal where it says something.
pub(crate) fn mib(frames: u64, frame_bytes: u64) -> String {
    bytes_as_mib(frames * frame_bytes)
}

/// Writes bytes likewise.
pub(crate) fn bytes_as_mib(bytes: u64) -> String {
    if bytes == 0 || bytes >= 100 << 20 { thousands(bytes >> 20) } else { format!("{:.1}", bytes as f64 / 1048576.0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{Layout, Run, Sizes, Zone};

    #[test]
    fn sizes_read_well() {
        assert_eq!([0, 1, 512, 25_600, 524_288].map(|frames| mib(frames, 4096)), ["0", "0.0", "2.0", "100", "2,048"]);
        assert_eq!(mib(512, 65536), "32.0");
    }

    #[test]
    fn zones_that_dont_fit_beside_each_other_get_tables_of_their_own() {
        let zone = |node: u32| Zone {
            name: "Normal".into(),
            node,
            start_pfn: u64::from(node) * 1024,
            spanned: 1024,
            present: 1024,
        };
        let runs = vec![Run { class: FrameClass::Free, frames: 6143 }, Run { class: FrameClass::Slab, frames: 1 }];
        let layout = Layout::new("test".into(), Sizes::usual(9), (0..6).map(zone).collect(), runs).expect("consistent");
        let census = Census::take(&layout, |_, _, _| {});
        let [first, second] = &frame_tables(&census, true)[..] else { panic!("seven columns make two tables") };
        assert!(first.to_string().contains("Normal 3") && !first.to_string().contains("Normal 4"));
        assert!(second.to_string().contains("Normal 5") && second.to_string().contains("6,144"), "{second}");
        assert!(!second.to_string().contains("anonymous"), "a class without frames has a line:\n{second}");
        let blocks = block_table(&census, true).to_string();
        assert!(
            blocks.lines().any(|line| {
                let words: Vec<_> = line.split_whitespace().collect();
                words.windows(6).any(|six| six == ["all", "11", "0", "1", "0", "12"])
            }),
            "{blocks}"
        );
    }
}
