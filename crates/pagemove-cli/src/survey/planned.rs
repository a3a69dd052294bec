//! What `--plan` prints: what compaction could free at most, and what that costs at least.

use std::{hint::black_box, time::Instant};

use crate::{
    layout::{
        Sizes,
        plan::Plan,
        tables::{mib, table},
    },
    numbers::{seconds, thousands},
    terminal::shown,
};

/// Bytes of each of two buffers, between which this machine's rate is measured: more than most caches hold.
const BUFFER: usize = 32 << 20;
/// Copies that are measured.
const COPIES: u32 = 4;

/// Draws the plans of all zones.
pub(super) fn describe(plans: &[Plan], sizes: Sizes, ascii: bool) -> String {
    let Sizes { frame_bytes, pageblock_order } = sizes;
    let header =
        ["blocks", "wholly free", "could be emptied", "have room", "pages to move", "MiB to move"].map(str::to_owned);
    let row = |name: String, counts: [u64; 4]| {
        let [free, movable, freed, pages] = counts;
        [vec![name], [free, movable, freed, pages].map(thousands).to_vec(), vec![mib(pages, frame_bytes)]].concat()
    };
    let counts = |plan: &Plan| [plan.free, plan.movable, plan.freed, plan.pages];
    let mut rows: Vec<_> =
        plans.iter().map(|plan| row(format!("{}, node {}", plan.zone, plan.node), counts(plan))).collect();
    let mut all = [0; 4];
    for plan in plans {
        all.iter_mut().zip(counts(plan)).for_each(|(sum, count)| *sum += count);
    }
    rows.push(row("all".to_owned(), all));
    let [free, _, freed, pages] = all;
    let mut text = format!(
        "{}\nUp to {} blocks ({} MiB) could be wholly free after compaction, as far as this capture shows; {} are now.\n",
        table(&header, rows, &[0], ascii),
        thousands(free + freed),
        mib((free + freed) << pageblock_order, frame_bytes),
        thousands(free),
    );
    if pages > 0
        && let Some(rate) = copy_rate()
    {
        let least = (pages * frame_bytes) as f64 / rate;
        text += &format!(
            "To copy these pages takes at least {} here ({:.1} GB/s, measured just now); Linux unmaps and maps them as well,\nwhich takes \
             several times as long.\n",
            seconds(least),
            rate / 1e9,
        );
    }
    text += "Found without moving anything. Pinned pages stay, and Linux may stop much earlier: survey --try compacts, and tells.\n\
             Free frames on per-CPU lists look like the kernel's: with --settle they count as room.\n";
    shown(text, ascii)
}

/// Measures how many bytes are copied in a second, in memory of its own; `None` if there isn't that much.
fn copy_rate() -> Option<f64> {
    let buffer = |byte: u8| {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(BUFFER).ok()?;
        bytes.resize(BUFFER, byte);
        Some(bytes)
    };
    let (from, mut to) = (buffer(1)?, buffer(0)?);
    let start = Instant::now();
    for _ in 0..COPIES {
        to.copy_from_slice(black_box(&from));
        black_box(&to);
    }
    Some(BUFFER as f64 * f64::from(COPIES) / start.elapsed().as_secs_f64().max(1e-9))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_told_by_zone_and_for_all() {
        let plan =
            |zone: &str, freed| Plan { node: 0, zone: zone.into(), free: 3, movable: 5, freed, pages: 100 * freed };
        let text = describe(&[plan("DMA32", 2), plan("Normal", 1)], Sizes::usual(9), true);
        for words in ["DMA32, node 0", "Up to 9 blocks (18.0 MiB)", "6 are now", "GB/s"] {
            assert!(text.contains(words), "{words:?} isn't in\n{text}");
        }
        let all = text.lines().find(|line| line.contains("| all")).expect("a sum");
        assert_eq!(all.split_whitespace().collect::<Vec<_>>(), ["|", "all", "6", "10", "3", "300", "1.2", "|"]);
        assert!(text.is_ascii() && text.lines().all(|line| line.len() <= 120), "{text}");
        assert!(!describe(&[plan("Normal", 0)], Sizes::usual(9), true).contains("GB/s"));
    }
}
