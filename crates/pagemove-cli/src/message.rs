//! What the command says: results on stdout, messages on stderr.

use std::io::{self, Write};

use crate::terminal::plain;

/// Prints a message on stderr, of one or several lines; if that is gone, nobody wants it. What comes from outside, as a path, can't steer the
/// terminal.
pub(crate) fn say(message: &str) {
    let lines: Vec<String> = message.lines().map(plain).collect();
    let _ = writeln!(io::stderr(), "{}", lines.join("\n"));
}

/// Prints a result. That a reader such as `head` has seen enough is no error.
pub(crate) fn print(text: &str) -> io::Result<()> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}
