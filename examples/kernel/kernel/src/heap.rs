//! The kernel's heap.

use pagemove_x86::heap::Heap;

/// The kernel's heap. Begins with memory of the image.
#[global_allocator]
pub(crate) static HEAP: Heap = Heap::new();

#[repr(align(4096))]
struct Arena(core::cell::UnsafeCell<[u8; 1 << 21]>);

// SAFETY: given to the heap, once.
unsafe impl Sync for Arena {}

static ARENA: Arena = Arena(core::cell::UnsafeCell::new([0; 1 << 21]));

/// Gives the heap its first memory. Called once, first of all.
pub(crate) fn begin() {
    // SAFETY: nobody else uses it.
    let usable = unsafe { HEAP.add(ARENA.0.get().cast(), 1 << 21) };
    assert!(usable, "the arena is too small");
}
