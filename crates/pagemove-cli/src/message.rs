//! Messages to the user, apart from results.

use std::io::{self, Write};

/// Prints a message on stderr; if that is gone, nobody wants it.
pub(crate) fn say(message: &str) {
    let _ = writeln!(io::stderr(), "{message}");
}
