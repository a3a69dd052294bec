//! What `--plan` prints: what compaction could free at most, and what that costs at least.

use std::{hint::black_box, time::Instant};

use crate::{
    layout::{
        Sizes,
        plan::Plan,
        tables::{mib, table},
    },
    numbers::{seconds, thousands},
};

/// Bytes that are copied to measure this machine's rate: more than its caches hold.
const MEASURED: usize = 128 << 20;

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
        "{}\nAt most {} blocks ({} MiB) could be wholly free after compaction; {} are now.\n",
        table(&header, rows, &[0], ascii),
        thousands(free + freed),
        mib((free + freed) << pageblock_order, frame_bytes),
        thousands(free),
    );
    if pages > 0 {
        let rate = copy_rate();
        let least = (pages * frame_bytes) as f64 / rate;
        text += &format!(
            "To copy these pages takes at least {} here ({:.1} GB/s, measured just now); Linux unmaps and maps them as well,\nwhich takes \
             several times as long.\n",
            seconds(least),
            rate / 1e9,
        );
    }
    text += "A bound, found without moving anything: pinned pages stay, and Linux may stop earlier. survey --try compacts, and tells.\n";
    if ascii { crate::terminal::to_ascii(&text) } else { text }
}

/// Measures how many bytes are copied in a second, in memory of its own.
fn copy_rate() -> f64 {
    let from = vec![1_u8; MEASURED];
    let mut to = vec![0_u8; MEASURED];
    // Once before: its first writes are page faults.
    to.copy_from_slice(&from);
    let start = Instant::now();
    to.copy_from_slice(black_box(&from));
    black_box(&to);
    MEASURED as f64 / start.elapsed().as_secs_f64().max(1e-9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_told_by_zone_and_for_all() {
        let plan =
            |zone: &str, freed| Plan { node: 0, zone: zone.into(), free: 3, movable: 5, freed, pages: 100 * freed };
        let text = describe(&[plan("DMA32", 2), plan("Normal", 1)], Sizes::usual(9), true);
        for words in ["DMA32, node 0", "At most 9 blocks (18.0 MiB)", "6 are now", "GB/s"] {
            assert!(text.contains(words), "{words:?} isn't in\n{text}");
        }
        let all = text.lines().find(|line| line.contains("| all")).expect("a sum");
        assert_eq!(all.split_whitespace().collect::<Vec<_>>(), ["|", "all", "6", "10", "3", "300", "1.2", "|"]);
        assert!(text.is_ascii() && text.lines().all(|line| line.len() <= 120), "{text}");
        assert!(!describe(&[plan("Normal", 0)], Sizes::usual(9), true).contains("GB/s"));
    }
}
