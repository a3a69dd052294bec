//! Programs for the example kernel. Each checks every word that it has written, and ends with 0 if all were right.
#![no_std]
#![no_main]

// For its symbols.
extern crate runtime;

mod bad;
mod changes;
mod compare;
mod greedy;
mod marks;
mod registers;
mod starve;
mod storm;
mod sys;
mod vectors;

use core::ffi::CStr;

// `main`'s fifth argument: the registers as they were before any code of ours.
core::arch::global_asm!(
    ".global _start",
    "_start:",
    "xor ebp, ebp",
    "sub rsp, 512",
    "fxsave [rsp]",
    "mov r8, rsp",
    "call main",
    "ud2"
);

/// What a program is given.
#[derive(Clone, Copy)]
pub(crate) struct Arguments {
    pub(crate) seed: u64,
    /// How much to do; 0 for the usual.
    pub(crate) amount: u64,
    pub(crate) processors: u64,
}

#[unsafe(no_mangle)]
extern "C" fn main(
    name: *const core::ffi::c_char,
    seed: u64,
    amount: u64,
    processors: u64,
    registers: &vectors::Registers,
) -> ! {
    // SAFETY: the kernel puts the name on the stack.
    let name = unsafe { CStr::from_ptr(name) }.to_str().unwrap_or("");
    let arguments = Arguments { seed, amount, processors };
    match name {
        "hello" => sys::say!("hello from ring 3, seed {seed}"),
        "storm" => storm::run(arguments),
        "changes" => changes::run(arguments),
        "marks" => marks::run(arguments),
        "compare" => compare::run(arguments),
        "registers" => registers::run(arguments),
        "vectors" => vectors::run(arguments, registers),
        "starve" => starve::run(arguments),
        "bad" => bad::run(arguments),
        "exhaust" => bad::exhaust(),
        "greedy" => greedy::run(arguments),
        _ => {
            sys::say!("there is no program {name:?}");
            sys::exit(2);
        }
    }
    sys::exit(0)
}
