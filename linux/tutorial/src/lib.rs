// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! The tutorial's driver as a host crate, for tests. `module.rs` is the same driver as a kernel module.
#![no_std]

extern crate pagemove_kit as kit;

pub mod driver;
