//! The one error that lets the gate skip its guests.

use std::fmt;

/// An error: there is no way to Debian's archive from here.
#[derive(Debug)]
pub(crate) struct NoArchive(pub(crate) String);

impl fmt::Display for NoArchive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NoArchive {}
