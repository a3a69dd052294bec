//! Runs the suites of the core, the drivers and the hosted machine under the address or the thread sanitizer.
//!
//! Takes the sanitizer, and names of test files if not all are to run; gives cargo's own output. Promises to have seen
//! the sanitizer stop a program that does just what it's to find, with the same flags, before it says that all is well;
//! and to suppress nothing: what a sanitizer reports fails the run.
//!
//! The thread sanitizer must see every lock, also those inside the standard library, or it reports races where there are
//! none. So the library is built with it, which takes its source: of the toolchain in use, or else a compiler with its
//! source from Debian ([`instrumented`]). The address sanitizer does with the library as it is.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use cargo_metadata::MetadataCommand;
use clap::{Args, ValueEnum};

mod instrumented;

use crate::cargo::cargo;
use instrumented::Toolchain;

/// What is asked for.
#[derive(Args)]
pub(crate) struct Asked {
    /// Which sanitizer
    sanitizer: Sanitizer,
    /// Runs these files of the hosted machine's tests only, such as `faults`
    #[arg(value_name = "TEST")]
    only: Vec<String>,
}

/// A sanitizer.
#[derive(Clone, Copy, ValueEnum)]
enum Sanitizer {
    /// Uses of freed memory and of memory beyond its bounds, and leaks
    Address,
    /// Accesses by two threads that nothing orders
    Thread,
}

/// What each needs to be told.
struct Facts {
    name: &'static str,
    flags: &'static str,
    variable: &'static str,
    options: &'static str,
    /// What the control does, and what must be said of it.
    control: &'static str,
    words: &'static str,
    /// Tests that can't run under it.
    skipped: &'static [&'static str],
}

/// Options of both: the host TLB handles SIGSEGV itself (`handle_segv`, `allow_user_segv_handler`). And of the thread
/// sanitizer: its handler allocates, which is safe since it runs for accesses to windows only, never inside of an
/// allocator (`report_signal_unsafe`; the argument is in `tlb::host`).
impl Sanitizer {
    fn facts(self) -> Facts {
        match self {
            Sanitizer::Address => Facts {
                name: "address",
                // The second: the standard library as it is may be linked with code that is instrumented.
                flags: "-Zsanitizer=address -Cunsafe-allow-abi-mismatch=sanitizer",
                variable: "ASAN_OPTIONS",
                options: "handle_segv=0:allow_user_segv_handler=1",
                control: "freed",
                skipped: &[],
                words: "AddressSanitizer: heap-use-after-free",
            },
            Sanitizer::Thread => Facts {
                name: "thread",
                flags: "-Zsanitizer=thread",
                variable: "TSAN_OPTIONS",
                options: "handle_segv=0:allow_user_segv_handler=1:report_signal_unsafe=0",
                control: "raced",
                // A fault in the handler of a fault: this sanitizer's own handler blocks the signal meanwhile, which ends the program.
                skipped: &["waiting::a_file_is_read_without_a_lock"],
                words: "ThreadSanitizer: data race",
            },
        }
    }
}

/// The crates whose tests run.
const CRATES: &[&str] = &["pagemove", "pagemove-drivers", "pagemove-hosted"];

/// A test may run longer than it does without a sanitizer before it counts as hung, in seconds.
const HUNG: &str = "1500";

/// Runs the control, then the tests.
///
/// # Errors
/// When a test fails or the sanitizer reports anything; when the control isn't noticed; when the toolchain has no such
/// sanitizer, or the source of its library can't be had.
pub(crate) fn run(root: &Path, asked: &Asked) -> Result<()> {
    let facts = asked.sanitizer.facts();
    let metadata = MetadataCommand::new().manifest_path(root.join("Cargo.toml")).no_deps().exec();
    let target = metadata.context("cargo can't read the workspace")?.target_directory.join("sanitize");
    let toolchain = match asked.sanitizer {
        Sanitizer::Address => Toolchain::in_use()?,
        Sanitizer::Thread => Toolchain::with_source(target.as_std_path())?,
    };
    let build = |command: &mut Command| {
        toolchain.use_for(command);
        command
            .current_dir(root)
            .args(["--target", &toolchain.host, "--target-dir", target.join(facts.name).as_str()])
            // The flags are unstable; no other way leads to a sanitizer.
            .env("RUSTC_BOOTSTRAP", "1")
            .env("RUSTFLAGS", facts.flags)
            .env(facts.variable, facts.options)
            .env("PAGEMOVE_HANG_S", HUNG);
    };

    println!("sanitize: the control `{}` must be stopped ({})", facts.control, toolchain.what);
    let mut control = cargo();
    control.arg("run");
    build(&mut control);
    let manifest = root.join("checks/sanitizers/Cargo.toml");
    control.arg("--manifest-path").arg(manifest).args(["--", facts.control]);
    let output = control.output().context("can't start cargo")?;
    judge_control(&facts, output.status.success(), &String::from_utf8_lossy(&output.stderr))?;

    let mut tests = cargo();
    tests.args(["test", "--no-fail-fast"]);
    build(&mut tests);
    if asked.only.is_empty() {
        tests.args(["--lib", "--tests"]).args(CRATES.iter().flat_map(|name| ["--package", name]));
    } else {
        tests.args(["--package", "pagemove-hosted"]).args(asked.only.iter().flat_map(|name| ["--test", name]));
    }
    tests.arg("--").args(facts.skipped.iter().flat_map(|name| ["--skip", name]));
    let status = tests.status().context("can't start cargo")?;
    if !status.success() {
        bail!("under the {} sanitizer tests failed, or it reported something; its words are above", facts.name);
    }
    println!("sanitize: nothing was reported by the {} sanitizer, which saw the control", facts.name);
    Ok(())
}

/// Says whether the control was stopped, and for the right reason.
fn judge_control(facts: &Facts, ended_well: bool, told: &str) -> Result<()> {
    if ended_well {
        bail!("the {} sanitizer did not notice the control, so it would notice nothing else", facts.name);
    }
    if !told.contains(facts.words) {
        bail!("the control did not run to its end (no \"{}\" in this):\n{told}", facts.words);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_that_is_not_noticed_or_not_built_is_a_failure() {
        for sanitizer in [Sanitizer::Address, Sanitizer::Thread] {
            let facts = sanitizer.facts();
            judge_control(&facts, false, &format!("WARNING: {} (pid=1)", facts.words)).expect("as it should be");
            judge_control(&facts, true, "").expect_err("unnoticed");
            judge_control(&facts, false, "error: could not compile").expect_err("not built");
        }
    }
}
