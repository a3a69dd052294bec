//! Which kernels there are.
//!
//! Takes what a person asks for (`6.1`, `6.12`, `newest`); gives the newest stock kernel of that series in Debian's
//! archive, and which packages have its image and its headers. Promises to name no version: all are discovered.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use anyhow::{Context, Result, bail};

use super::apt::{Apt, Version, newer};
use super::cache::{Cache, Look};
use crate::bad_input::BadInput;
use crate::command::run;

/// The kernel meant for virtual machines: few modules, all that QEMU offers built in.
const IMAGE: &str = "linux-image-cloud-amd64";
const HEADERS: &str = "linux-headers-cloud-amd64";

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    Newest,
    /// A series, such as `6.12`.
    Series(String),
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_series = text.split('.').count() == 2
            && text.split('.').all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()));
        match text {
            "newest" => Ok(Self::Newest),
            _ if is_series => Ok(Self::Series(text.to_owned())),
            _ => Err("expected `newest` or a series such as `6.1` or `6.12`".to_owned()),
        }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Newest => f.write_str("newest"),
            Self::Series(series) => f.write_str(series),
        }
    }
}

impl Wanted {
    fn takes(&self, version: &str) -> bool {
        match self {
            Self::Newest => true,
            Self::Series(series) => version.strip_prefix(series.as_str()).is_some_and(|rest| rest.starts_with('.')),
        }
    }
}

/// A stock kernel.
pub(super) struct Kernel<'a> {
    /// The release of Debian that has it.
    pub(super) apt: &'a Apt,
    /// Debian's version of its packages.
    pub(super) version: String,
}

impl<'a> Kernel<'a> {
    /// Finds the newest one of what is wanted.
    ///
    /// # Errors
    /// When no release has such a kernel; the error tells which there are.
    pub(super) fn find(apts: &'a [Apt], wanted: &Wanted) -> Result<Self> {
        let mut best: Option<Self> = None;
        let mut others = Vec::new();
        for apt in apts {
            let headers = apt.versions(HEADERS)?;
            for Version { version, .. } in apt.versions(IMAGE)? {
                // Headers arrive in the archive with the image, or a little later.
                if !wanted.takes(&version) || !headers.iter().any(|there| there.version == version) {
                    others.push(format!("{version} ({})", apt.release));
                } else if best.as_ref().map_or(Ok(true), |best| newer(&version, &best.version))? {
                    best = Some(Self { apt, version });
                }
            }
        }
        match best {
            Some(kernel) => Ok(kernel),
            None => bail!(BadInput(format!("Debian has no kernel {wanted} now; there is {}", others.join(", ")))),
        }
    }

    /// A name for folders: the version, without what only Debian counts.
    pub(super) fn name(&self) -> String {
        self.version.chars().map(|c| if c.is_ascii_alphanumeric() || ".-".contains(c) { c } else { '_' }).collect()
    }

    /// The packages that a module is built with.
    pub(super) fn header_packages(&self) -> Result<Vec<Version>> {
        self.apt.same_version(&Version { package: HEADERS.to_owned(), version: self.version.clone() })
    }

    /// Gives the kernel's image as a file in the cache.
    pub(super) fn image(&self, cache: &Cache) -> Result<PathBuf> {
        let folder =
            cache.folder(&format!("images/{}", self.name()), Look::Contents, |new| self.unpack_image(cache, new))?;
        Ok(folder.join("vmlinuz"))
    }

    fn unpack_image(&self, cache: &Cache, folder: &Path) -> Result<()> {
        let from = Version { package: IMAGE.to_owned(), version: self.version.clone() };
        let packages = self.apt.same_version(&from)?;
        // Newer kernels come in several packages; the one with the image isn't the one with the modules.
        let (modules, rest): (Vec<_>, Vec<_>) =
            packages.iter().skip(1).partition(|package| package.package.contains("-modules-"));
        for package in rest.into_iter().chain(modules) {
            let file = self.apt.fetch(cache, package)?;
            if let Some(name) = image_in(&file)? {
                let unpacked = folder.join("tree");
                run(Command::new("dpkg-deb").arg("--extract").arg(&file).arg(&unpacked))?;
                fs::rename(unpacked.join(name), folder.join("vmlinuz"))?;
                super::cache::remove(&unpacked)?;
                fs::remove_file(&file).context("can't remove a package that is unpacked")?;
                return Ok(());
            }
        }
        bail!("none of the packages of {IMAGE} {} has a file vmlinuz", self.version)
    }
}

/// The name of the kernel's image in a package.
fn image_in(package: &Path) -> Result<Option<String>> {
    let list = run(Command::new("dpkg-deb").arg("--contents").arg(package))?;
    let names = list.lines().filter_map(|line| line.split_whitespace().nth(5));
    let is_image =
        |name: &&str| name.rsplit('/').next().is_some_and(|last| last == "vmlinuz" || last.starts_with("vmlinuz-"));
    Ok(names.filter(is_image).map(|name| name.trim_start_matches("./").to_owned()).next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_not_the_start_of_another() {
        let wanted: Wanted = "6.1".parse().expect("a series");
        assert!(wanted.takes("6.1.192-2") && !wanted.takes("6.12.117-1"));
        assert!(Wanted::Newest.takes("7.3.4-1~bpo13+1"));
        for wrong in ["", "6", "6.1.2", "latest", "6.", "6.x"] {
            wrong.parse::<Wanted>().expect_err(wrong);
        }
    }
}
