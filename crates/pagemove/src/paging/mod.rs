//! x86-64 page tables, migration entries, and the TLB flushes that changes owe.
//!
//! Takes table frames from [`crate::zone`]. A frame is not reused while a stale translation can reach it.

mod debt;
mod entry;
mod root;
mod table;

pub use debt::FlushDebt;
pub use entry::{Entry, Flags};
pub use root::Root;
pub use table::{PageTable, Slot, Translation, Walk, translate_in};
