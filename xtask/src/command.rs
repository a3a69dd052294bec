//! Running other programs.
//!
//! Takes a command; gives its standard output, or an error that has the command, how it ended and the last lines that
//! it said. Promises that a program that isn't there is named with the Debian package that has it, and that programs
//! that take long end with this one, however it ends.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::{Command, Output};

use anyhow::{Context, Result, anyhow, bail};

use crate::no_archive::NoArchive;

/// Programs that are not on every machine, and the package of each.
const PACKAGES: &[(&str, &str)] = &[
    ("apt-get", "apt"),
    ("apt-cache", "apt"),
    ("dpkg-deb", "dpkg"),
    ("setpriv", "util-linux"),
    ("unshare", "util-linux"),
    ("tar", "tar"),
    ("sha256sum", "coreutils"),
    ("qemu-system-x86_64", "qemu-system-x86"),
];

/// How many lines of a failed program's words are repeated.
const LAST_LINES: usize = 30;

/// The end of what `bound` puts before a program.
const DIVIDER: &str = "--";

/// A command that is killed when this process ends: Ctrl-C reaches all that a terminal has started, but nothing else does.
pub(crate) fn bound(program: &str) -> Result<Command> {
    // setpriv would start it, and its complaint would be hard to tell from the program's own.
    if find(program).is_none() {
        return Err(missing(program));
    }
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", DIVIDER, program]);
    Ok(command)
}

/// Finds a program as a shell would.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// What a command runs, without what `bound` put before it.
fn name(command: &Command) -> String {
    let program = command.get_args().skip_while(|&argument| argument != DIVIDER).nth(1);
    let is_bound = command.get_program() == "setpriv";
    program.filter(|_| is_bound).unwrap_or(command.get_program()).to_string_lossy().into_owned()
}

fn missing(program: &str) -> anyhow::Error {
    match PACKAGES.iter().find(|(name, _)| *name == program) {
        Some(("apt-get" | "apt-cache" | "dpkg-deb", _)) => anyhow!(NoArchive(format!(
            "{program} is missing: kernels, their headers and the compiler come from Debian's archive through apt, so \
             this needs Debian or one of its descendants"
        ))),
        Some((_, package)) => anyhow!("{program} is missing; install it: apt-get install {package}"),
        None => anyhow!("{program} is missing"),
    }
}

/// Explains why a program couldn't be started.
pub(crate) fn cant_start(command: &Command, error: std::io::Error) -> anyhow::Error {
    let program = command.get_program().to_string_lossy().into_owned();
    match error.kind() {
        ErrorKind::NotFound => missing(&program),
        _ => anyhow!(error).context(format!("can't start {program}")),
    }
}

/// Runs a command to its end, whatever that is.
pub(crate) fn outcome(command: &mut Command) -> Result<Output> {
    command.output().map_err(|error| cant_start(command, error))
}

/// Runs a command that must succeed; gives its standard output.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let output = outcome(command)?;
    if !output.status.success() {
        let words = [String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)].concat();
        let program = name(command);
        bail!("{program} failed ({}):\n{}\nthe command was {command:?}", output.status, tail(&words, LAST_LINES));
    }
    String::from_utf8(output.stdout).with_context(|| format!("{command:?} said what isn't UTF-8"))
}

/// The last lines of a text.
pub(crate) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::Stdio;

    use super::*;

    #[test]
    fn a_missing_program_is_named_with_its_package() {
        let missing =
            |program: &str| cant_start(&Command::new(program), std::io::Error::from(ErrorKind::NotFound)).to_string();
        assert!(missing("qemu-system-x86_64").contains("apt-get install qemu-system-x86"));
        assert!(missing("apt-get").contains("needs Debian"));
        let error = bound("no-such-program").expect_err("isn't there").to_string();
        assert_eq!(error, "no-such-program is missing");
    }

    #[test]
    fn a_failure_says_what_the_program_said() {
        let error = run(Command::new("sh").args(["-c", "echo so; echo why >&2; exit 3"])).expect_err("it failed");
        let error = error.to_string();
        assert!(error.contains("so\nwhy") && error.contains('3'), "{error}");
        let error = run(bound("sh").expect("there").args(["-c", "exit 3"])).expect_err("it failed").to_string();
        assert!(error.starts_with("sh failed"), "{error}");
    }

    /// The end of the thread that started it counts as well: so it's tried without ending this process.
    #[test]
    fn a_bound_program_ends_with_who_started_it() {
        let start = || {
            let mut sleeper = bound("sh").expect("there");
            let mut child = sleeper.args(["-c", "echo; exec sleep 60"]).stdout(Stdio::piped()).spawn().expect("starts");
            // What it says shows that it runs, bound.
            let said = child.stdout.take().expect("a pipe").read(&mut [0]);
            assert_eq!(said.expect("reads"), 1);
            child
        };
        let mut child = std::thread::spawn(start).join().expect("no panic");
        let status = child.wait().expect("has ended");
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
    }
}
