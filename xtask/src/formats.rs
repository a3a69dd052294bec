//! Runs the hosted machine's tests and the histories once for each format of page tables besides that of x86-64.
//!
//! Takes names of formats, all if none; gives cargo's output. Promises that the tests ran in that format: one of them compares
//! it with what was asked for.

use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::cargo::cargo;

/// Which formats to try.
#[derive(Args)]
pub(crate) struct Asked {
    /// Run these only
    #[arg(value_enum, value_name = "FORMAT")]
    only: Vec<Format>,
}

/// A format of page tables.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// aarch64 with a 4 KiB granule: a dirty page is one that isn't read-only
    Aarch64,
    /// riscv64 with three levels: a fault sets the marks
    Sv39,
    /// riscv64 with four levels
    Sv48,
}

/// Tests each format asked for.
///
/// # Errors
/// When a test fails.
pub(crate) fn run(root: &Path, asked: &Asked) -> Result<()> {
    let formats = if asked.only.is_empty() { Format::value_variants() } else { &asked.only };
    formats.iter().try_for_each(|&format| test(root, format))
}

/// The formats that every change is tried with: Sv48 differs from Sv39 by the number of levels only, and from x86-64 in nothing
/// that Sv39 doesn't.
///
/// # Errors
/// As [`run`].
pub(crate) fn ci(root: &Path) -> Result<()> {
    run(root, &Asked { only: vec![Format::Aarch64, Format::Sv39] })
}

fn test(root: &Path, format: Format) -> Result<()> {
    // By the build's name of it, and by the name that the core's `Format::NAME` says.
    let (chosen, name) = match format {
        Format::Aarch64 => ("aarch64", "aarch64, 4 KiB granule"),
        Format::Sv39 => ("sv39", "riscv64, Sv39"),
        Format::Sv48 => ("sv48", "riscv64, Sv48"),
    };
    println!("== page tables of {name}");
    let flags = format!("{} --cfg pagemove_format=\"{chosen}\"", std::env::var("RUSTFLAGS").unwrap_or_default());
    let status = cargo()
        .args(["test", "--target-dir", &format!("target/formats/{chosen}")])
        .args(["--package", "pagemove-hosted", "--package", "pagemove-model", "--lib", "--tests", "--no-fail-fast"])
        .env("RUSTFLAGS", flags)
        .env("PAGEMOVE_FORMAT", name)
        .current_dir(root)
        .status()
        .context("can't start cargo")?;
    if !status.success() {
        bail!("a test failed with page tables of {name}");
    }
    Ok(())
}
