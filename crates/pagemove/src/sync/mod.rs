//! The one import point for atomics and locks: for the core, and for machines and drivers that are checked with it.
//!
//! With the feature `std` locks sleep, since threads can outnumber CPUs; without it they spin, so nobody sleeps while holding one: that
//! is checked with debug assertions (`counted`). Both have the same calls: `lock`, `try_lock`, `read`, `try_read`, `write`, `try_write`. With `shuttle` or `loom` (never both) all are the checker's,
//! which chooses the next thread at each access; only for checks.

#[cfg(any(feature = "shuttle", feature = "loom"))]
mod checked;
#[cfg(all(feature = "std", debug_assertions, not(any(feature = "shuttle", feature = "loom"))))]
mod counted;
#[cfg(feature = "shuttle")]
mod stepped;

#[cfg(feature = "loom")]
pub use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
#[cfg(feature = "shuttle")]
pub use stepped::{AtomicBool, AtomicU32, AtomicU64, set_stepping};

#[cfg(any(feature = "shuttle", feature = "loom"))]
pub(crate) use checked::light_barrier;
#[cfg(any(feature = "shuttle", feature = "loom"))]
pub use checked::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, yield_now};

pub use core::sync::atomic::Ordering;
#[cfg(not(any(feature = "shuttle", feature = "loom")))]
pub use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};

#[cfg(all(feature = "std", debug_assertions, not(any(feature = "shuttle", feature = "loom"))))]
pub(crate) use counted::assert_none_held;
#[cfg(all(feature = "std", debug_assertions, not(any(feature = "shuttle", feature = "loom"))))]
pub use counted::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
#[cfg(all(feature = "std", not(debug_assertions), not(any(feature = "shuttle", feature = "loom"))))]
pub use parking_lot::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
#[cfg(not(any(feature = "std", feature = "shuttle", feature = "loom")))]
pub use spin::{
    RwLock, RwLockReadGuard, RwLockWriteGuard,
    mutex::{Mutex, MutexGuard},
};

/// Checks that the caller, who is about to sleep, holds no lock of this module: with `std` and debug assertions only.
#[cfg(not(all(feature = "std", debug_assertions, not(any(feature = "shuttle", feature = "loom")))))]
pub(crate) fn assert_none_held() {}

/// The light side of an asymmetric barrier. Free at run time, since the heavy side
/// ([`Machine::barrier`](crate::port::Machine::barrier)) makes every CPU pass a full barrier.
#[cfg(not(any(feature = "shuttle", feature = "loom")))]
#[inline(always)]
pub(crate) fn light_barrier() {
    core::sync::atomic::compiler_fence(Ordering::SeqCst);
}
