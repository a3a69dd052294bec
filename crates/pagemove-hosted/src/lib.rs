//! `unsafe` is in the modules `balloon` (memory given back to the host), `os` (system calls), `native` (a process's loads and stores) and `tlb::host` (the windows and the
//! signal handler), each with its argument.
#![doc = include_str!("../README.md")]

mod balloon;
mod clock;
mod cpu;
mod depth;
mod error;
mod format;
mod machine;
mod native;
mod os;
mod process;
mod roots;
mod tlb;
mod wait;

pub use cpu::enter as enter_cpu;
pub use error::HostedError;
pub use format::{FIRST_FRAME, Space, TableFormat};
pub use machine::{Config, Hosted, TlbKind};
pub use process::{ForkError, Process};
