// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! Drivers for stock Linux kernels whose pages can be moved **while processes map them**.
//!
//! Takes a driver, written in safe Rust against [`Driver`], [`Moves`] and [`Store`]; gives a kernel module, made by
//! [`module!`] and the C shim beside this crate. The same driver also runs on the engine: `linux/hosted`. The driver
//! reaches a page only through a guard, which keeps the page from moving. It can keep a page beyond a call only by a
//! [`Pin`], which has a name, an owner and a time. (A guard leaked by `mem::forget` keeps its page for ever, without a
//! name: `others` in the list of opens counts it.)
//!
//! One compiled object serves every kernel, because only the shim knows the kernel's structures.
#![no_std]

mod driver;
mod errno;
pub mod kernel;
mod module;
mod page;
mod pin;
mod pins;
mod store;

pub use driver::{Driver, IsolatedFolio, Migration, Mode, Moves, Refusal};
pub use errno::Errno;
pub use page::{PAGE_BYTES, Page};
pub use pin::{Caller, NAME_BYTES, Pin, PinInfo};
pub use pins::Pins;
pub use store::{Absent, Store, UserMemory, copy_in, copy_out};
