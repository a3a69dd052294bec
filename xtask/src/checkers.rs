//! The levels that choose the next thread: loom's models and shuttle's schedules of the same code.
//!
//! Takes how much to explore; gives cargo's output, and an error if a check failed. Promises a folder of its own for the
//! build, since the core is built with other atomics there.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::cargo::cargo;

/// Which schedules to try.
#[derive(Args)]
pub(crate) struct Schedules {
    /// Histories for each pair of a kind of page and a deed, and each of the two schedulers
    #[arg(long, default_value_t = 20)]
    histories: u32,
    /// First seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Run just the history that a failure has printed
    #[arg(long, requires_all = ["case", "test"])]
    replay: Option<String>,
    /// The case that it was of, as the failure has printed it
    #[arg(long, requires = "replay")]
    case: Option<String>,
    /// Only tests whose name contains this: `fork`, `pin`, …
    test: Option<String>,
}

/// Lints what only the checkers build.
///
/// # Errors
/// When the linter finds something.
pub(crate) fn lint(root: &Path) -> Result<()> {
    for of in [
        &["--package", "pagemove", "--features", "loom", "--lib", "--tests"][..],
        &["--package", "pagemove-hosted", "--features", "shuttle", "--lib", "--test", "schedules"],
        &["--package", "pagemove-x86", "--features", "shuttle", "--lib", "--test", "schedules"],
    ] {
        run(root, "clippy", of, &["-D", "warnings"], &[], "the linter")?;
    }
    Ok(())
}

/// Explores the models.
///
/// # Errors
/// When a model fails.
pub(crate) fn models(root: &Path) -> Result<()> {
    test(root, &["--package", "pagemove", "--features", "loom", "--lib", "models::"], &[], "a model")
}

/// Explores whole moves.
///
/// # Errors
/// When a history fails; it was printed.
pub(crate) fn schedules(root: &Path, asked: &Schedules) -> Result<()> {
    let mut arguments = vec!["--package", "pagemove-hosted", "--features", "shuttle", "--test", "schedules"];
    arguments.extend(asked.test.as_deref());
    let mut environment =
        vec![("PAGEMOVE_SCHEDULES", asked.histories.to_string()), ("PAGEMOVE_SEED", asked.seed.to_string())];
    environment.extend(asked.replay.iter().map(|schedule| ("PAGEMOVE_REPLAY", schedule.clone())));
    environment.extend(asked.case.iter().map(|case| ("PAGEMOVE_CASE", case.clone())));
    test(root, &arguments, &environment, "a history")
}

/// As many of them as every change is tried with.
///
/// # Errors
/// As [`schedules`].
pub(crate) fn some_schedules(root: &Path) -> Result<()> {
    test(root, &["--package", "pagemove-x86", "--features", "shuttle", "--test", "schedules"], &[], "a history")?;
    schedules(root, &Schedules { histories: 25, seed: 1, replay: None, case: None, test: None })
}

fn test(root: &Path, arguments: &[&str], environment: &[(&str, String)], what: &str) -> Result<()> {
    // What was explored is worth reading.
    run(root, "test", arguments, &["--nocapture"], environment, what)
}

fn run(
    root: &Path,
    command: &str,
    arguments: &[&str],
    last: &[&str],
    environment: &[(&str, String)],
    what: &str,
) -> Result<()> {
    let mut child = cargo()
        .args([command, "--profile", "checks", "--target-dir", "target/checks"])
        .args(arguments)
        .arg("--")
        .args(last)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .current_dir(root)
        .stdout(Stdio::piped())
        .spawn()
        .context("can't start cargo")?;
    let mut passed = 0;
    for line in BufReader::new(child.stdout.take().context("cargo has no output")?).lines() {
        let line = line?;
        println!("{line}");
        passed += passed_in(&line);
    }
    if !child.wait()?.success() {
        bail!("{what} failed; what it was stands above");
    }
    if command == "test" && passed == 0 {
        bail!("nothing was checked: no test has that name");
    }
    Ok(())
}

/// Reads the number of tests that passed from the line in which they are summed up.
fn passed_in(line: &str) -> u32 {
    let sum = line.strip_prefix("test result: ok. ").and_then(|rest| rest.split(' ').next());
    sum.and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_test_is_not_a_pass() {
        assert_eq!(passed_in("test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 7 filtered out"), 0);
        assert_eq!(passed_in("test result: ok. 12 passed; 0 failed; 0 ignored"), 12);
        assert_eq!(passed_in("test result: FAILED. 3 passed; 1 failed"), 0);
        assert_eq!(passed_in("test ok ... ok"), 0);
    }
}
