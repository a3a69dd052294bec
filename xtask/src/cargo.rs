//! Starting cargo.

use std::process::Command;

/// The cargo that started us, or else the one on the path.
///
/// It keeps nothing for a next build of the same crate, as it does otherwise: chores build once, and this took gigabytes.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.env("CARGO_INCREMENTAL", "0");
    command
}
