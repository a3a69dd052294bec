// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! The sample driver as a kernel module. Built by `cargo xtask linux build`, since cargo has no such target.
#![no_std]

extern crate pagemove_kit as kit;

#[allow(dead_code)]
mod driver;
#[allow(dead_code)]
mod uapi;

kit::module!(crate::driver::Buffer<kit::kernel::Kept>);
