//! What the command says: results on stdout, messages on stderr.

use std::io::{self, Write};

/// Prints a message on stderr; if that is gone, nobody wants it.
pub(crate) fn say(message: &str) {
    let _ = writeln!(io::stderr(), "{message}");
}

/// Prints a result. That a reader such as `head` has seen enough is no error.
pub(crate) fn print(text: &str) -> io::Result<()> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}
