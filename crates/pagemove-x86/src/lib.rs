#![doc = include_str!("../README.md")]
#![no_std]

extern crate alloc;

pub mod cpus;
pub mod fault;
pub mod heap;
pub mod memory;
pub mod platform;
pub mod tlb;

mod shootdown;
mod sparse;

pub mod machine;

pub use machine::X86Machine;
pub use platform::{Instructions, Platform, Privileged};
