//! Proves that each published crate builds from its package alone.
//!
//! Takes the workspace's folder; packages the crates that may be published, unpacks the packages side by side, and builds
//! them there. Promises that a crate that needs a file from outside its folder is refused, and one whose page in a
//! registry would lack something. Needs no network once the workspace has been built.
//!
//! Cargo's own verification is left out: for the crates that a crate uses, cargo 1.95 takes what it has unpacked in an
//! earlier run, if the version is the same, and so judges it by what the others were.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use cargo_metadata::{Metadata, MetadataCommand, Package};

use crate::cargo::cargo;

/// Where packages are unpacked, in the target folder.
const UNPACKED: &str = "unpacked";

/// The file with the text of each licence.
const LICENCES: &[(&str, &str)] =
    &[("MIT", "LICENSE-MIT"), ("Apache-2.0", "LICENSE-APACHE"), ("GPL-2.0-only", "LICENSE-GPL")];

/// Packages the published crates, and builds them from their packages.
///
/// # Errors
/// When one can't be packaged, doesn't build, or lacks something.
pub(crate) fn run(root: &Path) -> Result<()> {
    let metadata = workspace(root)?;
    check(root, &metadata, metadata.target_directory.as_std_path())
}

/// What cargo tells of a workspace.
fn workspace(root: &Path) -> Result<Metadata> {
    let mut command = MetadataCommand::new();
    command.manifest_path(root.join("Cargo.toml")).no_deps().exec().context("cargo can't read the workspace")
}

/// Packages and builds in `target`.
fn check(root: &Path, metadata: &Metadata, target: &Path) -> Result<()> {
    let may_be_published =
        |package: &&Package| package.publish.as_ref().is_none_or(|registries| !registries.is_empty());
    let published: Vec<&Package> = metadata.workspace_packages().into_iter().filter(may_be_published).collect();
    if published.is_empty() {
        bail!("no crate may be published, so nothing was checked");
    }

    let mut command = cargo();
    // Dirty: what is checked is what stands in the folder.
    command.args(["package", "--quiet", "--no-verify", "--offline", "--allow-dirty", "--target-dir"]).arg(target);
    command.args(published.iter().flat_map(|package| ["--package", package.name.as_str()]));
    must_succeed(command.current_dir(root), "the crates can't be packaged")?;

    let folder = target.join(UNPACKED);
    unpack(&published, &target.join("package"), &folder)?;
    let lacking: Vec<String> = published.iter().flat_map(|package| lacking(package, &folder)).collect();
    if !lacking.is_empty() {
        bail!("{}", lacking.join("; "));
    }
    fs::copy(root.join("Cargo.lock"), folder.join("Cargo.lock")).context("can't copy the workspace's Cargo.lock")?;
    let mut command = cargo();
    command.args(["build", "--quiet", "--workspace", "--offline", "--target-dir"]).arg(target);
    must_succeed(command.current_dir(&folder), "the packages don't build by themselves")?;
    println!("package: {} crates build from their packages", published.len());
    Ok(())
}

/// Runs a command; if it fails, that and its words are the error.
fn must_succeed(command: &mut Command, what: &str) -> Result<()> {
    let output = command.output().with_context(|| format!("can't start {}", command.get_program().display()))?;
    if !output.status.success() {
        bail!("{what}:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// Unpacks all packages in a new folder, as a workspace in which each uses the others.
fn unpack(published: &[&Package], packages: &Path, folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("can't remove {}", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("can't make {}", folder.display()))?;
    let (mut members, mut patches) = (String::new(), String::new());
    for package in published {
        let name = full_name(package);
        // Packages hold one and the same time for each file, by which cargo would see no change.
        let mut tar = Command::new("tar");
        tar.args(["--extract", "--touch", "--file"]).arg(packages.join(format!("{name}.crate")));
        must_succeed(tar.arg("--directory").arg(folder), "a package can't be unpacked")?;
        // Writing to a String can't fail.
        let _ = write!(members, "\"{name}\", ");
        let _ = writeln!(patches, "{} = {{ path = \"{name}\" }}", package.name);
    }
    let manifest = format!("[workspace]\nresolver = \"3\"\nmembers = [{members}]\n\n[patch.crates-io]\n{patches}");
    fs::write(folder.join("Cargo.toml"), manifest).context("can't write the packages' workspace")
}

/// What a registry's page of the crate would lack.
fn lacking(package: &Package, folder: &Path) -> Vec<String> {
    let inside = folder.join(full_name(package));
    let licence = package.license.as_deref().unwrap_or_default();
    let mut lacking = Vec::new();
    let mut needs = |is_there: bool, what: &str| {
        if !is_there {
            lacking.push(format!("{} has no {what}", package.name));
        }
    };
    needs(package.description.is_some(), "description");
    needs(package.readme.is_some(), "README.md");
    needs(!package.keywords.is_empty(), "keywords");
    needs(!package.categories.is_empty(), "categories");
    needs(package.metadata["docs"]["rs"].is_object(), "[package.metadata.docs.rs]");
    needs(!licence.is_empty(), "licence");
    for one in licence.split(" OR ").filter(|one| !one.is_empty()) {
        match LICENCES.iter().find(|(name, _)| *name == one) {
            Some((_, file)) => needs(inside.join(file).is_file(), file),
            None => needs(false, &format!("licence text that is known here for {one}")),
        }
    }
    lacking
}

/// The name of the package, and of the folder in it.
fn full_name(package: &Package) -> String {
    format!("{}-{}", package.name, package.version)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    const HEAD: &str = "version = \"0.1.0\"\nedition = \"2024\"\nlicense = \"MIT\"\ndescription = \"One of two\"\n\
        keywords = [\"one\"]\ncategories = [\"os\"]\nmetadata.docs.rs.features = []\n";

    fn write(folder: &Path, name: &str, text: &str) {
        let file = folder.join(name);
        fs::create_dir_all(file.parent().expect("a parent")).expect("makes folders");
        fs::write(file, text).expect("writes");
    }

    /// In a target folder of its own, also where `CARGO_TARGET_DIR` names one for all.
    fn run(folder: &TempDir) -> Result<()> {
        let root = folder.path();
        check(root, &workspace(root)?, &root.join("target"))
    }

    /// A workspace in which crate `upper` uses crate `lower`.
    fn two_crates() -> TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path();
        write(root, "Cargo.toml", "[workspace]\nresolver = \"3\"\nmembers = [\"lower\", \"upper\"]\n");
        for (name, uses) in
            [("lower", ""), ("upper", "pagemove-check-lower = { version = \"0.1.0\", path = \"../lower\" }")]
        {
            let manifest = format!("[package]\nname = \"pagemove-check-{name}\"\n{HEAD}[dependencies]\n{uses}\n");
            write(root, &format!("{name}/Cargo.toml"), &manifest);
            write(root, &format!("{name}/README.md"), "One of two.\n");
            write(root, &format!("{name}/LICENSE-MIT"), "MIT\n");
        }
        write(root, "lower/src/lib.rs", "pub fn one() {}\n");
        write(root, "upper/src/lib.rs", "pub fn two() { pagemove_check_lower::one() }\n");
        let locked = cargo().args(["generate-lockfile", "--offline"]).current_dir(root).status().expect("cargo starts");
        assert!(locked.success());
        folder
    }

    #[test]
    fn crates_build_from_their_packages_as_they_are_now() {
        let folder = two_crates();
        run(&folder).expect("both are whole");
        // The same version, and other code: what was unpacked and built before must not count.
        write(folder.path(), "lower/src/lib.rs", "pub fn other() {}\n");
        run(&folder).expect_err("upper uses what is gone");
        write(folder.path(), "upper/src/lib.rs", "pub fn two() { pagemove_check_lower::other() }\n");
        run(&folder).expect("both are whole again");
    }

    #[test]
    fn a_file_from_outside_is_refused() {
        let folder = two_crates();
        write(folder.path(), "outside.md", "words");
        write(folder.path(), "lower/src/lib.rs", "#![doc = include_str!(\"../../outside.md\")]\npub fn one() {}\n");
        let error = run(&folder).expect_err("it isn't in the package");
        assert!(error.to_string().starts_with("the packages don't build by themselves"), "{error}");
        // A link is packaged as what it leads to.
        std::os::unix::fs::symlink("../outside.md", folder.path().join("lower/inside.md")).expect("links");
        write(folder.path(), "lower/src/lib.rs", "#![doc = include_str!(\"../inside.md\")]\npub fn one() {}\n");
        run(&folder).expect("now it is");
    }

    #[test]
    fn what_a_page_would_lack_is_told() {
        let folder = two_crates();
        fs::remove_file(folder.path().join("upper/LICENSE-MIT")).expect("removed");
        fs::remove_file(folder.path().join("lower/README.md")).expect("removed");
        let manifest = fs::read_to_string(folder.path().join("lower/Cargo.toml")).expect("read");
        let bare = manifest.replace("keywords = [\"one\"]\n", "").replace("metadata.docs.rs.features = []\n", "");
        write(folder.path(), "lower/Cargo.toml", &bare);
        let error = run(&folder).expect_err("much is lacking").to_string();
        let expected = "pagemove-check-lower has no README.md; pagemove-check-lower has no keywords; \
                        pagemove-check-lower has no [package.metadata.docs.rs]; pagemove-check-upper has no LICENSE-MIT";
        assert_eq!(error, expected);
    }

    #[test]
    fn a_workspace_without_a_published_crate_is_no_success() {
        let folder = two_crates();
        for name in ["lower", "upper"] {
            let manifest = fs::read_to_string(folder.path().join(name).join("Cargo.toml")).expect("read");
            write(
                folder.path(),
                &format!("{name}/Cargo.toml"),
                &manifest.replace("version = \"0.1.0\"\ne", "publish = false\nversion = \"0.1.0\"\ne"),
            );
        }
        run(&folder).expect_err("nothing to check must not pass for a check");
    }
}
