//! Programs that need no library and no loader: what is handed out, and what runs in guests.
//!
//! Takes the workspace's folder, a package and its program; gives where the program is. Promises that it names no folder of this machine.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use cargo_metadata::MetadataCommand;

use crate::cargo::cargo;

/// What runs here runs there.
pub(crate) const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Not named `dist`: cargo would keep its own files in `target/dist`.
pub(crate) const PROFILE: &str = "static";
/// Between flags: a folder's name may have spaces.
const SEPARATOR: &str = "\u{1f}";

/// Builds a program; gives where it is.
///
/// # Errors
/// When it can't be built; the compiler has said why.
pub(crate) fn build(root: &Path, package: &str, program: &str) -> Result<PathBuf> {
    let metadata = MetadataCommand::new().manifest_path(root.join("Cargo.toml")).no_deps().exec();
    let metadata = metadata.context("cargo can't read the workspace")?;
    let mut flags = vec!["-Ctarget-feature=+crt-static".to_owned()];
    flags.extend(private(root).into_iter().map(|(folder, stands)| format!("--remap-path-prefix={folder}={stands}")));
    let mut command = cargo();
    // With a target, build scripts and procedural macros don't get the flags: a static macro couldn't be loaded.
    command.args([
        "build",
        "--quiet",
        "--package",
        package,
        "--bin",
        program,
        "--profile",
        PROFILE,
        "--target",
        TARGET,
    ]);
    let status = command.env("CARGO_ENCODED_RUSTFLAGS", flags.join(SEPARATOR)).current_dir(root).status();
    let status = status.context("can't start cargo")?;
    ensure!(status.success(), "{program} can't be built without libraries ({status}); the compiler's words are above");
    Ok(folder(metadata.target_directory.as_std_path()).join(program))
}

/// Gives where cargo puts such programs, in the folder of all that it builds.
pub(crate) fn folder(target: &Path) -> PathBuf {
    target.join(TARGET).join(PROFILE)
}

/// Folders of this machine, with what stands for them: panics name files of the source, and of cargo's registry.
pub(crate) fn private(root: &Path) -> Vec<(String, &'static str)> {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let cargos = std::env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(home.as_ref()?.join(".cargo")));
    let folders = [(Some(root.to_owned()), "pagemove"), (cargos, "cargo")];
    // A folder such as `/` is in any text.
    let named = folders.into_iter().filter_map(|(folder, stands)| Some((folder?.to_str()?.to_owned(), stands)));
    named.filter(|(folder, _)| folder.len() > 3).collect()
}
