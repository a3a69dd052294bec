//! Builds the kernel and its programs with the toolchain that is there.
//!
//! Takes the workspace; gives two ELF files. They are built for the host's own target, without its library, start files and red zone: so a
//! stable toolchain needs nothing more. (For a kernel of your own `x86_64-unknown-none` is the natural target.)

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use cargo_metadata::MetadataCommand;

use crate::cargo::cargo;

/// The folder of the kernel's own workspace.
const FOLDER: &str = "examples/kernel";

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// For both. Frame pointers, so that a panic can tell its callers.
const FLAGS: &str = "-Cno-redzone=yes -Cforce-frame-pointers=yes -Crelocation-model=static -Clink-arg=-nostartfiles \
                     -Clink-arg=-nostdlib -Clink-arg=-static -Clink-arg=-no-pie -Clink-arg=-Wl,--build-id=none";

/// What was built.
pub(super) struct Built {
    pub(super) kernel: PathBuf,
    pub(super) programs: PathBuf,
}

/// Which build.
#[derive(Clone, Copy)]
pub(super) enum Profile {
    /// With all assertions.
    Checked,
    /// For figures.
    Fast,
}

/// Builds both.
///
/// # Errors
/// When one doesn't compile.
pub(super) fn build(root: &Path, profile: Profile) -> Result<Built> {
    let profile = match profile {
        Profile::Checked => "release",
        Profile::Fast => "fast",
    };
    if !cfg!(all(target_arch = "x86_64", target_os = "linux")) {
        bail!("the example kernel is built on x86-64 Linux only");
    }
    let metadata = MetadataCommand::new().manifest_path(root.join("Cargo.toml")).no_deps().exec()?;
    let target = metadata.target_directory.as_std_path();
    let one = |package: &str, flags: &str| {
        let script = root.join(FOLDER).join(package).join("link.ld");
        // Each has flags, and so a folder, of its own.
        let folder = target.join("kernel").join(package);
        let status = cargo()
            .args(["build", "--quiet", "--profile", profile, "--target", TARGET, "--package", package, "--target-dir"])
            .arg(&folder)
            .current_dir(root.join(FOLDER))
            .env("RUSTFLAGS", format!("{FLAGS} {flags} -Clink-arg=-Wl,-T{}", script.display()))
            .status()
            .context("can't start cargo")?;
        if !status.success() {
            bail!("{FOLDER}/{package} can't be built; the compiler's words are above");
        }
        Ok(folder.join(TARGET).join(profile).join(package))
    };
    // The kernel is linked at -2 GiB.
    Ok(Built { kernel: one("kernel", "-Ccode-model=kernel")?, programs: one("user", "")? })
}
