//! Small trees of Debian, to build in: a compiler as a kernel's own makers used it, whatever machine this is.
//!
//! Takes packages; gives a folder with them and all that they need, and commands that run in it. Promises to run no
//! script of a package, and that what is mounted for a command goes with it. A person who isn't root needs user
//! namespaces, which most machines allow.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::apt::{Apt, Version};
use super::cache::{self, Cache, Look, hash};
use crate::command::{bound, cant_start, outcome, run};

/// What every tree has: a shell, and what a Makefile may call.
const BASE: &[&str] = &["dash", "bash", "coreutils", "sed", "grep", "findutils", "mawk", "diffutils", "perl-base"];

/// Mounts what programs expect and the caller's folder, and goes into the tree.
const ENTER: &str = "mount --rbind /dev \"$1/dev\" && mount --rbind /proc \"$1/proc\" && mount --bind \"$2\" \"$1/mnt\" \
                     && tree=$1 && shift 2 && exec chroot \"$tree\" /usr/bin/env -C /mnt \"$@\"";

/// A tree.
pub(super) struct Tree {
    root: PathBuf,
}

impl Tree {
    /// Gives the tree `name`, made of `packages`, `names` in any version, and what they need.
    pub(super) fn get(cache: &Cache, apt: &Apt, name: &str, packages: &[Version], names: &[&str]) -> Result<Self> {
        let key = hash(&(BASE, names)) as u32;
        let root = cache.folder(&format!("trees/{name}-{key:x}"), Look::Sizes, |new| {
            let archives = cache.path(format!("packages/for-{name}"))?;
            eprintln!("linux: fetching a tree of Debian {} for {name}", apt.release);
            let wanted: Vec<&str> = BASE.iter().chain(names).copied().collect();
            let files = apt.fetch_all(&archives, packages, &wanted)?;
            eprintln!("linux: unpacking {} packages", files.len());
            unpack(new, &files)?;
            cache::remove(&archives)
        })?;
        Ok(Self { root })
    }

    /// A folder of the tree, seen from outside.
    pub(super) fn path(&self, inside: &str) -> PathBuf {
        self.root.join(inside.trim_start_matches('/'))
    }

    /// A command that runs in the tree, with `folder` as the folder it stands in (inside, that's `/mnt`).
    pub(super) fn command(&self, folder: &Path, program: &str) -> Result<Command> {
        let mut command = apart()?;
        command.args(["sh", "-c", ENTER, "enter"]).arg(&self.root).arg(folder).arg(program);
        command.env_clear().envs([("PATH", "/usr/bin:/usr/sbin:/bin:/sbin"), ("LC_ALL", "C"), ("HOME", "/")]);
        Ok(command)
    }
}

/// A command apart from the machine: with mounts of its own, and in a group of processes that ends as one.
fn apart() -> Result<Command> {
    let mut command = bound("unshare")?;
    command.args(["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"]);
    if run(Command::new("id").arg("-u"))?.trim() != "0" {
        command.arg("--map-root-user");
    }
    Ok(command)
}

/// Sees whether trees can be entered here.
///
/// # Errors
/// When not: what is missing, and what to do.
pub(super) fn check() -> Result<()> {
    let tried = outcome(apart()?.arg("true"))?;
    if !tried.status.success() {
        bail!(
            "can't make a mount of one's own ({}); without root this needs user namespaces: as root, set the sysctl \
             kernel.unprivileged_userns_clone to 1, kernel.apparmor_restrict_unprivileged_userns to 0 and \
             user.max_user_namespaces above 0, as far as this kernel has them",
            String::from_utf8_lossy(&tried.stderr).trim()
        );
    }
    Ok(())
}

/// Unpacks packages over each other.
fn unpack(root: &Path, files: &[PathBuf]) -> Result<()> {
    for folder in ["usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "dev", "proc", "mnt", "tmp"] {
        fs::create_dir_all(root.join(folder))?;
    }
    for folder in ["bin", "sbin", "lib", "lib64"] {
        symlink(format!("usr/{folder}"), root.join(folder))?;
    }
    for file in files {
        let mut open = Command::new("dpkg-deb");
        open.arg("--fsys-tarfile").arg(file).stdout(Stdio::piped());
        let mut open_running = open.spawn().map_err(|error| cant_start(&open, error))?;
        let archive = open_running.stdout.take().context("no pipe from dpkg-deb")?;
        run(Command::new("tar")
            .args([
                "--extract",
                "--no-same-owner",
                "--keep-directory-symlink",
                "--exclude=./usr/share/doc",
                "--directory",
            ])
            .arg(root)
            .stdin(archive))?;
        if !open_running.wait()?.success() {
            bail!("dpkg-deb can't read {}; it may be damaged: remove it, and run this again", file.display());
        }
    }
    // What the packages' scripts would have linked.
    for (name, target) in [("awk", "mawk"), ("sh", "dash"), ("which", "which.debianutils")] {
        let link = root.join("usr/bin").join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(target, link)?;
        }
    }
    Ok(())
}
