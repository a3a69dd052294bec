//! A load or store by one instruction, as user code's in a process is.
//!
//! Not by the compiler's atomics: where they are instrumented (by the thread sanitizer) the access is made inside of the
//! instrument's runtime, which holds locks of its own over it. An access that misses the host TLB faults there, and the
//! signal handler, instrumented itself, would wait for these locks for ever.
//!
//! `unsafe`: the two instructions, on an address that the caller vouches for.
#![allow(unsafe_code)]

use std::arch::asm;

/// An aligned word of a process's memory.
#[derive(Clone, Copy)]
pub(crate) struct Word(*mut u64);

impl Word {
    /// Names the word at `pointer`.
    ///
    /// # Safety
    /// As long as the word is used, `pointer` is aligned, and either mapped as memory that all access as atomics, or an
    /// access to it traps and is made good, or ends the program.
    pub(crate) const unsafe fn new(pointer: *mut u64) -> Self {
        Self(pointer)
    }

    /// Loads the word; of all that this processor does later nothing comes before it (Intel SDM volume 3, section 10.2.2).
    pub(crate) fn load(self) -> u64 {
        let value;
        // SAFETY: by the contract of `new`. The compiler may move no access to memory across.
        unsafe { asm!("mov {}, [{}]", out(reg) value, in(reg) self.0, options(nostack, preserves_flags)) };
        value
    }

    /// Stores to the word; of all that this processor did before nothing comes after it (as above).
    pub(crate) fn store(self, value: u64) {
        // SAFETY: as in `load`.
        unsafe { asm!("mov [{}], {}", in(reg) self.0, in(reg) value, options(nostack, preserves_flags)) };
    }
}
