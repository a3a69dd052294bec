//! A load or store by one instruction, as in a process's user code.
//!
//! Not by the compiler's atomics: with the thread sanitizer these access memory inside of its runtime, which holds its
//! locks meanwhile. An access that misses the host TLB would fault there, and the signal handler, also instrumented,
//! would wait for these locks for ever.
//!
//! `unsafe`: the two instructions, on an address that is valid by the contract of [`Word::new`].
#![allow(unsafe_code)]

use std::arch::asm;

/// An aligned word of a process's memory.
#[derive(Clone, Copy)]
pub(crate) struct Word(*mut u64);

impl Word {
    /// Makes a word at `pointer`.
    ///
    /// # Safety
    /// While the word is used, `pointer` is aligned, and either mapped as memory that all threads access as atomics, or
    /// an access traps, and is handled or ends the program.
    pub(crate) const unsafe fn new(pointer: *mut u64) -> Self {
        Self(pointer)
    }

    /// Loads the word, with Acquire: no later access of this CPU comes before it (Intel SDM volume 3, section 10.2.2).
    pub(crate) fn load(self) -> u64 {
        let value;
        // SAFETY: by the contract of `new`. The compiler moves no memory access across it.
        unsafe { asm!("mov {}, [{}]", out(reg) value, in(reg) self.0, options(nostack, preserves_flags)) };
        value
    }

    /// Stores to the word, with Release: no earlier access of this CPU comes after it (as above).
    pub(crate) fn store(self, value: u64) {
        // SAFETY: as in `load`.
        unsafe { asm!("mov [{}], {}", in(reg) self.0, in(reg) value, options(nostack, preserves_flags)) };
    }
}
