//! A compiler with which the standard library can be built anew, instrumented.
//!
//! Takes a folder to keep things in; gives the toolchain in use if it has its library's source (rustup's component
//! `rust-src`), or else Debian's compiler for its browsers with the source that belongs to it, unpacked into the folder:
//! nothing is installed. Promises that compiler and source are of the same version, and that Debian's compiler gets
//! the sanitizers' runtime from the toolchain in use only if both build on the same LLVM.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Debian's compiler, its library's source, and what the names of the packages that they need begin with; all else that
/// they need is on every Debian.
const PACKAGES: &[&str] = &["rustc-web", "rust-web-src"];
const PARTS: &[&str] = &["rustc-web", "rust-web-src", "libstd-rust-web", "libllvm"];

/// Where a compiler's system root has the library's source and its own libraries.
const SOURCE: &str = "lib/rustlib/src/rust/library/Cargo.lock";

/// A compiler.
pub(super) struct Toolchain {
    /// What to tell of it.
    pub(super) what: String,
    /// The machine's own target.
    pub(super) host: String,
    /// Another compiler than the one in use, unpacked there.
    unpacked: Option<PathBuf>,
    builds_library: bool,
}

impl Toolchain {
    /// The toolchain in use, with its library as it is.
    pub(super) fn in_use() -> Result<Self> {
        let facts = Facts::of(rustc)?;
        let what = format!("rustc {}, its library as it is", facts.release);
        Ok(Self { what, host: facts.host, unpacked: None, builds_library: false })
    }

    /// One that can build its library.
    pub(super) fn with_source(folder: &Path) -> Result<Self> {
        let facts = Facts::of(rustc)?;
        let mut found = Self { what: String::new(), host: facts.host.clone(), unpacked: None, builds_library: true };
        if facts.sysroot.join(SOURCE).exists() {
            found.what = format!("rustc {} with its library instrumented", facts.release);
            return Ok(found);
        }
        let unpacked = unpack(folder).with_context(|| {
            format!(
                "rustc {} has no source of its library (rustup has it: rustup component add rust-src), and Debian's \
                 compiler, which has one, can't be had",
                facts.release
            )
        })?;
        let other = Facts::of(|| compiler_of(&unpacked))?;
        if other.llvm != facts.llvm {
            bail!(
                "Debian's rustc {} builds on LLVM {}, rustc {} on LLVM {}: the sanitizer's runtime of the one does not \
                 fit the other; install the library's source instead: rustup component add rust-src",
                other.release,
                other.llvm,
                facts.release,
                facts.llvm
            );
        }
        lend_runtime(&facts, &other)?;
        found.what = format!("Debian's rustc {} with its library instrumented", other.release);
        found.unpacked = Some(unpacked);
        Ok(found)
    }

    /// Makes a cargo command use it.
    pub(super) fn use_for(&self, command: &mut Command) {
        if self.builds_library {
            command.arg("-Zbuild-std");
        }
        if let Some(root) = &self.unpacked {
            command.env("RUSTC", root.join("usr/bin/rustc")).env("LD_LIBRARY_PATH", libraries(root));
        }
    }
}

/// What a compiler tells of itself.
struct Facts {
    release: String,
    host: String,
    /// Its major version.
    llvm: String,
    sysroot: PathBuf,
}

impl Facts {
    fn of(compiler: impl Fn() -> Command) -> Result<Self> {
        let sysroot = PathBuf::from(said(compiler().arg("--print=sysroot"))?.trim());
        let words = said(compiler().arg("-vV"))?;
        let field = |name: &str| {
            let line = words.lines().find_map(|line| line.strip_prefix(name));
            line.map(|line| line.trim().to_owned()).with_context(|| format!("rustc -vV names no \"{name}\""))
        };
        let llvm = field("LLVM version:")?.split('.').next().unwrap_or_default().to_owned();
        Ok(Self { release: field("release:")?, host: field("host:")?, llvm, sysroot })
    }
}

fn rustc() -> Command {
    Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
}

fn compiler_of(root: &Path) -> Command {
    let mut command = Command::new(root.join("usr/bin/rustc"));
    command.env("LD_LIBRARY_PATH", libraries(root));
    command
}

fn libraries(root: &Path) -> PathBuf {
    root.join("usr/lib/x86_64-linux-gnu")
}

fn said(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("can't start {}", command.get_program().display()))?;
    if !output.status.success() {
        bail!("{command:?} ended with {}:\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    String::from_utf8(output.stdout).with_context(|| format!("{command:?} said what isn't UTF-8"))
}

/// Downloads Debian's compiler and unpacks it, unless that is done already; gives where.
fn unpack(folder: &Path) -> Result<PathBuf> {
    // To apt a machine without any package, so that it names all that are needed, also those that this one has.
    fs::create_dir_all(folder).with_context(|| format!("can't make {}", folder.display()))?;
    let status = folder.join("no-packages");
    fs::write(&status, "").with_context(|| format!("can't write {}", status.display()))?;
    let mut plan = Command::new("apt-get");
    plan.arg("-o").arg(format!("Dir::State::status={}", status.display()));
    plan.args(["install", "--simulate", "--no-install-recommends"]).args(PACKAGES).env("LC_ALL", "C");
    let wanted = parse_plan(&said(&mut plan).context("apt-get knows no such packages; was `apt-get update` run?")?);
    let Some((_, version)) = wanted.iter().find(|(name, _)| name == PACKAGES[0]) else {
        bail!("apt-get's plan has no {}", PACKAGES[0]);
    };
    let done = folder.join(format!("rust-{}", version.replace(|c: char| !c.is_ascii_alphanumeric() && c != '.', "_")));
    if done.exists() {
        return Ok(done);
    }
    // Whole or not at all: made beside, and renamed.
    let unfinished = folder.join("rust-unfinished");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).with_context(|| format!("can't remove {}", unfinished.display()))?;
    }
    fs::create_dir(&unfinished)?;
    for (name, version) in &wanted {
        println!("sanitize: downloading {name} {version}");
        let mut download = Command::new("apt-get");
        said(download.current_dir(&unfinished).args(["download", "--quiet", &format!("{name}={version}")]))?;
    }
    for entry in fs::read_dir(&unfinished)?.collect::<Result<Vec<_>, _>>()? {
        let package = entry.path();
        said(Command::new("dpkg-deb").arg("--extract").arg(&package).arg(&unfinished))?;
        fs::remove_file(&package)?;
    }
    fs::rename(&unfinished, &done).with_context(|| format!("can't rename to {}", done.display()))?;
    Ok(done)
}

/// Name and version of those in apt's plan (`Inst NAME (VERSION ...`) that make up the compiler.
fn parse_plan(plan: &str) -> Vec<(String, String)> {
    let lines = plan.lines().filter_map(|line| line.strip_prefix("Inst "));
    let all = lines.filter_map(|line| {
        let mut words = line.split(' ');
        Some((words.next()?.to_owned(), words.find_map(|word| word.strip_prefix('('))?.to_owned()))
    });
    all.filter(|(name, _)| PARTS.iter().any(|part| name.starts_with(part))).collect()
}

/// Puts the sanitizers' runtime of one compiler where another looks for its own.
fn lend_runtime(from: &Facts, to: &Facts) -> Result<()> {
    let folder = |facts: &Facts| facts.sysroot.join("lib/rustlib").join(&facts.host).join("lib");
    let (from, to) = (folder(from), folder(to));
    let mut lent = 0;
    for entry in fs::read_dir(&from).with_context(|| format!("can't read {}", from.display()))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // librustc-CHANNEL_rt.SANITIZER.a; Debian's compiler is of the channel `stable`.
        if let Some((_, sanitizer)) = name.split_once("_rt.").filter(|_| name.starts_with("librustc-")) {
            fs::copy(entry.path(), to.join(format!("librustc-stable_rt.{sanitizer}")))?;
            lent += 1;
        }
    }
    if lent == 0 {
        bail!("the toolchain in use has no sanitizers (no librustc-*_rt.*.a in {})", from.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_apts_plan_only_the_compiler_is_taken() {
        let plan = "Reading package lists...\nInst libc6 (2.36-9 Debian:12 [amd64])\n\
                    Inst libllvm22 [1:22.0] (1:22.1.8-1~deb12u1 Debian:12 [amd64])\nInst rustc-web (1.96.0+dfsg1-1 x)\n\
                    Conf rustc-web (1.96.0+dfsg1-1 x)\n";
        let name = |name: &str, version: &str| (name.to_owned(), version.to_owned());
        assert_eq!(parse_plan(plan), [name("libllvm22", "1:22.1.8-1~deb12u1"), name("rustc-web", "1.96.0+dfsg1-1")]);
    }
}
