//! Page tables of x86-64, migration entries, and the flushes that changes owe.
//!
//! Takes table frames from [`crate::zone`]; promises that a frame is not reused while an unflushed translation can reach it.

mod debt;
mod entry;
mod table;

pub use debt::FlushDebt;
pub use entry::{Entry, Flags};
pub use table::{PageTable, Slot, Translation, Walk};
