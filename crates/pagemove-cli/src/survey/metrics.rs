//! A survey as metrics, for a fleet: OpenMetrics 1.0, and what node_exporter's textfile collector reads.
//!
//! Counters of the kernel are named `pagemove_vmstat_…`: `node_vmstat_…` is node_exporter's, which by default leaves these out.

use prometheus_client::{
    encoding::text::encode,
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};

use super::view::View;
use crate::terminal::plain;

/// Owners that have a metric of their own, so that their number is bounded; the others are one.
const OWNERS: usize = 20;

type Labels = Vec<(&'static str, String)>;

/// Gives the metrics in the OpenMetrics format.
pub(super) fn openmetrics(view: &View<'_>) -> String {
    let mut text = String::new();
    // A `String` takes all.
    let _ = encode(&mut text, &registry(view));
    text
}

/// Gives them for the textfile collector, whose format has no end mark.
pub(super) fn textfile(view: &View<'_>) -> String {
    openmetrics(view).trim_end_matches("# EOF\n").to_owned()
}

fn registry(view: &View<'_>) -> Registry {
    let mut registry = Registry::with_prefix("pagemove");
    let mut family = |name: &str, help: &str| {
        let family = Family::<Labels, Gauge>::default();
        registry.register(name, help, family.clone());
        family
    };
    let set = |family: &Family<Labels, Gauge>, labels: Labels, value: u64| {
        family.get_or_create(&labels).set(i64::try_from(value).unwrap_or(i64::MAX));
    };
    let blocks = family("blocks", "Pageblocks by what stock Linux can make of them");
    let frames = family("frames", "Frames by class");
    for zone in &view.census.zones {
        let labels = |key, value: &str| {
            vec![("node", zone.node.to_string()), ("zone", plain(&zone.name)), (key, value.to_owned())]
        };
        let counts = &zone.counts.blocks;
        let states =
            [("free", counts.free), ("movable", counts.movable), ("hostage", counts.hostage), ("full", counts.full)];
        states.into_iter().for_each(|(state, count)| set(&blocks, labels("state", state), count));
        for class in crate::layout::FrameClass::ALL {
            set(&frames, labels("class", class.code()), zone.counts.frames.of(class));
        }
    }
    let held = family("hostage_blocks", "Hostage blocks by who holds them; a block that several hold counts for each");
    let alone = family("hostage_blocks_alone", "Hostage blocks that one owner alone holds");
    let (shown, rest) = view.holdings.split_at(view.holdings.len().min(OWNERS));
    // Two owners may have one name, as a layout file says it.
    let add = |family: &Family<Labels, Gauge>, name: &str, value: u64| {
        family.get_or_create(&vec![("owner", plain(name))]).inc_by(i64::try_from(value).unwrap_or(i64::MAX));
    };
    for holding in shown {
        add(&held, &holding.owner, holding.blocks);
        add(&alone, &holding.owner, holding.alone);
    }
    if !rest.is_empty() {
        add(&alone, "others", rest.iter().map(|holding| holding.alone).sum());
    }
    if !view.free_blocks.is_empty() {
        let free =
            family("free_blocks", "Blocks on the kernel's free lists, each of 2 to the power of its order frames");
        for zone in &view.free_blocks {
            for (order, &blocks) in zone.blocks.iter().enumerate() {
                let labels =
                    vec![("node", zone.node.to_string()), ("zone", zone.zone.clone()), ("order", order.to_string())];
                set(&free, labels, blocks);
            }
        }
    }
    let sizes = view.layout.sizes();
    let of_all = |family: Family<Labels, Gauge>, value| set(&family, Vec::new(), value);
    of_all(family("block_bytes", "Bytes in a pageblock"), view.layout.block_bytes());
    of_all(family("frame_bytes", "Bytes in a frame"), sizes.frame_bytes);
    if let Some(pins) = view.pins {
        of_all(family("pinned_pages", "Pages that are pinned, at most"), pins);
    }
    for sum in &view.sums {
        set(&family(&format!("kernel_{}_bytes", sum.field.to_lowercase()), sum.what), Vec::new(), sum.bytes);
    }
    for (name, value) in &view.counters {
        of_all(family(&format!("vmstat_{name}"), "A counter of /proc/vmstat"), *value);
    }
    registry
}

#[cfg(test)]
mod tests {
    use openmetrics_parser::openmetrics::parse_openmetrics;

    use super::*;
    use crate::{layout::Layout, owners::names::Names};

    #[test]
    fn a_parser_reads_what_the_census_counts() {
        let sample = Layout::sample();
        let names = Names::default();
        let mut view = View::of(&sample, &names);
        view.pins = Some(7);
        view.counters = vec![("compact_fail", 12)];
        view.holdings[0].owner = "a \"name\"\\ with\nlines\u{202e}".into();
        let text = openmetrics(&view);
        let parsed = parse_openmetrics(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        for name in ["blocks", "frames", "hostage_blocks", "pinned_pages", "vmstat_compact_fail", "block_bytes"] {
            assert!(parsed.families.contains_key(&format!("pagemove_{name}")), "{name} isn't in\n{text}");
        }
        let blocks = &view.census.total.blocks;
        let free: u64 = sum(&text, "pagemove_blocks{", "state=\"free\"");
        let hostage: u64 = sum(&text, "pagemove_blocks{", "state=\"hostage\"");
        assert_eq!((free, hostage), (blocks.free, blocks.hostage));
        assert!(!text.contains('\u{202e}') && text.ends_with("# EOF\n") && !textfile(&view).contains("EOF"));
    }

    #[test]
    fn owners_are_bounded() {
        let sample = Layout::sample();
        let names = Names::default();
        let mut view = View::of(&sample, &names);
        let one = view.holdings[0].clone();
        view.holdings =
            (0..1000).map(|number| crate::owners::Holding { owner: format!("{number}"), ..one.clone() }).collect();
        let text = openmetrics(&view);
        let rows = text.lines().filter(|line| line.starts_with("pagemove_hostage_blocks_alone{")).count();
        assert_eq!(rows, OWNERS + 1);
        assert_eq!(sum(&text, "pagemove_hostage_blocks_alone{", "owner"), 1000 * one.alone);
    }

    fn sum(text: &str, metric: &str, label: &str) -> u64 {
        let rows = text.lines().filter(|line| line.starts_with(metric) && line.contains(label));
        rows.map(|line| line.rsplit(' ').next().and_then(|value| value.parse::<u64>().ok()).expect("a value")).sum()
    }
}
