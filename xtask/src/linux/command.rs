//! Running other programs.
//!
//! Takes a command; gives its standard output, or an error that has the command, how it ended and the last lines that
//! it said. Promises that a program that isn't there is named with the Debian package that has it.

use std::io::ErrorKind;
use std::process::{Command, Output};

use anyhow::{Context, Result, anyhow, bail};

/// Programs that are not on every machine, and the package of each.
const PACKAGES: &[(&str, &str)] = &[
    ("apt-get", "apt"),
    ("apt-cache", "apt"),
    ("dpkg-deb", "dpkg"),
    ("unshare", "util-linux"),
    ("tar", "tar"),
    ("cpio", "cpio"),
    ("qemu-system-x86_64", "qemu-system-x86"),
];

/// How many lines of a failed program's words are repeated.
const LAST_LINES: usize = 30;

/// Explains why a program couldn't be started.
pub(super) fn cant_start(command: &Command, error: std::io::Error) -> anyhow::Error {
    let program = command.get_program().to_string_lossy().into_owned();
    if error.kind() != ErrorKind::NotFound {
        return anyhow!(error).context(format!("can't start {program}"));
    }
    match PACKAGES.iter().find(|(name, _)| *name == program) {
        Some(("apt-get" | "apt-cache" | "dpkg-deb", _)) => anyhow!(
            "{program} is missing: kernels, their headers and the compiler come from Debian's archive through apt, so \
             this needs Debian or one of its descendants"
        ),
        Some((_, package)) => anyhow!("{program} is missing; install it: apt-get install {package}"),
        None => anyhow!("{program} is missing"),
    }
}

/// Runs a command to its end, whatever that is.
pub(super) fn outcome(command: &mut Command) -> Result<Output> {
    command.output().map_err(|error| cant_start(command, error))
}

/// Runs a command that must succeed; gives its standard output.
pub(super) fn run(command: &mut Command) -> Result<String> {
    let output = outcome(command)?;
    if !output.status.success() {
        let words = [String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)].concat();
        let program = command.get_program().to_string_lossy().into_owned();
        bail!("{program} failed ({}):\n{}\nthe command was {command:?}", output.status, tail(&words, LAST_LINES));
    }
    String::from_utf8(output.stdout).with_context(|| format!("{command:?} said what isn't UTF-8"))
}

/// The last lines of a text.
pub(super) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_named_with_its_package() {
        let missing =
            |program: &str| cant_start(&Command::new(program), std::io::Error::from(ErrorKind::NotFound)).to_string();
        assert!(missing("qemu-system-x86_64").contains("apt-get install qemu-system-x86"));
        assert!(missing("apt-get").contains("needs Debian"));
    }

    #[test]
    fn a_failure_says_what_the_program_said() {
        let error = run(Command::new("sh").args(["-c", "echo so; echo why >&2; exit 3"])).expect_err("it failed");
        let error = error.to_string();
        assert!(error.contains("so\nwhy") && error.contains('3'), "{error}");
    }
}
