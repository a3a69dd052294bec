//! The whole test command: a list of steps, run in order.
//!
//! Takes the workspace's folder; gives each step's own output as it comes, and a table of the times at the end.
//! Promises to stop at the first step that fails, to say which one it was, and to return an error then.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{cargo::cargo, checkers, formats, kernel, layers, linux, no_std, package, prose};

/// One step: its name in the table, and what it does.
struct Step {
    name: &'static str,
    action: Action,
}

/// What a step does.
enum Action {
    /// Runs cargo with these arguments, in the workspace's folder.
    Cargo(&'static [&'static str]),
    /// The same with one more variable in its environment.
    CargoWith(&'static str, &'static str, &'static [&'static str]),
    /// Runs xtask's own check of this name, in this process.
    Check(&'static str, fn(&Path) -> Result<()>),
    /// The same for what can't be checked everywhere: gives why it can't be here.
    MaySkip(&'static str, fn(&Path) -> Result<Option<String>>),
}

use Action::{Cargo, CargoWith, Check, MaySkip};

/// Every step: the quick ones first, so that small faults show early.
///
/// The core is built twice. `--workspace` has its feature `std` on, since the hosted machine wants it; the steps
/// "core alone" have it off, as a kernel would.
const STEPS: &[Step] = &[
    Step { name: "format", action: Cargo(&["fmt", "--all", "--check"]) },
    Step { name: "prose", action: Check("prose", prose::run) },
    Step { name: "layers", action: Check("layers", layers::run) },
    Step { name: "no-std", action: Check("no-std", no_std::run) },
    Step { name: "lint", action: Cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]) },
    Step {
        name: "lint, core alone",
        action: Cargo(&["clippy", "--package", "pagemove", "--all-targets", "--", "-D", "warnings"]),
    },
    Step { name: "lint, under the checkers", action: Check("lint under loom and shuttle", checkers::lint) },
    Step {
        name: "documentation",
        action: CargoWith("RUSTDOCFLAGS", "-D warnings", &["doc", "--workspace", "--no-deps"]),
    },
    // `cargo test` without a choice of targets runs the examples in the documentation as well.
    Step { name: "test", action: Cargo(&["test", "--workspace"]) },
    // After what builds the same dependencies.
    Step { name: "package", action: Check("package", package::run) },
    Step { name: "test, core alone", action: Cargo(&["test", "--package", "pagemove"]) },
    Step { name: "test, release", action: Cargo(&["test", "--workspace", "--release"]) },
    Step { name: "test, other formats", action: Check("formats aarch64 sv39", formats::ci) },
    Step { name: "models", action: Check("models", checkers::models) },
    Step { name: "schedules", action: Check("schedules", checkers::some_schedules) },
    Step { name: "address sanitizer", action: Cargo(&["xtask", "sanitize", "address"]) },
    // Each line that the list of broken lines names is still there.
    Step { name: "mutants, list", action: Cargo(&["xtask", "mutate", "--dry-run"]) },
    // Models only: no time decides, but for the ten minutes after which one that doesn't end counts as noticed.
    Step { name: "mutants, orderings", action: Cargo(&["xtask", "mutate", "--orderings"]) },
    Step { name: "example kernel", action: MaySkip("kernel test", kernel::ci) },
    Step { name: "stock Linux", action: MaySkip("linux test", linux::ci) },
    // Last: what a user will see.
    Step {
        name: "the command",
        action: Cargo(&[
            "run",
            "--release",
            "--",
            "run",
            "--layout",
            "sample",
            "--memory",
            "1G",
            "--seed",
            "1",
            "--report",
            "target/report",
        ]),
    },
];

/// How a step ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ended {
    Well,
    Badly,
    Skipped,
    NotRun,
}

/// Runs all steps.
///
/// # Errors
/// Names the first step that failed. Those after it did not run.
pub(crate) fn run(root: &Path) -> Result<()> {
    run_steps(root, STEPS)
}

fn run_steps(root: &Path, steps: &[Step]) -> Result<()> {
    let mut rows = Vec::new();
    let (mut failure, mut skips) = (None, String::new());
    for (at, step) in steps.iter().enumerate() {
        if failure.is_some() {
            rows.push((step.name, Ended::NotRun, Duration::ZERO));
            continue;
        }
        println!("==> {}/{} {}: {}", at + 1, steps.len(), step.name, step.action.as_typed());
        let start = Instant::now();
        let outcome = step.action.run(root);
        let ended = match &outcome {
            Ok(None) => Ended::Well,
            Ok(Some(why)) => {
                skips += &format!("NOT CHECKED: step `{}` was skipped: {why}\n", step.name);
                Ended::Skipped
            }
            Err(_) => Ended::Badly,
        };
        rows.push((step.name, ended, start.elapsed()));
        failure = outcome.err().map(|error| (step, error));
    }
    print!("\n{}{skips}", table(&rows));
    match failure {
        None => Ok(()),
        Some((step, error)) => Err(error.context(format!("step `{}` failed", step.name))),
    }
}

/// The table at the end: a line for each step with how it ended and how long it took.
fn table(rows: &[(&str, Ended, Duration)]) -> String {
    let width = rows.iter().map(|(name, ..)| name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, ended, took) in rows {
        let seconds = took.as_secs_f64();
        // Writing to a String can't fail.
        let _ = match ended {
            Ended::Well => writeln!(text, "{name:width$}  ok      {seconds:7.1} s"),
            Ended::Badly => writeln!(text, "{name:width$}  FAILED  {seconds:7.1} s"),
            Ended::Skipped => writeln!(text, "{name:width$}  SKIPPED {seconds:7.1} s"),
            Ended::NotRun => writeln!(text, "{name:width$}  not run"),
        };
    }
    let total: Duration = rows.iter().map(|(.., took)| *took).sum();
    let _ = writeln!(text, "{:width$}          {:7.1} s", "all", total.as_secs_f64());
    text
}

impl Action {
    /// What a person would type to get the same.
    fn as_typed(&self) -> String {
        match self {
            Cargo(arguments) => format!("cargo {}", arguments.join(" ")),
            CargoWith(name, value, arguments) => {
                format!("{name}='{value}' cargo {}", arguments.join(" "))
            }
            Check(name, _) | MaySkip(name, _) => format!("cargo xtask {name}"),
        }
    }

    /// Gives why not, if it can't be done here.
    fn run(&self, root: &Path) -> Result<Option<String>> {
        let mut command = cargo();
        match self {
            Check(_, check) => return check(root).map(|()| None),
            MaySkip(_, check) => return check(root),
            Cargo(arguments) => command.args(*arguments),
            CargoWith(name, value, arguments) => command.args(*arguments).env(name, value),
        };
        let status = command.current_dir(root).status().context("can't start cargo; is it on the path?")?;
        self.judge(status).map(|()| None)
    }

    fn judge(&self, status: ExitStatus) -> Result<()> {
        if !status.success() {
            bail!("`{}` ended with {status}", self.as_typed());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    fn well(_: &Path) -> Result<()> {
        Ok(())
    }

    fn badly(_: &Path) -> Result<()> {
        bail!("found something")
    }

    fn never(_: &Path) -> Result<()> {
        panic!("a step after a failed one ran")
    }

    #[test]
    fn all_steps_that_end_well_are_a_success() {
        let cant = |_: &Path| Ok(Some("no such thing here".to_owned()));
        let steps = [Step { name: "a", action: Check("a", well) }, Step { name: "b", action: MaySkip("b", cant) }];
        run_steps(Path::new("."), &steps).expect("both end well");
    }

    #[test]
    fn stops_at_the_first_failure_and_names_it() {
        let steps = [
            Step { name: "a", action: Check("a", well) },
            Step { name: "b", action: Check("b", badly) },
            Step { name: "c", action: Check("c", never) },
        ];
        let error = run_steps(Path::new("."), &steps).expect_err("b fails");
        assert_eq!(format!("{error:#}"), "step `b` failed: found something");
    }

    #[test]
    fn cargo_that_fails_is_a_failure() {
        let action = Cargo(&["test"]);
        action.judge(ExitStatus::from_raw(0)).expect("all well");
        let error = action.judge(ExitStatus::from_raw(101 << 8)).expect_err("a test failed");
        assert_eq!(error.to_string(), "`cargo test` ended with exit status: 101");
        action.judge(ExitStatus::from_raw(9)).expect_err("killed");
    }

    #[test]
    fn the_table_tells_what_ran() {
        let rows = [
            ("one", Ended::Well, Duration::from_millis(1500)),
            ("second", Ended::Badly, Duration::from_millis(200)),
            ("3", Ended::NotRun, Duration::ZERO),
            ("4", Ended::Skipped, Duration::ZERO),
        ];
        let expected = "one     ok          1.5 s\nsecond  FAILED      0.2 s\n3       not run\n4       SKIPPED     0.0 s\n\
                        all                 1.7 s\n";
        assert_eq!(table(&rows), expected);
    }

    #[test]
    fn names_are_unique() {
        for (at, step) in STEPS.iter().enumerate() {
            assert!(STEPS[..at].iter().all(|other| other.name != step.name), "two steps are named {}", step.name);
        }
    }
}
