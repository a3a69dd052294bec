//! The command `pagemove`.
mod layout;
mod report;
mod results;
fn main() {}
