//! Runs a machine in QEMU, and listens to its console.
//!
//! Takes a command and a limit; gives each line as it comes, all of them, and how it ended. Promises an end within the limit, whatever the
//! machine does, and that no QEMU outlives this process's interest.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::command::{cant_start, tail};

/// The program.
pub(crate) const QEMU: &str = "qemu-system-x86_64";

/// How much of the console is repeated when something fails.
const LAST_LINES: usize = 40;

/// What was heard.
pub(crate) struct Heard {
    /// All lines.
    pub(crate) console: String,
    /// How QEMU ended; `None` if it was ended since it took too long.
    pub(crate) status: Option<ExitStatus>,
}

impl Heard {
    /// The console's last lines, for a message.
    pub(crate) fn last_lines(&self) -> String {
        format!("its console's last lines:\n{}", tail(&self.console, LAST_LINES))
    }
}

/// Ends QEMU with its owner.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // If it has ended by itself, there's nothing to kill, and that is well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs it; the console is its standard output.
///
/// # Errors
/// When it can't be started.
pub(crate) fn listen(mut command: Command, limit: Duration, mut line_came: impl FnMut(&str)) -> Result<Heard> {
    command.stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut running = Running(command.spawn().map_err(|error| cant_start(&command, error))?);
    let output = running.0.stdout.take().context("no pipe from QEMU")?;
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        let mut output = BufReader::new(output);
        let mut line = Vec::new();
        while output.read_until(b'\n', &mut line).is_ok_and(|bytes| bytes > 0) {
            if sender.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                return;
            }
            line.clear();
        }
    });
    let (started, mut console) = (Instant::now(), String::new());
    loop {
        match lines.recv_timeout(limit.saturating_sub(started.elapsed())) {
            Ok(line) => {
                console += &line;
                console.push('\n');
                line_came(&line);
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Ok(Heard { console, status: Some(running.0.wait().context("QEMU can't be waited for")?) });
            }
            Err(RecvTimeoutError::Timeout) => return Ok(Heard { console, status: None }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn lines_and_the_end_are_heard() {
        let mut lines = Vec::new();
        let heard =
            listen(shell("echo one; echo two; exit 3"), Duration::from_secs(60), |line| lines.push(line.to_owned()));
        let heard = heard.expect("runs");
        assert_eq!((lines, heard.console.as_str()), (vec!["one".into(), "two".into()], "one\ntwo\n"));
        assert_eq!(heard.status.and_then(|status| status.code()), Some(3));
    }

    #[test]
    fn what_takes_too_long_is_ended() {
        let heard = listen(shell("echo one; exec sleep 600"), Duration::from_millis(200), |_| ()).expect("runs");
        assert!(heard.status.is_none());
    }
}
