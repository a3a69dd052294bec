//! The one import point for atomics and locks, for the core and for machines and drivers that are to be checked with it.
//!
//! With the feature `std` locks sleep (threads can outnumber processors), without it they spin; both give the same
//! calls: `lock`, `try_lock`, `read`, `try_read`, `write`. With `shuttle` or `loom` all of them are those checkers' own,
//! which choose who goes on at each access; not for use otherwise, and never both.

#[cfg(any(feature = "shuttle", feature = "loom"))]
mod checked;
#[cfg(feature = "shuttle")]
mod stepped;

#[cfg(feature = "loom")]
pub use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
#[cfg(feature = "shuttle")]
pub use stepped::{AtomicBool, AtomicU32, AtomicU64, set_stepping};

#[cfg(any(feature = "shuttle", feature = "loom"))]
pub(crate) use checked::light_barrier;
#[cfg(any(feature = "shuttle", feature = "loom"))]
pub use checked::{Mutex, MutexGuard, RwLock, RwLockWriteGuard, yield_now};

pub use core::sync::atomic::Ordering;
#[cfg(not(any(feature = "shuttle", feature = "loom")))]
pub use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};

#[cfg(all(feature = "std", not(any(feature = "shuttle", feature = "loom"))))]
pub use parking_lot::{Mutex, MutexGuard, RwLock, RwLockWriteGuard};
#[cfg(not(any(feature = "std", feature = "shuttle", feature = "loom")))]
pub use spin::{
    RwLock, RwLockWriteGuard,
    mutex::{Mutex, MutexGuard},
};

/// The light side of an asymmetric barrier: costs nothing here, since the heavy side
/// ([`Machine::barrier`](crate::port::Machine::barrier)) makes every processor pass a full barrier.
#[cfg(not(any(feature = "shuttle", feature = "loom")))]
#[inline(always)]
pub(crate) fn light_barrier() {
    core::sync::atomic::compiler_fence(Ordering::SeqCst);
}
