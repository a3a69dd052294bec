//! Checks that dependencies run one way: between the core's modules, and between the crates.
//!
//! Takes the workspace's folder; gives a line `file:line: what uses what` for each dependency against the order.
//! Promises that a module of the core uses only modules that `lib.rs` declares before it, so that `lib.rs` reads as
//! the table of contents, and that each crate uses only those that [`crates`] lists for it.
//!
//! Documentation is exempt: a lower layer may tell its reader who uses it, and the compiler builds nothing from that.
//! So is everything under `#[cfg(test)]`: a test may set its stage with higher layers, and is never part of a build
//! that ships.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use cargo_metadata::MetadataCommand;

mod crates;
mod modules;
mod uses;

/// The file whose `mod` lines are the order of the core's layers.
const CORE: &str = "crates/pagemove/src/lib.rs";

/// A dependency against the order, or a place that the check can't see into.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Violation {
    file: PathBuf,
    line: usize,
    what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file.display(), self.line, self.what)
    }
}

/// Checks the core's modules and all crates.
///
/// # Errors
/// When a dependency runs against the order, after all of them have been printed; when a file can't be read.
pub(crate) fn run(root: &Path) -> Result<()> {
    let tree = modules::read(&root.join(CORE))?;
    let (uses, mut violations) = uses::check(&tree);

    let metadata = MetadataCommand::new()
        .manifest_path(root.join("Cargo.toml"))
        .no_deps()
        .exec()
        .context("cargo can't read the workspace")?;
    violations.extend(crates::check(&metadata)?);

    violations.sort();
    for violation in &mut violations {
        if let Ok(inside) = violation.file.strip_prefix(root) {
            violation.file = inside.to_owned();
        }
        println!("{violation}");
    }
    if !violations.is_empty() {
        bail!("{} dependencies run against the order, listed above", violations.len());
    }
    let layers = tree.layers.len();
    let crates = metadata.workspace_packages().len();
    println!("layers: {layers} modules of the core with {uses} uses between them, and {crates} crates: all one way");
    Ok(())
}

#[cfg(test)]
mod tests;
