// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! The tutorial's driver as a kernel module. Built by `cargo xtask linux build --driver linux/tutorial`.
#![no_std]

extern crate pagemove_kit as kit;

#[allow(dead_code)]
mod driver;

kit::module!(crate::driver::Grab<kit::kernel::Kept>);
