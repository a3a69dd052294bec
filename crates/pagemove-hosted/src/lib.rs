//! A machine for [`pagemove`] inside a Linux process, without root: RAM is a memfd, page tables are real x86-64 tables in
//! that RAM, virtual processors are threads. Only the TLB differs from hardware's, and there are two of them:
//!
//! - the **soft TLB** keeps a translation on each virtual processor until it is flushed, so a forgotten flush shows as a
//!   wrong value;
//! - the **host TLB** is the host's own MMU: a process's addresses are a window of this program, an access that misses
//!   raises SIGSEGV, the handler walks the engine's tables and maps the frame there. User code is native code on real
//!   threads, and every right that the engine takes is taken by hardware.
//!
//! `unsafe` is in the modules `os` (system calls), `native` (a process's loads and stores) and `tlb::host` (the windows and the
//! signal handler), each with its argument.

mod cpu;
mod error;
mod machine;
mod native;
mod os;
mod process;
mod tlb;
mod wait;

pub use cpu::enter as enter_cpu;
pub use error::HostedError;
pub use machine::{Config, Hosted, TlbKind};
pub use process::{ForkError, Process};
