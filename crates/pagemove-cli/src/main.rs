//! The command `pagemove`.
// Until the command is written, only the tests use the rest.
#![allow(dead_code)]
mod layout;
mod report;
mod results;
mod table;
fn main() {}
