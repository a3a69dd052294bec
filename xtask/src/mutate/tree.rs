//! A copy of the workspace that is broken and checked.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::mutants::Mutant;

/// One check: its name, its arguments for cargo, and its environment.
struct Check {
    name: &'static str,
    arguments: &'static [&'static str],
    environment: &'static [(&'static str, &'static str)],
}

/// All checks, the quickest first.
const CHECKS: &[Check] = &[
    Check {
        name: "models",
        arguments: &["test", "--profile", "checks", "--package", "pagemove", "--features", "loom", "--lib", "models::"],
        environment: &[("PAGEMOVE_PREEMPTIONS", "2")],
    },
    Check {
        name: "schedules",
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
        environment: &[("PAGEMOVE_SCHEDULES", "10")],
    },
    Check {
        name: "tests",
        arguments: &["test", "--package", "pagemove-hosted", "--no-fail-fast", "--tests"],
        environment: &[],
    },
];

/// A check that takes longer hangs, and so has noticed.
const LONGEST: Duration = Duration::from_secs(900);

/// What the checks said.
pub(super) enum Verdict {
    /// `check` failed, for the first time in `by`.
    Noticed {
        check: &'static str,
        by: String,
    },
    Survived,
}

impl fmt::Display for Verdict {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Noticed { check, by } => write!(out, "{check}: {by}"),
            Self::Survived => write!(out, "NOTHING"),
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
        for file in String::from_utf8(listed.stdout)?.split('\0').filter(|file| !file.is_empty()) {
            let (from, to) = (root.join(file), copy.join(file));
            if !from.is_file() {
                continue;
            }
            fs::create_dir_all(to.parent().context("a file in no folder")?)?;
            // Only what changed, so that cargo builds only that.
            if fs::read(&to).ok() != Some(fs::read(&from)?) {
                fs::copy(&from, &to).with_context(|| format!("can't copy {file}"))?;
            }
        }
        Ok(Self { root: copy })
    }

    /// Runs all checks that one of the mutants needs, with nothing broken.
    pub(super) fn judge_whole(&self, mutants: &[Mutant]) -> Result<Verdict> {
        self.check(|name| mutants.iter().any(|mutant| mutant.is_for(name)))
    }

    /// Breaks the line, runs its checks until one fails, and mends the line.
    pub(super) fn judge(&self, mutant: &Mutant) -> Result<Verdict> {
        let path = self.root.join(&mutant.file);
        let text = fs::read_to_string(&path)?;
        fs::write(&path, mutant.apply(&text))?;
        let verdict = self.check(|name| mutant.is_for(name));
        fs::write(&path, text)?;
        verdict
    }

    fn check(&self, wanted: impl Fn(&str) -> bool) -> Result<Verdict> {
        for check in CHECKS.iter().filter(|check| wanted(check.name)) {
            if let Some(by) = self.run(check)? {
                return Ok(Verdict::Noticed { check: check.name, by });
            }
        }
        Ok(Verdict::Survived)
    }

    /// Runs one check; gives what failed first.
    fn run(&self, check: &Check) -> Result<Option<String>> {
        let log = self.root.join("../log");
        let file = fs::File::create(&log).context("can't write the log")?;
        let mut child = crate::cargo()
            .args(check.arguments)
            .envs(check.environment.iter().copied())
            .env("CARGO_TARGET_DIR", self.root.join("../target"))
            .env("RUSTFLAGS", "--cap-lints allow")
            .current_dir(&self.root)
            .stdout(file.try_clone()?)
            .stderr(file)
            .stdin(Stdio::null())
            .spawn()
            .context("can't start cargo")?;
        let start = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if start.elapsed() > LONGEST {
                // Cargo's children as well; they are in our group, so by name of what they run.
                let _ = child.kill();
                let _ = child.wait();
                let _ = Command::new("pkill").args(["-f", "target/mutants/tree/../target"]).status();
                return Ok(Some(format!("hung for {} s", LONGEST.as_secs())));
            }
            std::thread::sleep(Duration::from_millis(100));
        };
        if status.success() {
            return Ok(None);
        }
        let told = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
        if told.contains("could not compile") {
            bail!("a broken line doesn't compile:\n{told}");
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
        Ok(Some(failed.or_else(panicked).unwrap_or_else(|| "it ended badly".into())))
    }
}
