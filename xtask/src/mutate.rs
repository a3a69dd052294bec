//! Breaks the core one line at a time, and shows which check notices.
//!
//! Takes the core's source and `checks/mutants.toml`; gives a table with a row for each broken line. Promises to leave the
//! workspace as it is (a copy is broken), and to fail if a broken line is noticed by nothing and the file doesn't say why
//! that is so. Orderings are found by reading the source: each but `Relaxed` becomes `Relaxed`, one at a time, chosen when the models
//! run, so that they are built once. Other lines (a flush, a lock, a count, a bit, an undo step) are listed in the file.

mod mutants;
mod tree;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;
use comfy_table::{Table, presets};
use indicatif::{ProgressBar, ProgressStyle};

use mutants::{Mutant, Mutants};
use tree::{Tree, Verdict};

/// What to break.
#[derive(Args)]
pub(crate) struct Mutate {
    /// Only those whose name, file or line contains one of these words
    words: Vec<String>,
    /// Only orderings
    #[arg(long, conflicts_with = "listed")]
    orderings: bool,
    /// Only what the file lists
    #[arg(long)]
    listed: bool,
    /// Only what this check alone is to notice: models, tests, schedules, x86, "x86 schedules", kernel
    #[arg(long)]
    check: Option<String>,
    /// Don't run anything: check that each line that is named is there
    #[arg(long)]
    dry_run: bool,
    /// The code as it is has just passed
    #[arg(skip)]
    has_passed: bool,
}

impl Mutate {
    /// All that this check alone is to notice, which has just passed.
    pub(crate) fn after(check: &str) -> Self {
        let check = Some(check.into());
        Self { words: Vec::new(), orderings: false, listed: true, check, dry_run: false, has_passed: true }
    }
}

/// What became of one mutant.
struct Outcome {
    mutant: Mutant,
    verdict: Verdict,
    took: Duration,
}

/// Runs all mutants that were asked for.
///
/// # Errors
/// When one survives without an explanation, one that is explained is noticed after all, or a line isn't there.
pub(crate) fn run(root: &Path, asked: &Mutate) -> Result<()> {
    let mutants = Mutants::read(root)?;
    let all: Vec<Mutant> = mutants
        .list(root)?
        .into_iter()
        .filter(|mutant| if mutant.ordering().is_some() { !asked.listed } else { !asked.orderings })
        .filter(|mutant| asked.check.as_ref().is_none_or(|check| mutant.is_only_for(check)))
        .filter(|mutant| asked.words.is_empty() || asked.words.iter().any(|word| mutant.contains(word)))
        .collect();
    if asked.dry_run {
        println!("mutate: {} lines to break, all there", all.len());
        return Ok(());
    }
    if all.is_empty() {
        bail!("no line to break contains any of {:?}; `cargo xtask mutate --dry-run` counts them", asked.words);
    }
    let tree = Tree::copy(root)?;
    let bar = ProgressBar::new(all.len() as u64)
        .with_style(ProgressStyle::with_template("{pos}/{len} {elapsed_precise} {wide_msg}")?);
    let (orderings, listed): (Vec<_>, Vec<_>) = all.into_iter().partition(|mutant| mutant.ordering().is_some());
    let mut outcomes = Vec::new();
    for mutants in [listed, orderings].into_iter().filter(|mutants| !mutants.is_empty()) {
        if mutants[0].ordering().is_some() {
            tree.prepare(&mutants)?;
        }
        if !asked.has_passed {
            bar.set_message("the code as it is must pass");
            match tree.judge_whole(&mutants)? {
                Verdict::Survived => (),
                verdict => bail!("a check fails without any line broken: {verdict}"),
            }
        }
        for mutant in mutants {
            bar.set_message(mutant.name());
            let start = Instant::now();
            let verdict = tree.judge(&mutant)?;
            bar.suspend(|| println!("{:>5.0} s  {verdict}  {}", start.elapsed().as_secs_f64(), mutant.name()));
            outcomes.push(Outcome { mutant, verdict, took: start.elapsed() });
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    report(&outcomes)
}

fn report(outcomes: &[Outcome]) -> Result<()> {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY).set_header(["broken", "noticed by", "s"]);
    let (mut unexplained, mut wrongly, mut not_built) = (Vec::new(), Vec::new(), Vec::new());
    for Outcome { mutant, verdict, took } in outcomes {
        let by = match (verdict, &mutant.survives) {
            (Verdict::Noticed { .. }, Some(_)) => {
                wrongly.push(mutant.name());
                verdict.to_string()
            }
            (Verdict::Noticed { .. }, None) => verdict.to_string(),
            (Verdict::NotBuilt(_), _) => {
                not_built.push(mutant.name());
                verdict.to_string()
            }
            (Verdict::Survived, Some(why)) => format!("nothing, since {why}"),
            (Verdict::Survived, None) => {
                unexplained.push(mutant.name());
                "NOTHING".into()
            }
        };
        table.add_row([mutant.name(), by, format!("{:.0}", took.as_secs_f64())]);
    }
    println!("{table}");
    let noticed = outcomes.iter().filter(|outcome| matches!(outcome.verdict, Verdict::Noticed { .. })).count();
    println!("{noticed} of {} broken lines were noticed", outcomes.len());
    if !not_built.is_empty() {
        bail!("the file is out of date: these lines don't compile when broken: {}", not_built.join("; "));
    }
    if !wrongly.is_empty() {
        bail!("said to survive, but noticed; strike them from the file: {}", wrongly.join("; "));
    }
    if !unexplained.is_empty() {
        bail!("noticed by nothing, and not explained: {}", unexplained.join("; "));
    }
    Ok(())
}
