//! Checks that dependencies run one way: between the core's modules, between the files of each crate, and between the
//! crates.
//!
//! Takes the workspace's folder; gives a line `file:line: what uses what` for each dependency against the order.
//! Promises that a module of the core uses only modules that `lib.rs` declares before it, so that `lib.rs` reads as
//! the table of contents; that no file uses one that uses it, as [`files`] says; and that each crate uses only those
//! that [`crates`] lists for it.
//!
//! Documentation is exempt: a lower layer may tell its reader who uses it, and the compiler builds nothing from that.
//! So is everything under `#[cfg(test)]`: a test may set its stage with higher layers, and is never part of a build
//! that ships.

use std::path::Path;

use anyhow::{Context, Result, bail};
use cargo_metadata::{MetadataCommand, Package};

mod crates;
mod files;
mod modules;
mod paths;
mod uses;
mod violation;

use modules::Tree;
use violation::Violation;

/// The crate whose modules are layers, in the order of its `mod` lines.
const CORE: &str = "pagemove";

/// Where a crate keeps its source.
const FOLDERS: &[&str] = &["src", "tests", "benches", "examples"];

/// The root of a driver that the kernel's build makes a module of; cargo knows no such target.
const KERNEL_MODULE: &str = "src/module.rs";

/// Checks the core's modules, all crates' files, and all crates.
///
/// # Errors
/// When a dependency runs against the order, after all of them have been printed; when a file can't be read.
pub(crate) fn run(root: &Path) -> Result<()> {
    let metadata = MetadataCommand::new()
        .manifest_path(root.join("Cargo.toml"))
        .no_deps()
        .exec()
        .context("cargo can't read the workspace")?;
    let mut violations = crates::check(&metadata)?;
    let (mut layers, mut between_layers, mut files, mut between_files) = (0, 0, 0, 0);
    for package in metadata.workspace_packages() {
        let trees = trees(package)?;
        for tree in &trees {
            let (uses, found) = files::check(tree, root);
            between_files += uses;
            violations.extend(found);
        }
        files += trees.iter().flat_map(|tree| &tree.files).collect::<std::collections::HashSet<_>>().len();
        violations.extend(unreached(package, &trees)?);
        if package.name.as_str() == CORE {
            let library = trees.first().context("the core has no library")?;
            let (uses, found) = uses::check(library);
            (layers, between_layers) = (library.layers.len(), uses);
            violations.extend(found);
        }
    }

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
    let crates = metadata.workspace_packages().len();
    println!(
        "layers: {layers} modules of the core with {between_layers} uses between them, {files} files with \
         {between_files}, and {crates} crates: all one way"
    );
    Ok(())
}

/// What a package builds, its library first.
fn trees(package: &Package) -> Result<Vec<Tree>> {
    let mut targets: Vec<_> = package.targets.iter().collect();
    targets.sort_by_key(|target| !target.is_lib());
    let trees = targets.into_iter().map(|target| modules::read(target.src_path.as_std_path()));
    let mut trees = trees.collect::<Result<Vec<_>>>()?;
    let module = package.manifest_path.with_file_name(KERNEL_MODULE);
    if module.is_file() && !trees.iter().any(|tree| tree.has(module.as_std_path())) {
        trees.push(modules::read(module.as_std_path())?);
    }
    Ok(trees)
}

fn unreached(package: &Package, trees: &[Tree]) -> Result<Vec<Violation>> {
    let home = package.manifest_path.parent().context("a manifest stands in no folder")?;
    let trees: Vec<&Tree> = trees.iter().collect();
    let mut violations = Vec::new();
    for folder in FOLDERS.iter().map(|name| home.join(name)).filter(|folder| folder.is_dir()) {
        violations.extend(modules::unreached(folder.as_std_path(), &trees)?);
    }
    Ok(violations)
}

#[cfg(test)]
mod tests;
