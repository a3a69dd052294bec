//! Zeroed memory that the machine lends for metadata, viewed as a table of shared values.
//!
//! `unsafe`: views of that memory as values. Relies on the contract of [`LentMemory::new`].
#![allow(unsafe_code)]

use alloc::boxed::Box;
use core::{any::Any, ptr::NonNull};

/// Memory lent by the machine; returned, by dropping `keep`, when the engine ends.
pub struct LentMemory {
    start: NonNull<u8>,
    bytes: usize,
    _keep: Box<dyn Any + Send + Sync>,
}

// SAFETY: nobody else uses the memory, by `new`'s contract; it is shared only as atomics, by `into_table`.
unsafe impl Send for LentMemory {}
// SAFETY: as above.
unsafe impl Sync for LentMemory {}

impl LentMemory {
    /// Wraps memory that is valid until `keep` is dropped.
    ///
    /// # Safety
    /// `bytes` bytes at `start` are zeroed, aligned to 64 bytes, readable, writable, and used by nobody else until `keep` is dropped.
    /// Lent by [`Machine::lend_sparse`](super::Machine::lend_sparse), only the used ranges need be writable and nobody else's; the rest
    /// reads as zero.
    pub unsafe fn new(start: NonNull<u8>, bytes: usize, keep: Box<dyn Any + Send + Sync>) -> Self {
        Self { start, bytes, _keep: keep }
    }

    /// Views it as `count` values of `T`; `None` if they don't fit.
    pub(crate) fn into_table<T: Zeroed>(self, count: usize) -> Option<Table<T>> {
        let fits = count.checked_mul(size_of::<T>())? <= self.bytes && align_of::<T>() <= 64;
        fits.then(|| Table {
            start: self.start.cast(),
            count,
            _keep: self,
            #[cfg(feature = "loom")]
            modelled: (0..count).map(|_| T::default()).collect(),
        })
    }
}

/// Lent memory as shared values.
#[cfg_attr(feature = "loom", allow(dead_code, reason = "the memory is only kept"))]
pub(crate) struct Table<T> {
    start: NonNull<T>,
    count: usize,
    _keep: LentMemory,
    // Loom's atomics are larger than their value, so they can't be in lent memory.
    #[cfg(feature = "loom")]
    modelled: alloc::vec::Vec<T>,
}

// SAFETY: as for a slice of `T`, which consists of atomics by the bound of `into_table`.
unsafe impl<T> Send for Table<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Table<T> {}

impl<T> core::ops::Deref for Table<T> {
    type Target = [T];

    #[cfg(feature = "loom")]
    fn deref(&self) -> &[T] {
        &self.modelled
    }

    #[cfg(not(feature = "loom"))]
    fn deref(&self) -> &[T] {
        // SAFETY: in bounds and aligned by `into_table`, alive as long as `self`, and any bits are a valid `T` by `Zeroed`.
        // Writers only go through the atomics inside `T`.
        unsafe { core::slice::from_raw_parts(self.start.as_ptr(), self.count) }
    }
}

/// Types of atomics only, for which all bit patterns, including zero, are valid.
///
/// # Safety
/// As the first line says.
pub(crate) unsafe trait Zeroed: Default {}
