//! A copy of the workspace that is broken and checked.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::mutants::{Mutant, WEAKENED_NUMBER, weakening};
use crate::cargo::cargo;

/// One check: its name, what runs it, its arguments, and its environment.
struct Check {
    name: &'static str,
    program: Program,
    arguments: &'static [&'static str],
    environment: &'static [(&'static str, &'static str)],
}

/// What runs a check.
#[derive(Clone, Copy)]
enum Program {
    /// Cargo; with `--no-run` it only builds.
    Cargo,
    /// This xtask, which isn't broken; with these arguments it only builds.
    Xtask { build: &'static [&'static str] },
}

impl Program {
    /// Gives the arguments that build all that the check runs.
    fn build(self, arguments: &[&'static str]) -> Vec<&'static str> {
        match self {
            Self::Cargo => [arguments, &["--no-run"]].concat(),
            Self::Xtask { build } => build.to_vec(),
        }
    }

    /// Starts it on the workspace in `root`.
    fn on(self, root: &Path) -> Result<Command> {
        match self {
            Self::Cargo => {
                let mut command = cargo();
                // Each broken line is one more build of the same crate.
                command.env_remove("CARGO_INCREMENTAL");
                Ok(command)
            }
            Self::Xtask { .. } => {
                // Not by its name: cargo may have built it anew since it was started.
                let mut command = Command::new("/proc/self/exe");
                // It works on the workspace that this variable's folder stands in.
                command.env("CARGO_MANIFEST_DIR", root.join("xtask"));
                Ok(command)
            }
        }
    }
}

/// All checks, the quickest first.
const CHECKS: &[Check] = &[
    Check {
        name: "models",
        program: Program::Cargo,
        arguments: &["test", "--profile", "checks", "--package", "pagemove", "--features", "loom", "--lib", "models::"],
        environment: &[("PAGEMOVE_PREEMPTIONS", "2")],
    },
    Check {
        name: "x86",
        program: Program::Cargo,
        arguments: &["test", "--package", "pagemove-x86", "--lib", "--tests"],
        environment: &[],
    },
    Check {
        name: "x86 schedules",
        program: Program::Cargo,
        arguments: &["test", "--package", "pagemove-x86", "--features", "shuttle", "--test", "schedules"],
        environment: &[],
    },
    Check {
        name: "kernel",
        program: Program::Xtask { build: &["kernel", "build"] },
        // A short limit: on a slow machine a broken kernel is stopped too early, and that's all.
        arguments: &["kernel", "test", "--cpus", "4", "--limit", "40", "--no-sabotage"],
        environment: &[],
    },
    Check {
        name: "tests",
        program: Program::Cargo,
        arguments: &[
            "test",
            "--package",
            "pagemove",
            "--package",
            "pagemove-drivers",
            "--package",
            "pagemove-hosted",
            "--lib",
            "--tests",
        ],
        environment: &[],
    },
    Check {
        name: "schedules",
        program: Program::Cargo,
        arguments: &[
            "test",
            "--profile",
            "checks",
            "--package",
            "pagemove-hosted",
            "--features",
            "shuttle",
            "--test",
            "schedules",
        ],
        environment: &[("PAGEMOVE_SCHEDULES", "100")],
    },
];

/// A check that takes longer hangs, and so has noticed.
const LONGEST: Duration = Duration::from_secs(600);

/// What the checks said.
pub(super) enum Verdict {
    /// `check` failed, for the first time in `by`.
    Noticed {
        check: &'static str,
        by: String,
    },
    Survived,
    /// The broken line doesn't compile, for this reason.
    NotBuilt(String),
}

impl fmt::Display for Verdict {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Noticed { check, by } => write!(out, "{check}: {by}"),
            Self::Survived => write!(out, "NOTHING"),
            Self::NotBuilt(why) => write!(out, "DOESN'T COMPILE: {why}"),
        }
    }
}

/// The copy.
pub(super) struct Tree {
    root: PathBuf,
}

impl Tree {
    /// Copies all files that git knows, or would.
    pub(super) fn copy(root: &Path) -> Result<Self> {
        let listed = Command::new("git")
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .current_dir(root)
            .output()
            .context("can't start git")?;
        if !listed.status.success() {
            bail!("git can't list the workspace's files: {}", String::from_utf8_lossy(&listed.stderr));
        }
        let copy = root.join("target/mutants/tree");
        let listed = String::from_utf8(listed.stdout)?;
        let files: BTreeSet<&Path> = listed.split('\0').filter(|file| !file.is_empty()).map(Path::new).collect();
        remove_others(&copy, &copy, &files)?;
        for file in files {
            let (from, to) = (root.join(file), copy.join(file));
            if !from.is_file() {
                continue;
            }
            fs::create_dir_all(to.parent().context("a file in no folder")?)?;
            // Only what changed, so that cargo builds only that.
            if fs::read(&to).ok() != Some(fs::read(&from)?) {
                fs::copy(&from, &to).with_context(|| format!("can't copy {}", file.display()))?;
            }
        }
        Ok(Self { root: copy })
    }

    /// Prepares the orderings among the mutants, so that each can be weakened without another build.
    pub(super) fn prepare(&self, orderings: &[Mutant]) -> Result<()> {
        let (file, more) = weakening();
        let path = self.root.join(file);
        fs::write(&path, fs::read_to_string(&path)? + &more)?;
        for mutant in orderings.iter().rev() {
            let path = self.root.join(&mutant.file);
            fs::write(&path, mutant.apply(&fs::read_to_string(&path)?))?;
        }
        Ok(())
    }

    /// Runs all checks that one of the mutants needs, with nothing broken.
    pub(super) fn judge_whole(&self, mutants: &[Mutant]) -> Result<Verdict> {
        self.check(|name| mutants.iter().any(|mutant| mutant.is_for(name)), None)
    }

    /// Breaks the line, runs its checks until one fails, and mends the line. An ordering must have been prepared.
    pub(super) fn judge(&self, mutant: &Mutant) -> Result<Verdict> {
        let wanted = |name: &str| mutant.is_for(name);
        if let Some(number) = mutant.ordering() {
            return self.check(wanted, Some(number));
        }
        let path = self.root.join(&mutant.file);
        let text = fs::read_to_string(&path)?;
        fs::write(&path, mutant.apply(&text))?;
        let verdict = self.check(wanted, None);
        fs::write(&path, text)?;
        verdict
    }

    fn check(&self, wanted: impl Fn(&str) -> bool, weakened: Option<usize>) -> Result<Verdict> {
        for check in CHECKS.iter().filter(|check| wanted(check.name)) {
            match self.run(check, weakened)? {
                Verdict::Survived => (),
                verdict => return Ok(verdict),
            }
        }
        Ok(Verdict::Survived)
    }

    /// Runs one check; gives what failed first. An error if it can't be known that the broken line is to blame.
    fn run(&self, check: &Check, weakened: Option<usize>) -> Result<Verdict> {
        let noticed = |by| Ok(Verdict::Noticed { check: check.name, by });
        // Built first, so that only the check itself is on the clock.
        let (built, told) = self.start(check, &check.program.build(check.arguments), weakened, None)?;
        if built != Some(true) {
            let why = told.lines().find(|line| line.starts_with("error")).unwrap_or(&told);
            return Ok(Verdict::NotBuilt(why.into()));
        }
        let (passed, told) = self.start(check, check.arguments, weakened, Some(LONGEST))?;
        let Some(passed) = passed else { return noticed(format!("hung for {} s", LONGEST.as_secs())) };
        if passed {
            return Ok(Verdict::Survived);
        }
        let failed = told.lines().find_map(|line| {
            let line = line.strip_prefix("test ")?;
            Some(line.split(" ... ").next()?.to_string()).filter(|_| line.contains("FAILED"))
        });
        // An abort names no test; the thread that panicked has the test's name.
        let panicked = || {
            let line = told.lines().find(|line| line.starts_with("thread '") && line.contains("panicked"))?;
            line.split('\'').nth(1).map(String::from)
        };
        match failed.or_else(panicked) {
            Some(by) => noticed(by),
            None if told.contains("(signal: ") => noticed("ended by a signal".into()),
            None => bail!("{} ended badly, but no test failed:\n{told}", check.name),
        }
    }

    /// Runs a check's program; gives whether it passed (`None`: stopped after `longest`), and what it told.
    fn start(
        &self,
        check: &Check,
        arguments: &[&str],
        weakened: Option<usize>,
        longest: Option<Duration>,
    ) -> Result<(Option<bool>, String)> {
        let log = self.root.join("../log");
        let file = fs::File::create(&log).context("can't write the log")?;
        let mut child = check
            .program
            .on(&self.root)?
            .args(arguments)
            .envs(check.environment.iter().copied())
            .envs(weakened.map(|number| (WEAKENED_NUMBER, number.to_string())))
            .env("CARGO_TARGET_DIR", self.root.join("../target"))
            .env("RUSTFLAGS", "--cap-lints allow")
            .current_dir(&self.root)
            .stdout(file.try_clone()?)
            .stderr(file)
            .stdin(Stdio::null())
            // A group of its own, so that what cargo has started can be stopped with it.
            .process_group(0)
            .spawn()
            .with_context(|| format!("can't start the check `{}`", check.name))?;
        let start = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break Some(status.success());
            }
            if longest.is_some_and(|longest| start.elapsed() > longest) {
                let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", child.id())]).status();
                let _ = child.wait();
                break None;
            }
            std::thread::sleep(Duration::from_millis(100));
        };
        Ok((status, String::from_utf8_lossy(&fs::read(&log)?).into_owned()))
    }
}

/// Removes what was copied before and is no longer there: a check that is gone must not notice anything.
fn remove_others(copy: &Path, folder: &Path, files: &BTreeSet<&Path>) -> Result<()> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            remove_others(copy, &path, files)?;
        } else if !files.contains(path.strip_prefix(copy)?) {
            fs::remove_file(&path).with_context(|| format!("can't remove {}", path.display()))?;
        }
    }
    Ok(())
}
