//! The rungs that choose who goes on: loom's models and shuttle's schedules of the same code.
//!
//! Takes how much to explore; gives cargo's output, and an error if a check failed. Promises a folder of its own for the
//! build, since the core is built with other atomics there.

use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::Args;

/// Which schedules to try.
#[derive(Args)]
pub(crate) struct Schedules {
    /// Histories for each pair of a kind of page and a deed, and each of the two schedulers
    #[arg(long, default_value_t = 20)]
    histories: u32,
    /// First seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Run just the history that a failure has printed; name its test as well
    #[arg(long, requires = "test")]
    replay: Option<String>,
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
    test(root, &arguments, &environment, "a history")
}

/// As many of them as every change is tried with.
///
/// # Errors
/// As [`schedules`].
pub(crate) fn some_schedules(root: &Path) -> Result<()> {
    schedules(root, &Schedules { histories: 10, seed: 1, replay: None, test: None })
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
    let status = crate::cargo()
        .args([command, "--profile", "checks", "--target-dir", "target/checks"])
        .args(arguments)
        .arg("--")
        .args(last)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .current_dir(root)
        .status()
        .context("can't start cargo")?;
    if !status.success() {
        bail!("{what} failed, or there is none of that name; what it was stands above");
    }
    Ok(())
}
