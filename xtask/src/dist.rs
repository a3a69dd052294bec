//! Builds what is handed out: the command as one static binary with all that stands beside it, as an archive and as a Debian package.
//!
//! Takes the workspace's folder; gives `target/dist/pagemove-VERSION-x86_64-linux.tar.gz`, its SHA-256 beside it, and
//! the Debian package where cargo-deb is installed. Promises that the binary needs no library and no loader and names no folder of
//! this machine, that what came out of the archive was run, and that the same commit, built again, gives the same archive.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use cargo_metadata::MetadataCommand;

use crate::cargo::cargo;
use crate::command::{find, run as succeed};
use crate::static_program::{self, PROFILE, TARGET};

mod elf;

const PACKAGE: &str = "pagemove-cli";
/// Files of the command's crate that go into the archive, and their folder there.
const FILES: &[(&str, &str)] = &[
    ("README.md", ""),
    ("LICENSE-MIT", ""),
    ("LICENSE-APACHE", ""),
    ("docs/survey.md", "docs"),
    ("docs/survey.schema.json", "docs"),
    ("docs/grafana-dashboard.json", "docs"),
    ("packaging/systemd/pagemove-survey.service", "systemd"),
    ("packaging/systemd/pagemove-survey.timer", "systemd"),
];

/// Where things are.
struct Places {
    root: PathBuf,
    /// The command's crate.
    home: PathBuf,
    /// Where cargo puts the binary.
    built: PathBuf,
    /// Where the archive and the package go.
    dist: PathBuf,
    version: String,
}

/// Builds it all.
///
/// # Errors
/// When something can't be built, or isn't what is promised.
pub(crate) fn run(root: &Path) -> Result<()> {
    let places = Places::of(root)?;
    let date = commit_date(root)?;
    let binary = static_program::build(root, PACKAGE, "pagemove")?;
    let bytes = fs::read(&binary).with_context(|| format!("can't read {}", binary.display()))?;
    elf::check_static(&bytes).with_context(|| format!("{} isn't static", binary.display()))?;
    check_names(&bytes, &static_program::private(root))?;

    let assets = places.built.join("assets");
    remove(&assets)?;
    succeed(Command::new(&binary).arg("assets").arg(&assets).args(["--date", &date]))?;
    remove(&places.dist)?;
    fs::create_dir_all(&places.dist).with_context(|| format!("can't make {}", places.dist.display()))?;
    let archive = archive(&places, &date)?;
    try_archive(&archive, &places.version)?;
    println!("dist: {} ({} KiB, the binary {} KiB)", archive.display(), length(&archive)? >> 10, bytes.len() >> 10);
    match debian_package(&places)? {
        Some(package) => println!("dist: {} ({} KiB)", package.display(), length(&package)? >> 10),
        None => println!("NOT BUILT: the Debian package, which takes cargo-deb; install it: cargo install cargo-deb"),
    }
    Ok(())
}

impl Places {
    fn of(root: &Path) -> Result<Self> {
        let metadata = MetadataCommand::new().manifest_path(root.join("Cargo.toml")).no_deps().exec();
        let metadata = metadata.context("cargo can't read the workspace")?;
        let packages = metadata.workspace_packages();
        let package =
            packages.iter().find(|package| package.name.as_str() == PACKAGE).context("there is no command")?;
        let home = package.manifest_path.parent().context("a manifest stands in no folder")?;
        let target = metadata.target_directory.as_std_path();
        Ok(Self {
            root: root.to_owned(),
            home: home.as_std_path().to_owned(),
            built: static_program::folder(target),
            dist: target.join("dist"),
            version: package.version.to_string(),
        })
    }
}

/// The day of the last commit: that of the man pages and of the archive's files.
fn commit_date(root: &Path) -> Result<String> {
    let safe = format!("safe.directory={}", root.display());
    let mut git = Command::new("git");
    git.args(["-c", &safe, "log", "-1", "--format=%cs"]).current_dir(root);
    Ok(succeed(&mut git).context("the day of the last commit takes a clone")?.trim().to_owned())
}

/// Refuses a binary with one of these folders in it.
fn check_names(binary: &[u8], folders: &[(String, &str)]) -> Result<()> {
    for (folder, _) in folders {
        let is_named = binary.windows(folder.len()).any(|part| part == folder.as_bytes());
        ensure!(!is_named, "the binary names {folder}, a folder of this machine");
    }
    Ok(())
}

/// Puts the archive together; gives its path.
fn archive(places: &Places, date: &str) -> Result<PathBuf> {
    let name = format!("pagemove-{}-x86_64-linux", places.version);
    let stage = tempfile::tempdir_in(&places.dist).context("can't make a folder")?;
    let folder = stage.path().join(&name);
    let mut files = vec![(places.built.join("pagemove"), folder.clone())];
    files.extend(FILES.iter().map(|(file, under)| (places.home.join(file), folder.join(under))));
    for under in ["man", "completions"] {
        let made = listed(&places.built.join("assets").join(under))?;
        files.extend(made.into_iter().map(|file| (file, folder.join(under))));
    }
    for (file, to) in files {
        let to = to.join(file.file_name().context("a file has no name")?);
        let copied = fs::create_dir_all(to.parent().unwrap_or(&folder)).and_then(|()| fs::copy(&file, &to));
        copied.with_context(|| format!("can't copy {} to {}", file.display(), to.display()))?;
    }

    let archive = places.dist.join(format!("{name}.tar.gz"));
    let mut tar = Command::new("tar");
    // Nothing in it of who made it, when, and in which order the disk lists files.
    tar.args(["--create", "--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--mode=u=rwX,go=rX"]);
    tar.arg(format!("--mtime={date} 00:00Z")).args(["--use-compress-program", "gzip -9n", "--file"]).arg(&archive);
    succeed(tar.arg("--directory").arg(stage.path()).arg(&name))?;

    let mut sum = Command::new("sha256sum");
    // With the file's bare name, so that `sha256sum --check` works beside it anywhere.
    let sum = succeed(sum.arg(format!("{name}.tar.gz")).current_dir(&places.dist))?;
    fs::write(places.dist.join(format!("{name}.tar.gz.sha256")), sum).context("can't write the sum")?;
    Ok(archive)
}

/// Unpacks the archive, and runs what is in it.
fn try_archive(archive: &Path, version: &str) -> Result<()> {
    let folder = tempfile::tempdir().context("can't make a folder")?;
    succeed(Command::new("tar").arg("--extract").arg("--file").arg(archive).arg("--directory").arg(folder.path()))?;
    let unpacked = folder.path().join(format!("pagemove-{version}-x86_64-linux"));
    let said = succeed(Command::new(unpacked.join("pagemove")).arg("--version").env_clear())?;
    ensure!(said.trim() == format!("pagemove {version}"), "the unpacked binary says it is {said:?}");
    for file in ["man/pagemove-survey.1", "completions/pagemove.bash", "systemd/pagemove-survey.timer", "LICENSE-MIT"] {
        ensure!(length(&unpacked.join(file))? > 0, "{file} is empty in the archive");
    }
    Ok(())
}

/// Builds the Debian package of what is built already; `None` where cargo-deb isn't installed.
fn debian_package(places: &Places) -> Result<Option<PathBuf>> {
    if find("cargo-deb").is_none() {
        return Ok(None);
    }
    // Debian's are compressed; cargo-deb leaves alone what is built.
    let mut gzip = Command::new("gzip");
    gzip.args(["-9n", "--keep"]).args(listed(&places.built.join("assets/man"))?);
    succeed(&mut gzip)?;
    let mut command = cargo();
    command.args(["deb", "--package", PACKAGE, "--no-build", "--no-strip", "--target", TARGET, "--profile", PROFILE]);
    succeed(command.arg("--output").arg(&places.dist).current_dir(&places.root))?;
    match listed(&places.dist)?.into_iter().find(|file| file.extension().is_some_and(|extension| extension == "deb")) {
        Some(package) => Ok(Some(package)),
        None => bail!("cargo-deb ended well, and there is no package in {}", places.dist.display()),
    }
}

fn listed(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    entries.with_context(|| format!("can't list {}", folder.display()))
}

fn remove(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("can't remove {}", folder.display()))?;
    }
    Ok(())
}

fn length(file: &Path) -> Result<u64> {
    Ok(fs::metadata(file).with_context(|| format!("{} isn't there", file.display()))?.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_that_names_a_folder_is_refused() {
        let folders = [("/home/somebody/pagemove".to_owned(), "pagemove")];
        check_names(b"\x7fELF pagemove/src/lib.rs", &folders).expect("names none");
        let error = check_names(b"\x7fELF /home/somebody/pagemove/src/lib.rs", &folders).expect_err("names it");
        assert!(error.to_string().contains("/home/somebody/pagemove"), "{error}");
    }

    #[test]
    fn files_of_the_archive_are_there() {
        let home = crate::root().join("crates").join(PACKAGE);
        for (file, _) in FILES {
            assert!(home.join(file).is_file(), "{file}");
        }
    }

    /// An archive whose binary says another version than the archive's name, and one with a file less.
    #[test]
    fn an_archive_is_run_before_it_is_handed_out() {
        let folder = tempfile::tempdir().expect("a folder");
        let inside = folder.path().join("pagemove-7.0.0-x86_64-linux");
        let write = |file: &str, text: &str| {
            let file = inside.join(file);
            fs::create_dir_all(file.parent().expect("a parent")).expect("makes");
            fs::write(&file, text).expect("writes");
            succeed(Command::new("chmod").arg("755").arg(file)).expect("marks");
        };
        let archive = folder.path().join("a.tar.gz");
        let tried = || {
            let mut tar = Command::new("tar");
            tar.args(["--create", "--gzip", "--file"]).arg(&archive).arg("--directory").arg(folder.path());
            succeed(tar.arg("pagemove-7.0.0-x86_64-linux")).expect("packs");
            try_archive(&archive, "7.0.0")
        };
        for file in
            ["man/pagemove-survey.1", "completions/pagemove.bash", "systemd/pagemove-survey.timer", "LICENSE-MIT"]
        {
            write(file, "text");
        }
        write("pagemove", "#!/bin/sh\necho pagemove 7.0.0\n");
        tried().expect("is whole");
        write("pagemove", "#!/bin/sh\necho pagemove 6.0.0\n");
        assert!(tried().expect_err("another version").to_string().contains("6.0.0"));
        write("pagemove", "#!/bin/sh\necho pagemove 7.0.0\n");
        fs::remove_file(inside.join("LICENSE-MIT")).expect("removes");
        assert!(tried().expect_err("a file less").to_string().contains("LICENSE-MIT"));
    }
}
