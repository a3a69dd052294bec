//! The comparison with Linux: the same program, in the same machine, on this kernel and on stock ones.
//!
//! Takes how often each is booted; gives a table of medians: of the rounds within a boot, then of the boots. Judges nothing.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use comfy_table::{CellAlignment, Table, presets};

use super::{build::Built, guest, machine::Machine};
use crate::linux::{self, Asked, Wanted};

const MEMORY_MIB: u32 = 1024;
const ROUNDS: usize = 9;

/// The rows: the name that the program tells, what a person reads, and by what nanoseconds are divided.
const ROWS: &[(&str, &str, f64)] = &[
    ("copy", "copying 4 KiB by a loop of words, µs", 1e3),
    ("move-1", "moving a page, 1 a call, µs", 1e3),
    ("move-32", "  32 a call", 1e3),
    ("move-512", "  512 a call", 1e3),
    ("move-1-by-4", "mapped by four processes, 1 a call, µs", 1e3),
    ("move-32-by-4", "  32 a call", 1e3),
    ("move-512-by-4", "  512 a call", 1e3),
    ("fault", "first touch of a page, µs", 1e3),
    ("fork", "fork of 64 MiB, ms", 1e6),
    ("munmap", "munmap of 64 MiB, ms", 1e6),
    ("huge", "2 MiB by compaction at 90 % use, ms", 1e6),
    ("huge-failed", "  none found, %", 1.0),
];

/// All times of a kernel: for each row the median of each boot.
type Times = BTreeMap<String, Vec<u64>>;

/// Boots all, and prints the table.
pub(super) fn run(root: &Path, built: &Built, boots: usize, kernels: &[Wanted]) -> Result<()> {
    let mut ours = Times::new();
    let machine = Machine {
        cpus: 2,
        memory: MEMORY_MIB,
        seed: 1,
        model: Machine::FULL.into(),
        is_preallocated: true,
        limit: Machine::LIMIT,
    };
    for boot in 1..=boots {
        eprintln!("compare: booting this kernel ({boot} of {boots})");
        let mut of_boot = Times::new();
        let heard = guest::run(built, &machine, &["compare".into()], ROUNDS as u64, |line| {
            let mut words = line.split(' ');
            if let (Some("row"), Some(row), Some(ns)) = (words.next(), words.next(), words.next())
                && let Ok(ns) = ns.parse()
            {
                of_boot.entry(row.into()).or_default().push(ns);
            }
        })?;
        guest::outcome(&heard, &machine)?;
        add(&mut ours, of_boot);
    }
    let mut theirs: Vec<(String, Times)> = Vec::new();
    let asked = Asked { kernels, boots, rounds: ROUNDS, memory_mib: MEMORY_MIB };
    // A boot has as many of each row as rounds; their medians are taken below.
    let mut all: Vec<(String, Times)> = Vec::new();
    linux::compare(root, &asked, |kernel, row, ns| {
        if all.last().is_none_or(|(last, _)| last != kernel) {
            all.push((kernel.to_owned(), Times::new()));
        }
        if let Some((_, times)) = all.last_mut() {
            times.entry(row.into()).or_default().push(ns);
        }
    })?;
    for (kernel, times) in all {
        let mut medians = Times::new();
        for boot in 0..boots {
            let of_boot =
                times.iter().map(|(row, all)| (row.clone(), all.chunks(ROUNDS).nth(boot).unwrap_or(&[]).to_vec()));
            add(&mut medians, of_boot.collect());
        }
        theirs.push((kernel, medians));
    }
    print!("{}", screen(boots, &ours, &theirs)?);
    Ok(())
}

/// Adds a boot's medians; of percents the mean.
fn add(times: &mut Times, of_boot: Times) {
    for (row, mut all) in of_boot {
        let mean = all.iter().sum::<u64>() / all.len().max(1) as u64;
        if let Some(median) = median(&mut all) {
            times.entry(row.clone()).or_default().push(if row == "huge-failed" { mean } else { median });
        }
    }
}

fn median(all: &mut [u64]) -> Option<u64> {
    all.sort_unstable();
    all.get(all.len() / 2).copied()
}

/// What a person sees: the times, and for Linux how many times ours they are; beside the copy, too.
fn screen(boots: usize, ours: &Times, theirs: &[(String, Times)]) -> Result<String> {
    let of = |times: &Times, row: &str| median(&mut times.get(row).cloned().unwrap_or_default()).map(|ns| ns as f64);
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    let mut header = vec![String::new(), "this kernel".into()];
    header.extend(theirs.iter().map(|(kernel, _)| format!("Linux {kernel}")));
    table.set_header(header);
    for &(row, words, unit) in ROWS {
        let own = of(ours, row).with_context(|| format!("this kernel has told nothing of {row}"))?;
        let mut cells = vec![words.to_owned(), format!("{:.2}", own / unit)];
        for (kernel, times) in theirs {
            let other = of(times, row).with_context(|| format!("Linux {kernel} has told nothing of {row}"))?;
            let ratio = if own > 0.0 { format!("  (× {:.1})", other / own) } else { String::new() };
            cells.push(format!("{:.2}{ratio}", other / unit));
        }
        table.add_row(cells);
    }
    for column in 1..=theirs.len() + 1 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut text = format!(
        "\nThe same program in the same machine (QEMU without KVM, 2 processors, {MEMORY_MIB} MiB, allocated before); medians of {boots} boots of {ROUNDS} \
         rounds.\n(× n): Linux takes n times as long. Moves are through a system call of ring 3, with a status for each page.\n{table}\n"
    );
    if let Some(ns) = of(ours, "move-2m") {
        text += &format!("Folios of 2 MiB move on this kernel in {:.2} µs for each 4 KiB.\n", ns / 1e3);
    }
    let rate = |times: &Times| of(times, "move-512").map(|ns| 1e9 / ns);
    if let (Some(own), Some((kernel, times))) = (rate(ours), theirs.first())
        && let Some(other) = rate(times)
    {
        text += &format!(
            "Pages moved in a second, 512 a call: {own:.0}; Linux {kernel}: {other:.0} (1 : {:.1})\n",
            own / other
        );
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_medians_and_ratios() {
        let times = |factor: u64| -> Times {
            ROWS.iter().map(|&(row, ..)| (row.to_owned(), vec![3000 * factor, 1000 * factor, 2000 * factor])).collect()
        };
        let text = screen(3, &times(1), &[("6.12".into(), times(5))]).expect("all rows are there");
        assert!(text.contains("2.00") && text.contains("10.00  (× 5.0)"), "{text}");
        assert!(text.contains("500000; Linux 6.12: 100000 (1 : 5.0)"), "{text}");
        assert!(screen(3, &times(1), &[("6.12".into(), Times::new())]).is_err());
    }
}
