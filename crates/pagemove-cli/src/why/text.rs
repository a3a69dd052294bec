//! What `survey --why` prints for a person: a summary, and a table for each kind of event that there was.
//!
//! Takes a report, gives text of at most 120 columns, in UTF-8 or in ASCII.

use super::sums::{Compaction, Place, Report};
use crate::{
    layout::tables::{mib, table},
    numbers::thousands,
    terminal::shown,
};

/// Rows of a table; `--json` has all.
const ROWS: usize = 10;

/// What Linux' names of ends and reasons mean.
const MEANINGS: [(&str, &str); 9] = [
    ("success", "a free block of the order is there"),
    ("complete", "the whole zone was gone through (for order \"all\" that is success)"),
    ("partial_skipped", "part of the zone was gone through; the rest had failed lately"),
    ("no_suitable_page", "no free page as a place for those that move"),
    ("contended", "it gave way: a lock was held, a page found no place, or the task was to be rescheduled or killed"),
    ("not_suitable_zone", "compacting wouldn't help: memory is short, not fragmented"),
    ("skipped", "too few free pages for places, or the zone isn't to be compacted"),
    ("deferred", "it had failed lately, so Linux doesn't try for a while"),
    ("continue", "it stopped in the midst"),
];

/// Writes it; `frame_bytes` is the size of a page.
pub(super) fn describe(report: &Report, frame_bytes: u64, ascii: bool) -> String {
    let mut text = summary(report, frame_bytes);
    for (heading, header, names, rows) in tables(report) {
        if rows.is_empty() {
            continue;
        }
        let header: Vec<String> = header.iter().map(|&name| name.to_owned()).collect();
        let more = rows.len().saturating_sub(ROWS);
        let shown = rows.into_iter().take(ROWS).collect();
        text += &format!("\n{heading}:\n{}\n", table(&header, shown, names, ascii));
        if more > 0 {
            text += &format!("{} more rows: --json\n", thousands(more as u64));
        }
    }
    text += &meanings(report);
    if !report.isolation.busy.is_empty() {
        text += "\nWhat a busy page is: pagemove survey --explain PFN\n";
    }
    shown(text, ascii)
}

/// Says how long it watched and what compaction came to.
fn summary(report: &Report, frame_bytes: u64) -> String {
    let ended = if report.interrupted { ", then a signal came" } else { "" };
    let mut text = format!("Watched Linux for {:.1} s{ended}: {} events.\n", report.seconds, thousands(report.events));
    if report.events == 0 {
        text = format!(
            "In {:.1} s Linux neither compacted nor moved memory. To see it: `pagemove survey --try` in another terminal.\n",
            report.seconds
        );
    }
    if report.lost_events > 0 {
        let lost = thousands(report.lost_events);
        text +=
            &format!("{lost} EVENTS WERE LOST: they came faster than they could be read, so all sums are too small.\n");
    }
    if report.unreadable_lines > 0 {
        text += &format!("{} lines couldn't be read, and aren't in the sums.\n", thousands(report.unreadable_lines));
    }
    if report.beyond > 0 {
        text += &format!("{} events are in no row: there were too many rows.\n", thousands(report.beyond));
    }
    if !report.missing_events.is_empty() && report.events > 0 {
        let mut groups: Vec<&str> = report.missing_events.iter().filter_map(|name| name.split('/').next()).collect();
        groups.dedup();
        let count = report.missing_events.len();
        text += &format!("This kernel doesn't have {count} of the events ({}).\n", groups.join(", "));
    }

    let runs: u64 = report.runs.iter().map(|row| row.runs).sum();
    let done = &report.compaction;
    if runs > 0 || *done != Compaction::default() {
        text += &format!(
            "Compaction: {} runs ended, {:.3} s in all.\nOf {} pages looked at {} were isolated; {} moved, {} didn't.\n",
            thousands(runs),
            done.seconds,
            thousands(done.scanned_pages),
            thousands(done.isolated_pages),
            thousands(done.moved_pages),
            thousands(done.failed_pages),
        );
    }
    if let Some(rate) = report.pages_per_second() {
        let rate = rate as u64;
        text +=
            &format!("It moved {} pages in a second of its runs, {} MiB/s.\n", thousands(rate), mib(rate, frame_bytes));
    }
    if report.isolation.tests > 0 {
        text += &format!(
            "Ranges that were to be wholly free: {} tests, {} failed.\n",
            thousands(report.isolation.tests),
            thousands(report.isolation.failed)
        );
    }
    if report.kcompactd_wakes > 0 {
        text += &format!("kcompactd was woken {} times.\n", thousands(report.kcompactd_wakes));
    }
    text
}

/// A heading, the columns, those of them that are names, the rows.
type Rows = (&'static str, &'static [&'static str], &'static [usize], Vec<Vec<String>>);

/// Gives all tables, the empty ones as well.
fn tables(report: &Report) -> [Rows; 7] {
    let runs = report.runs.iter().map(|row| {
        let [zone, order] = place(&row.place);
        let counts = [row.runs, row.moved_pages, row.failed_pages].map(thousands);
        let names = vec![zone, order, row.mode.clone(), row.status.clone()];
        [names, counts.to_vec(), vec![format!("{:.3}", row.seconds)]].concat()
    });
    let refusals = report.refusals.iter().map(|row| {
        let [zone, order] = place(&row.place);
        vec![zone, order, row.reason.clone(), thousands(row.times)]
    });
    let migrations = report.migrations.iter().map(|row| {
        let pages = [row.calls, row.succeeded_pages, row.failed_pages];
        let large = [row.thp_succeeded, row.thp_failed, row.thp_split, row.folios_split];
        [vec![row.reason.clone(), row.mode.clone()], pages.map(thousands).to_vec(), large.map(thousands).to_vec()]
            .concat()
    });
    let busy = report.isolation.busy.iter().map(|row| {
        let range = format!("{:#x} to {:#x}", row.start_pfn, row.end_pfn.saturating_sub(1));
        vec![format!("{:#x}", row.first_busy_pfn), range, thousands(row.times)]
    });
    let cma = report.cma.iter().map(|row| {
        let counts = [row.begun, row.ended, row.failed, row.busy_retries];
        [vec![row.area.clone()], counts.map(thousands).to_vec()].concat()
    });
    let fallbacks = report.fallbacks.iter().map(|row| {
        let counts = [row.fragmenting, row.claimed_blocks, row.whole_blocks];
        [vec![row.wanted.clone(), row.from.clone()], counts.map(thousands).to_vec()].concat()
    });
    let direct =
        report.direct.iter().map(|row| vec![row.process.clone(), thousands(row.times), order(Some(row.highest_order))]);
    [
        (
            "Compaction runs, and how they ended",
            &["zone", "order", "mode", "ended", "runs", "pages moved", "not moved", "seconds"],
            &[0, 2, 3],
            runs.collect(),
        ),
        ("Compaction that wasn't begun", &["zone", "order", "reason", "times"], &[0, 2], refusals.collect()),
        (
            "Pages migrated, whatever for",
            &["for", "mode", "calls", "moved", "failed", "THPs", "THP failed", "THP split", "splits"],
            &[0, 1],
            migrations.collect(),
        ),
        (
            "Ranges that weren't wholly free, by the first page that is busy",
            &["first busy PFN", "range (the last one)", "times"],
            &[0, 1],
            busy.collect(),
        ),
        (
            "Contiguous allocations (CMA), and how often a range was busy",
            &["area", "begun", "ended", "failed", "busy, so tried elsewhere"],
            &[0],
            cma.collect(),
        ),
        (
            "Allocations that took memory of another migratetype's blocks",
            &["wanted", "taken from", "less than a block", "and claimed the block", "whole blocks"],
            &[0, 1],
            fallbacks.collect(),
        ),
        (
            "Processes that had to compact before they got memory",
            &["process", "times", "highest order"],
            &[0],
            direct.collect(),
        ),
    ]
}

/// Says what the names mean that were printed.
fn meanings(report: &Report) -> String {
    let ends = report.runs.iter().take(ROWS).map(|row| row.status.as_str());
    let reasons = report.refusals.iter().take(ROWS).map(|row| row.reason.as_str());
    let names: Vec<&str> = ends.chain(reasons).collect();
    let used = MEANINGS.iter().filter(|(name, _)| names.contains(name));
    let lines: String = used.map(|(name, meaning)| format!("  {name}: {meaning}\n")).collect();
    if lines.is_empty() { lines } else { format!("\n{lines}") }
}

fn place(place: &Place) -> [String; 2] {
    let zone = place.node.map_or_else(|| place.zone.clone(), |node| format!("{}, node {node}", place.zone));
    [zone, order(place.order)]
}

fn order(order: Option<i32>) -> String {
    match order {
        None => "?".into(),
        Some(-1) => "all".into(),
        Some(order) => order.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::why::sums::Sums;

    fn report(lines: &[String]) -> Report {
        let mut sums = Sums::default();
        for line in lines {
            sums.line(line);
        }
        sums.report(2.0, false, vec!["cma/cma_alloc_start", "cma/cma_alloc_finish"])
    }

    /// Gives a line of each event, with the longest values there can be.
    fn longest() -> Vec<String> {
        let (most, name) = (999_999_999_999_u64, "中".repeat(5));
        let zone = "node=1023 zone=Normalnormalnormalnormal order=10";
        let head = format!("{name}-4194304 [001] ..... ");
        let mut lines = vec![
            format!("{head}1.0: mm_compaction_begin: zone_start=0x1 mode=sync"),
            format!("{head}1.0: mm_compaction_finished: {zone} ret=continue"),
            format!("{head}1.0: mm_compaction_migratepages: nr_migrated={most} nr_failed={most}"),
            format!("{head}9999999999.0: mm_compaction_end: zone_start=0x1 mode=sync status=partial_skipped"),
            format!("{head}1.0: mm_compaction_suitable: {zone} ret=not_suitable_zone"),
            format!("{head}1.0: mm_compaction_isolate_migratepages: nr_scanned=999999999999 nr_taken=999999999999"),
            format!(
                "{head}1.0: mm_migrate_pages: nr_succeeded=999999999999 nr_failed=999999999999 \
                 mode=MIGRATE_SYNC_LIGHT reason=syscall_or_cpuset"
            ),
            format!("{head}1.0: test_pages_isolated: start_pfn={most} end_pfn={most} fin_pfn=0x1 ret=fail"),
            format!("{head}1.0: cma_alloc_busy_retry: name={}", "n".repeat(99)),
            format!("{head}1.0: mm_page_alloc_extfrag: alloc_migratetype=-2147483648 fallback_migratetype=1"),
            format!("{head}1.0: mm_compaction_kcompactd_wake: nid=0"),
            format!("{head}1.0: mm_compaction_try_to_compact_pages: order=9"),
            format!("{head}1.0: mm_compaction_try_to_compact_pages: order=9"),
        ];
        lines.extend((0..20).map(|at| format!("p{at}-{at} [0] 1.0: mm_compaction_try_to_compact_pages: order={at}")));
        lines.push("CPU:0 [LOST 18446744073709551615 EVENTS]".into());
        lines
    }

    #[test]
    fn everything_is_told_within_the_width_in_ascii_as_well() {
        let text = describe(&report(&longest()), 4096, true);
        for words in [
            "18,446,744,073,709,551,615 EVENTS WERE LOST",
            "doesn't have 2 of the events (cma)",
            "pages in a second of its runs",
            "Ranges that were to be wholly free: 1 tests, 1 failed",
            "kcompactd was woken 1 times",
            "partial_skipped: part of",
            "not_suitable_zone: compacting",
            "11 more rows: --json",
            "syscall_or_cpuset",
            "less than a block",
            "--explain PFN",
        ] {
            assert!(text.contains(words), "{words:?} isn't in\n{text}");
        }
        assert!(text.is_ascii(), "{text}");
        let longest_line = text.lines().map(str::len).max();
        assert!(longest_line <= Some(120), "{longest_line:?} columns:\n{text}");
        let text = describe(&report(&longest()), 4096, false);
        assert!(text.contains('│') && text.lines().all(|line| line.chars().count() <= 120), "{text}");
    }

    /// The longest sentences of the table of meanings.
    #[test]
    fn each_name_that_is_shown_is_explained() {
        let lines: Vec<String> = MEANINGS
            .iter()
            .map(|(name, _)| format!("a-1 [0] 1.0: mm_compaction_end: zone_start=0x1 mode=sync status={name}"))
            .collect();
        let text = describe(&report(&lines), 4096, true);
        for (name, meaning) in MEANINGS {
            assert!(text.contains(&format!("  {name}: {meaning}\n")), "{name} isn't explained in\n{text}");
        }
        assert!(text.lines().all(|line| line.len() <= 120), "{text}");
        assert!(!describe(&report(&lines[..1]), 4096, true).contains("deferred:"));
    }

    #[test]
    fn that_nothing_happened_is_one_line() {
        let mut nothing = report(&[]);
        let text = describe(&nothing, 4096, true);
        assert_eq!(text.lines().count(), 1);
        assert!(
            text.starts_with("In 2.0 s Linux neither compacted nor moved memory.") && text.contains("--try"),
            "{text}"
        );
        assert!(text.len() <= 120, "{text}");
        (nothing.interrupted, nothing.events) = (true, 1);
        assert!(describe(&nothing, 4096, true).starts_with("Watched Linux for 2.0 s, then a signal came: 1 events.\n"));
    }
}
