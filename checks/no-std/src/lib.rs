//! A program's worth of nothing around the core: a panic handler, an allocator, and the core.
//!
//! Takes the core with its default features; gives a static library that nobody runs. Promises to compile only if
//! nothing below it links `std`, whose panic handler would be the second one. `cargo xtask no-std` builds it.

#![no_std]

extern crate alloc;
// Named, so that it is linked even though nothing of it is called.
extern crate pagemove as _;
// A control; see Cargo.toml.
#[cfg(feature = "std-here")]
extern crate std;

use core::alloc::{GlobalAlloc, Layout};
use core::panic::PanicInfo;

/// An allocator that never has any memory.
struct Empty;

// `GlobalAlloc` is an unsafe trait, and `alloc` asks for one implementation of it in every program without std: there
// is no safe way to say it.
#[allow(unsafe_code)]
// SAFETY: a null pointer from `alloc` means "no memory", which the trait allows at any time. So no block ever exists
// that `dealloc` could be called for. Neither method unwinds.
unsafe impl GlobalAlloc for Empty {
    unsafe fn alloc(&self, _: Layout) -> *mut u8 {
        core::ptr::null_mut()
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

#[global_allocator]
static ALLOCATOR: Empty = Empty;

/// The panic handler that every program has once.
#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}
