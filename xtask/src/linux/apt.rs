//! Debian's archive, read through an apt of our own.
//!
//! Takes the archives that the machine's apt knows; gives, for each of Debian's releases in [`RELEASES`], the versions
//! of a package, what it depends on, and files of a package with all that it needs. Promises to leave the system's apt
//! untouched: the configuration, source list, package lists, status and files are the cache's own. Needs no root.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::cache::Cache;
use crate::command::{bound, outcome, run};
use crate::no_archive::NoArchive;

/// The releases that are asked, oldest first; each with its updates, security fixes and backports.
pub(super) const RELEASES: &[&str] = &["bookworm", "trixie"];

/// Package lists older than this are fetched anew.
const LISTS_LAST: Duration = Duration::from_secs(24 * 60 * 60);

/// What apt says of an archive that it doesn't reach.
const UNREACHABLE: &[&str] = &[
    "Could not resolve",
    "Temporary failure resolving",
    "Could not connect",
    "Unable to connect",
    "Cannot initiate the connection",
    "connection timed out",
    "Connection timed out",
    "Connection failed",
    "Network is unreachable",
];

/// One release's packages.
pub(super) struct Apt {
    /// Debian's name of the release.
    pub(super) release: &'static str,
    folder: PathBuf,
}

/// A package in one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) package: String,
    pub(super) version: String,
}

impl Version {
    /// As apt's commands want it.
    fn argument(&self) -> String {
        format!("{}={}", self.package, self.version)
    }
}

/// Where the machine's apt gets Debian from.
struct Archives {
    main: String,
    security: String,
}

impl Apt {
    /// Opens every release, fetching package lists that are missing or old. Old ones will do if they can't be fetched.
    ///
    /// # Errors
    /// [`NoArchive`] among them.
    pub(super) fn open_all(cache: &Cache) -> Result<Vec<Self>> {
        let mut archives = None;
        let mut all = Vec::new();
        for &release in RELEASES {
            let apt = Self { release, folder: cache.path(format!("apt/{release}"))? };
            if !apt.lists_are_fresh() {
                let updated = cache.alone(|| {
                    if apt.lists_are_fresh() {
                        return Ok(());
                    }
                    if archives.is_none() {
                        archives = Some(find_archives()?);
                    }
                    let archives = archives.as_ref().context("no archives")?;
                    eprintln!("linux: fetching the package lists of Debian {release}");
                    apt.update(archives)
                });
                match updated {
                    Err(error) if error.is::<NoArchive>() && apt.stamp().exists() => {
                        eprintln!("linux: going on with older package lists, since {error:#}");
                    }
                    updated => updated?,
                }
            }
            all.push(apt);
        }
        Ok(all)
    }

    fn stamp(&self) -> PathBuf {
        self.folder.join("fetched")
    }

    fn lists_are_fresh(&self) -> bool {
        let age =
            fs::metadata(self.stamp()).and_then(|stamp| stamp.modified()).ok().and_then(|time| time.elapsed().ok());
        age.is_some_and(|age| age < LISTS_LAST)
    }

    fn update(&self, archives: &Archives) -> Result<()> {
        for folder in ["lists/partial", "cache/archives/partial", "state"] {
            fs::create_dir_all(self.folder.join(folder))
                .with_context(|| format!("can't make {folder} in {}", self.folder.display()))?;
        }
        let write = |name: &str, text: &str| {
            let file = self.folder.join(name);
            fs::write(&file, text).with_context(|| format!("can't write {}", file.display()))
        };
        let release = self.release;
        let keys = "arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg";
        let mut sources = String::new();
        for (archive, suite) in [
            (&archives.main, release.to_owned()),
            (&archives.main, format!("{release}-updates")),
            (&archives.main, format!("{release}-backports")),
            (&archives.security, format!("{release}-security")),
        ] {
            sources += &format!("deb [{keys}] {archive} {suite} main\n");
        }
        write("sources.list", &sources)?;
        // Nothing is installed here: to apt, each of our trees is an empty machine.
        write("state/status", "")?;
        let own = self.folder.display();
        write(
            "apt.conf",
            &format!(
                "Dir::Etc::sourcelist \"{own}/sources.list\";\nDir::Etc::sourceparts \"/dev/null\";\n\
                 Dir::Etc::preferences \"/dev/null\";\nDir::Etc::preferencesparts \"/dev/null\";\n\
                 Dir::State \"{own}/state\";\nDir::State::status \"{own}/state/status\";\n\
                 Dir::State::lists \"{own}/lists\";\nDir::Cache \"{own}/cache\";\n\
                 APT::Architecture \"amd64\";\nAPT::Architectures {{ \"amd64\"; }};\n\
                 APT::Install-Recommends \"false\";\nAPT::Sandbox::User \"root\";\n\
                 Acquire::Languages \"none\";\nAcquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n\
                 Acquire::Retries \"3\";\n"
            ),
        )?;
        let what = format!("can't fetch the package lists of Debian {release}");
        self.get(self.command("apt-get")?.args(["update", "--quiet", "--error-on=any"]), &what)?;
        fs::write(self.stamp(), "").context("can't note that the lists are fetched")
    }

    fn command(&self, program: &str) -> Result<Command> {
        let mut command = bound(program)?;
        command
            .env("APT_CONFIG", self.folder.join("apt.conf"))
            .env("LC_ALL", "C")
            .env("DEBIAN_FRONTEND", "noninteractive");
        Ok(command)
    }

    /// Runs an apt-get that gets things; says in one line why it couldn't.
    fn get(&self, command: &mut Command, what: &str) -> Result<()> {
        let output = outcome(command)?;
        if output.status.success() {
            return Ok(());
        }
        let words = [String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)].concat();
        let complaint = format!("{what}: {}", complaints(&words));
        if UNREACHABLE.iter().any(|sign| words.contains(sign)) {
            bail!(NoArchive(complaint));
        }
        if words.contains("404") {
            super::cache::remove(&self.stamp())?;
            bail!(
                "{complaint}; the archive has other versions by now: run this again, which fetches new package lists"
            );
        }
        bail!(complaint)
    }

    /// All versions of a package, in no order.
    pub(super) fn versions(&self, package: &str) -> Result<Vec<Version>> {
        let lines = run(self.command("apt-cache")?.args(["madison", package]))?;
        Ok(parse_madison(&lines))
    }

    /// What a package in this version depends on in exactly the same version, itself first, and theirs in turn; and the
    /// names that the last two rounds found without a version.
    pub(super) fn same_version(&self, from: &Version) -> Result<Vec<Version>> {
        let mut found = vec![from.clone()];
        let mut at = 0;
        while at < found.len() {
            let text = run(self.command("apt-cache")?.args(["show", &found[at].argument()]))?;
            for name in parse_exact_depends(&text, &from.version) {
                if !found.iter().any(|version| version.package == name) {
                    found.push(Version { package: name, version: from.version.clone() });
                }
            }
            at += 1;
        }
        Ok(found)
    }

    /// Fetches one package; gives its file.
    pub(super) fn fetch(&self, cache: &Cache, package: &Version) -> Result<PathBuf> {
        let folder = cache.path(format!("packages/{}", self.release))?;
        fs::create_dir_all(&folder)?;
        let is_it = |name: &str| is_file_of(name, &package.package, &package.version);
        if let Some(there) = find_file(&folder, is_it)? {
            return Ok(there);
        }
        eprintln!("linux: fetching {} {}", package.package, package.version);
        // apt-get writes to where it stands, not atomically; so it stands in a folder for unfinished things.
        let unfinished = folder.join(".new");
        super::cache::remove(&unfinished)?;
        fs::create_dir(&unfinished)?;
        let what = format!("can't fetch {}", package.argument());
        self.get(
            self.command("apt-get")?.current_dir(&unfinished).args(["download", "--quiet", &package.argument()]),
            &what,
        )?;
        let Some(file) = find_file(&unfinished, is_it)? else {
            bail!("apt-get downloaded {}, but there is no file of that name", package.argument());
        };
        let done = folder.join(file.file_name().context("a file without a name")?);
        fs::rename(file, &done)?;
        Ok(done)
    }

    /// Fetches packages with all that they need on an empty machine; gives the files. Resumes where a break left it.
    pub(super) fn fetch_all(&self, folder: &Path, packages: &[Version], names: &[&str]) -> Result<Vec<PathBuf>> {
        fs::create_dir_all(folder.join("partial"))?;
        let mut command = self.command("apt-get")?;
        command.arg("-o").arg(format!("Dir::Cache::archives={}", folder.display()));
        command.args(["install", "--quiet", "--yes", "--no-install-recommends"]);
        command.args(packages.iter().map(Version::argument)).args(names);
        let mut plan = Command::new(command.get_program());
        plan.args(command.get_args()).arg("--simulate");
        plan.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let plan = parse_plan(&run(&mut plan)?);
        self.get(command.arg("--download-only"), "can't fetch packages")?;
        let mut files = Vec::new();
        for version in plan {
            let file = find_file(folder, |name| is_file_of(name, &version.package, &version.version))?;
            files.push(file.with_context(|| format!("apt-get has not downloaded {}", version.argument()))?);
        }
        Ok(files)
    }
}

/// Asks the machine's own apt where Debian's archives are.
fn find_archives() -> Result<Archives> {
    let format = "$(LABEL)\t$(ORIGIN)\t$(REPO_URI)";
    let lines = run(bound("apt-get")?.args(["indextargets", "--format", format, "Created-By: Packages"]))?;
    let find = |label: &str| {
        lines.lines().find_map(|line| {
            let mut fields = line.split('\t');
            (fields.next() == Some(label) && fields.next() == Some("Debian")).then(|| fields.next())?.map(str::to_owned)
        })
    };
    let (main, security) = match find("Debian") {
        Some(main) => (Some(main), find("Debian-Security")),
        // Where `apt-get update` was never run, apt doesn't know what its sources are.
        None => {
            let uris = run(bound("apt-get")?.args(["update", "--print-uris"]))?;
            (parse_uris(&uris, "debian"), parse_uris(&uris, "debian-security"))
        }
    };
    let Some(main) = main else {
        bail!(NoArchive(
            "apt on this machine knows no Debian archive: its package sources need a line for Debian, such as the file \
             that Debian's installer writes"
                .to_owned()
        ));
    };
    // Machines without the security archive as such have it beside the main one.
    let security = security.unwrap_or_else(|| format!("{}-security/", main.trim_end_matches('/')));
    Ok(Archives { main, security })
}

/// Finds the archive in a folder of this name in what `apt-get update --print-uris` says.
fn parse_uris(lines: &str, folder: &str) -> Option<String> {
    lines.lines().find_map(|line| {
        let (archive, _) = line.strip_prefix('\'')?.split_once("/dists/")?;
        archive.ends_with(&format!("/{folder}")).then(|| format!("{archive}/"))
    })
}

/// What apt complains of, on one line.
fn complaints(words: &str) -> String {
    let is_complaint = |line: &&str| line.starts_with("E: ") || line.starts_with("W: ");
    let some: Vec<&str> = words.lines().filter(is_complaint).take(3).map(|line| line[3..].trim()).collect();
    if some.is_empty() { words.trim().to_owned() } else { some.join("; ") }
}

fn parse_madison(lines: &str) -> Vec<Version> {
    let mut versions = Vec::new();
    for line in lines.lines() {
        let fields: Vec<&str> = line.split('|').map(str::trim).collect();
        if let [package, version, source] = fields[..]
            && source.ends_with("Packages")
        {
            let found = Version { package: package.to_owned(), version: version.to_owned() };
            if !versions.contains(&found) {
                versions.push(found);
            }
        }
    }
    versions
}

fn parse_exact_depends(record: &str, version: &str) -> Vec<String> {
    let exact = format!("(= {version})");
    let lines = record.lines().filter_map(|line| line.strip_prefix("Depends: ").or(line.strip_prefix("Pre-Depends: ")));
    lines
        .flat_map(|line| line.split(", "))
        .filter(|depends| depends.ends_with(&exact))
        .filter_map(|depends| depends.split([' ', ':']).next().map(str::to_owned))
        .collect()
}

/// `Inst name (version suites [arch])`, one line for each package, in the order of unpacking.
fn parse_plan(lines: &str) -> Vec<Version> {
    let mut plan = Vec::new();
    for line in lines.lines().filter_map(|line| line.strip_prefix("Inst ")) {
        let mut words = line.split(' ');
        let (package, version) = (words.next(), words.find_map(|word| word.strip_prefix('(')));
        if let (Some(package), Some(version)) = (package, version) {
            plan.push(Version { package: package.to_owned(), version: version.to_owned() });
        }
    }
    plan
}

fn is_file_of(name: &str, package: &str, version: &str) -> bool {
    name.ends_with(".deb") && name.starts_with(&format!("{package}_{}_", version.replace(':', "%3a")))
}

fn find_file(folder: &Path, is_it: impl Fn(&str) -> bool) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(folder).with_context(|| format!("can't read {}", folder.display()))? {
        let entry = entry?;
        if is_it(&entry.file_name().to_string_lossy()) {
            return Ok(Some(entry.path()));
        }
    }
    Ok(None)
}

/// Whether the first version is newer, as Debian orders them.
pub(super) fn newer(one: &str, other: &str) -> Result<bool> {
    let status = crate::command::outcome(Command::new("dpkg").args(["--compare-versions", one, "gt", other]))?;
    Ok(status.status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apts_words_are_understood() {
        let lines = " linux-image-cloud-amd64 | 6.1.2-2 | http://x bookworm/main amd64 Packages\n\
                     linux-image-cloud-amd64 | 6.1.2-2 | http://x bookworm-security/main amd64 Packages\n\
                     linux | 6.1.2-2 | http://x bookworm/main Sources\n";
        let version = |package: &str, version: &str| Version { package: package.into(), version: version.into() };
        assert_eq!(parse_madison(lines), [version("linux-image-cloud-amd64", "6.1.2-2")]);

        let record = "Package: a\nDepends: gcc-14, b (= 1), c (>= 1), d:amd64 (= 1)\nRecommends: e (= 1)\n";
        assert_eq!(parse_exact_depends(record, "1"), ["b", "d"]);

        let uris = "'http://y/debian-security/dists/trixie-security/Release' y 0\n'http://x/debian/dists/trixie/InRelease' x 0\n";
        assert_eq!(parse_uris(uris, "debian").as_deref(), Some("http://x/debian/"));
        assert_eq!(parse_uris(uris, "debian-security").as_deref(), Some("http://y/debian-security/"));
        assert_eq!(parse_uris(uris, "ubuntu"), None);
        assert_eq!(complaints("Reading\nE: Could not resolve 'x'\n"), "Could not resolve 'x'");

        let plan = "Inst libc6 (2.36-9 Debian:12/oldstable [amd64]) []\nConf libc6 (2.36-9 x)\n";
        assert_eq!(parse_plan(plan), [version("libc6", "2.36-9")]);
    }

    #[test]
    fn files_are_told_apart_by_name_and_version() {
        assert!(is_file_of("make_1%3a4.3-4_amd64.deb", "make", "1:4.3-4"));
        assert!(!is_file_of("make_1%3a4.3-4_amd64.deb", "make", "1:4.3"));
        assert!(!is_file_of("make-guile_1_amd64.deb", "make", "1"));
    }
}
