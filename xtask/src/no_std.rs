//! Proves that the core needs no operating system below it.
//!
//! Takes the crate `checks/no-std`, which brings its own panic handler and allocator and depends on the core; gives
//! one line that says what was shown. Promises that the core and all that it links are free of `std`: a program has
//! one panic handler, and `std` brings its own, so the compiler refuses the two together. That refusal is shown as
//! well, in each run: a check that can't fail proves nothing.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use cargo_metadata::MetadataCommand;

use crate::cargo::cargo;

/// The crate that is built, from the workspace's folder.
const CHECK: &str = "checks/no-std";

/// What the controls turn on. Each must be refused.
const CONTROLS: &[(&str, &str)] = &[
    ("std-here", "the check crate with `extern crate std` in it"),
    ("std-below", "the core with its feature `std` on"),
];

/// The compiler's words for a second panic handler, and for where the first one is from.
const REFUSAL: &[&str] = &["found duplicate lang item `panic_impl`", "first defined in crate `std`"];

/// Checks the form of the check crate, builds and lints it, then builds the controls.
///
/// # Errors
/// When the core does not build without `std`, or a control builds, or is refused for some other reason.
pub(crate) fn run(root: &Path) -> Result<()> {
    let manifest = root.join(CHECK).join("Cargo.toml");
    let target = target_folder(root)?;
    share_versions(root)?;

    // The check crate is no member of the workspace (its panic handler would meet the tests' `std`), so the steps
    // for the workspace pass it by.
    for (what, words) in [
        ("badly formatted", &["fmt", "--check"][..]),
        ("not free of `std`, or does not build", &["build", "--quiet"]),
        ("refused by the linter", &["clippy", "--quiet"]),
    ] {
        let mut command = cargo();
        command.args(words).arg("--manifest-path").arg(&manifest);
        if words[0] != "fmt" {
            command.arg("--target-dir").arg(&target);
        }
        if words[0] == "clippy" {
            command.args(["--", "-D", "warnings"]);
        }
        if !command.status().context("can't start cargo")?.success() {
            bail!("{CHECK}, which holds the core, is {what}; the compiler's words are above");
        }
    }

    for (feature, what) in CONTROLS {
        let output = cargo()
            .args(["build", "--quiet", "--features", feature, "--manifest-path"])
            .arg(&manifest)
            .arg("--target-dir")
            .arg(&target)
            .env("CARGO_TERM_COLOR", "never")
            .output()
            .context("can't start cargo")?;
        judge_control(output.status.success(), &String::from_utf8_lossy(&output.stderr))
            .with_context(|| format!("control `--features {feature}` ({what})"))?;
    }
    println!("no-std: the core links without std; {} controls with std were refused for that", CONTROLS.len());
    Ok(())
}

/// Says whether a control was refused, and for the right reason.
fn judge_control(built: bool, told: &str) -> Result<()> {
    if built {
        bail!(
            "it builds, but std beside a panic handler of our own must be refused: either no `std` is linked any more \
             with that feature on, or this check is blind. A core whose feature `std` is on should say `extern crate std`"
        );
    }
    for words in REFUSAL {
        if !told.contains(words) {
            bail!("it was refused, but not for its second panic handler (no \"{words}\" in this):\n{told}");
        }
    }
    Ok(())
}

/// A folder for the build, under the workspace's own.
fn target_folder(root: &Path) -> Result<PathBuf> {
    let metadata = MetadataCommand::new()
        .manifest_path(root.join("Cargo.toml"))
        .no_deps()
        .exec()
        .context("cargo can't read the workspace")?;
    Ok(metadata.target_directory.join("no-std").into())
}

/// Gives the check crate the workspace's versions: what is proved must be what is shipped.
///
/// Cargo drops what the check crate doesn't need, and git ignores the copy.
fn share_versions(root: &Path) -> Result<()> {
    let copy = root.join(CHECK).join("Cargo.lock");
    fs::copy(root.join("Cargo.lock"), &copy)
        .with_context(|| format!("can't copy the workspace's Cargo.lock to {}", copy.display()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DUPLICATE: &str = "error[E0152]: found duplicate lang item `panic_impl`\n\
        = note: the lang item is first defined in crate `std` (which `parking_lot` depends on)\n";

    #[test]
    fn a_control_that_builds_is_a_failure() {
        judge_control(true, "").expect_err("std was not noticed");
    }

    #[test]
    fn a_control_refused_for_its_second_panic_handler_is_what_we_want() {
        judge_control(false, DUPLICATE).expect("the right reason");
    }

    #[test]
    fn a_control_refused_for_anything_else_is_a_failure() {
        judge_control(false, "error: no matching package named `parking_lot` found").expect_err("no network, say");
        judge_control(false, &DUPLICATE.replace("`std`", "`other`")).expect_err("a handler, but not the one of std");
    }
}
