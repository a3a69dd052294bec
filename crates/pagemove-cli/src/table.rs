//! The table that `pagemove run` prints: a column for each policy, a row for each question, 100 columns wide at most.
//!
//! Takes results and a writer. Names from outside are printed without control characters, so that a layout file can't
//! steer the terminal. No colours: the writer may be a file.

use std::io::{self, Write};

use comfy_table::{Cell, CellAlignment, ContentArrangement, LineStyle, Table, presets};

use crate::numbers::{DASH, block_size, change, counted, micros, percent, seconds, significant, thousands};
use crate::report::rows::{self, Row};
use crate::results::{PolicyResult, Results};
use crate::terminal::plain;

/// Width that the table keeps to, whatever the terminal's.
const COLUMNS: u16 = 100;
/// Holders and reasons that have a row of their own.
const TOP: usize = 5;

/// Prints the results as a table, and below it how fast pages moved.
pub(crate) fn print(results: &Results, out: &mut impl Write) -> io::Result<()> {
    if results.policies.is_empty() {
        writeln!(out, "No policy was run.")?;
    } else {
        writeln!(out, "{}", table(results).trim_fmt())?;
    }

    let rate = results.throughput;
    if rate.memcpy_gb_per_s > 0.0 {
        writeln!(
            out,
            "Moving mapped pages: {} GB/s, {} of memcpy's {} GB/s.",
            significant(rate.moved_gb_per_s),
            percent(rate.moved_gb_per_s, rate.memcpy_gb_per_s),
            significant(rate.memcpy_gb_per_s)
        )?;
    } else {
        writeln!(out, "The rate of moving was not measured.")?;
    }

    let lost = results.policies.iter().map(|policy| policy.lost_writes).sum();
    let stale = results.policies.iter().map(|policy| policy.stale_reads).sum();
    if lost > 0 || stale > 0 {
        let (lost, stale) = (counted(lost, "lost write"), counted(stale, "stale read"));
        writeln!(out, "MEMORY WAS CORRUPTED: {lost}, {stale}. The other numbers prove nothing.")?;
    }
    Ok(())
}

fn table(results: &Results) -> Table {
    let mut sheet = Sheet { results, table: Table::new() };
    sheet
        .table
        .load_style(presets::UTF8_HORIZONTAL_ONLY.row_separator(LineStyle::none()))
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(COLUMNS);
    sheet.table.set_header(cells("policy", results.policies.iter().map(|policy| plain(&policy.policy))));

    let size = block_size(results.layout.pageblock_order);
    sheet.row(&format!("{size} blocks free, before → after"), |policy| {
        format!("{} → {}", thousands(policy.free_blocks_before), thousands(policy.free_blocks_after))
    });
    sheet.row("  gained", |policy| change(policy.free_blocks_before, policy.free_blocks_after));
    sheet.gap();
    sheet.row("blocks held hostage after", |policy| thousands(policy.hostage_blocks_after));
    sheet.parts(&rows::holders(results, TOP));
    sheet.gap();
    sheet.row("pages moved", |policy| thousands(policy.moved));
    sheet.row("pages not moved", |policy| thousands(policy.not_moved.values().sum()));
    sheet.parts(&rows::reasons(results, TOP));
    sheet.gap();
    sheet.row("a thread was blocked, median", |policy| blocked(policy, policy.blocked_us.p50));
    sheet.row("  99 %", |policy| blocked(policy, policy.blocked_us.p99));
    sheet.row("  longest", |policy| blocked(policy, policy.blocked_us.max));
    sheet.gap();
    sheet.row("words checked", |policy| thousands(policy.words_checked));
    sheet.row("  lost writes", |policy| thousands(policy.lost_writes));
    sheet.row("  stale reads", |policy| thousands(policy.stale_reads));
    sheet.gap();
    sheet.row("time of compaction", |policy| seconds(policy.seconds));
    sheet.table
}

/// The table as it grows, with the results that its rows ask.
struct Sheet<'a> {
    results: &'a Results,
    table: Table,
}

impl Sheet<'_> {
    /// Adds a row with one value of each policy.
    fn row(&mut self, name: &str, value: impl Fn(&PolicyResult) -> String) {
        self.table.add_row(cells(name, self.results.policies.iter().map(value)));
    }

    /// Adds the parts of the row above, by name.
    fn parts(&mut self, parts: &[Row]) {
        for part in parts {
            let counts = part.counts.iter().map(|&count| if count == 0 { DASH.into() } else { thousands(count) });
            self.table.add_row(cells(&format!("  {}", plain(&part.name)), counts));
        }
    }

    /// Parts one question from the next.
    fn gap(&mut self) {
        self.table.add_row([""]);
    }
}

/// Gives a row's cells: its name, and numbers that stand below each other.
fn cells(name: &str, values: impl Iterator<Item = String>) -> Vec<Cell> {
    let values = values.map(|value| Cell::new(value).set_alignment(CellAlignment::Right));
    std::iter::once(Cell::new(name)).chain(values).collect()
}

fn blocked(policy: &PolicyResult, time: f64) -> String {
    if policy.blocked_us.max > 0.0 { micros(time) } else { DASH.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture;

    fn printed(results: &Results) -> String {
        let mut out = Vec::new();
        print(results, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    /// Gives the words of the row that starts with these, after them.
    fn row<'a>(text: &'a str, start: &str) -> Vec<&'a str> {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(start));
        line.unwrap_or_else(|| panic!("no row {start} in\n{text}")).split_whitespace().collect()
    }

    #[test]
    fn a_row_has_each_policys_value() {
        let mut results = fixture::results(2048);
        for (at, policy) in (1..).zip(&mut results.policies) {
            policy.moved = 1_234_567 * at;
            policy.lost_writes = at - 1;
        }
        let text = printed(&results);
        assert_eq!(row(&text, "policy"), ["unmovable", "unmapped", "any"]);
        assert_eq!(row(&text, "pages moved"), ["1,234,567", "2,469,134", "3,703,701"]);
        assert_eq!(row(&text, "lost writes"), ["0", "1", "2"]);
        let free = row(&text, "2 MiB blocks free, before → after");
        assert_eq!(free[2], thousands(results.policies[0].free_blocks_after));
        assert_eq!(row(&text, "zsmalloc")[1..], [DASH, DASH]);
        assert!(text.contains("4.38 GB/s, 72 % of memcpy's 6.12 GB/s."));
        assert!(
            text.ends_with("MEMORY WAS CORRUPTED: 3 lost writes, 0 stale reads. The other numbers prove nothing.\n")
        );
    }

    #[test]
    fn names_neither_widen_the_table_nor_steer_the_terminal() {
        let mut results = fixture::results(64);
        results.policies[0].policy = "<&>\u{1b}[31m".into();
        results.policies[0].hostages = vec![("\u{1b}]0;".to_string() + &"driver ".repeat(40), 3)];
        results.policies[1].not_moved = [("unbroken".repeat(40), u64::MAX)].into();
        results.policies[2].words_checked = u64::MAX;
        let text = printed(&results);
        assert!(!text.contains('\u{1b}') && text.contains("<&>"));
        for line in text.lines() {
            assert_eq!(line, line.trim_end());
            assert!(line.chars().count() <= usize::from(COLUMNS), "{line}");
        }
    }

    #[test]
    fn empty_runs_print() {
        let mut results = fixture::results(0);
        let text = printed(&results);
        assert_eq!(row(&text, "a thread was blocked, median"), [DASH; 3]);
        assert!(!text.contains("CORRUPTED"));
        results.policies.clear();
        results.throughput = Default::default();
        assert_eq!(printed(&results), "No policy was run.\nThe rate of moving was not measured.\n");
    }

    #[test]
    fn a_writer_that_fails_is_reported() {
        assert!(print(&fixture::results(1), &mut &mut [0_u8; 10][..]).is_err());
    }
}
