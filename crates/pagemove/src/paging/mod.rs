//! Page tables, their formats, migration entries, and the TLB flushes that changes owe.
//!
//! Takes table frames from [`crate::zone`]. A frame is not reused while a stale translation can reach it.

mod cpu;
mod cursor;
mod debt;
mod entry;
mod format;
mod moving;
mod place;
mod root;
mod slot;
mod table;

pub use cpu::{Found, Translation, Walk, walk_table};
pub(crate) use cursor::Cursor;
pub use debt::FlushDebt;
pub use entry::{Entry, Flags};
pub use format::{Aarch64, Format, Riscv64, Sv39, Sv48, X86_64};
pub(crate) use moving::TableHolder;
pub use place::table_number;
pub use root::Root;
pub use slot::Slot;
pub use table::PageTable;
