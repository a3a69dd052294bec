// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! Drivers for stock Linux kernels whose pages can be moved **while processes map them**.
//!
//! Takes a driver, written in safe Rust against [`Driver`], [`Moves`] and [`Store`]; gives a kernel module (by
//! [`module!`] and the C shim beside this crate). The same driver runs on the engine as well: `linux/hosted`.
//! Promises that the driver can't reach a page but by a guard that keeps it where it is, and can't keep one longer than
//! a call but by a [`Pin`] that has a name, an owner and a time. (A guard that is leaked, by `mem::forget`, keeps its page
//! for ever and unnamed: `others` in the list of opens counts it.)
//!
//! One compiled object serves every kernel: only the shim knows the kernel's structures.
#![no_std]

mod driver;
mod errno;
pub mod kernel;
mod module;
mod page;
mod pin;
mod pins;
mod store;

pub use driver::{Driver, Mode, Moves, OwnedMove, OwnedPage, Refusal};
pub use errno::Errno;
pub use page::{PAGE_BYTES, Page};
pub use pin::{Caller, NAME_BYTES, Pin, PinInfo};
pub use pins::Pins;
pub use store::{Absent, Store, UserMemory, copy_in, copy_out};
