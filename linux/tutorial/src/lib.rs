// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! The tutorial's driver as a crate of the host, so that it's tested there. `module.rs` is the same as a kernel module.
//!
//! Takes and gives what `driver` says; adds nothing.
#![no_std]

extern crate pagemove_kit as kit;

pub mod driver;
