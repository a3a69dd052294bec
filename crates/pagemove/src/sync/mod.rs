//! The one import point for atomics and locks: for the core, and for machines and drivers that are checked with it.
//!
//! With the feature `std` locks sleep, since threads can outnumber CPUs; without it they spin, so nobody sleeps while
//! holding one: that is checked with debug assertions (`guarded`). Both have the same calls: `lock`, `try_lock`, `read`,
//! `try_read`, `write`, `try_write`. With `shuttle` or `loom` (never both) all are the checker's, which chooses the next
//! thread at each access; only for checks.

#[cfg(any(feature = "shuttle", feature = "loom"))]
mod checked;
mod preemption;
#[cfg(feature = "shuttle")]
mod stepped;

// Locks that sleep are guarded only to find threads that sleep with one.
#[cfg(all(
    any(not(feature = "std"), feature = "spinning", debug_assertions),
    not(any(feature = "shuttle", feature = "loom"))
))]
mod guarded;
#[cfg(all(
    any(not(feature = "std"), feature = "spinning", debug_assertions),
    not(any(feature = "shuttle", feature = "loom"))
))]
use guarded as locks;
#[cfg(any(
    not(any(not(feature = "std"), feature = "spinning", debug_assertions)),
    feature = "shuttle",
    feature = "loom"
))]
mod unguarded;
#[cfg(any(
    not(any(not(feature = "std"), feature = "spinning", debug_assertions)),
    feature = "shuttle",
    feature = "loom"
))]
use unguarded as locks;

pub(crate) use locks::{Held, assert_none_held, set_preemption};
pub use locks::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
pub use preemption::Preemption;

#[cfg(any(feature = "shuttle", feature = "loom"))]
pub(crate) use checked::light_barrier;
#[cfg(any(feature = "shuttle", feature = "loom"))]
pub use checked::yield_now;

pub use core::sync::atomic::Ordering;
#[cfg(not(any(feature = "shuttle", feature = "loom")))]
pub use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
#[cfg(feature = "loom")]
pub use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
#[cfg(feature = "shuttle")]
pub use stepped::{AtomicBool, AtomicU32, AtomicU64, set_stepping};

/// The light side of an asymmetric barrier. Free at run time, since the heavy side
/// ([`Machine::barrier`](crate::port::Machine::barrier)) makes every CPU pass a full barrier.
#[cfg(not(any(feature = "shuttle", feature = "loom")))]
#[inline(always)]
pub(crate) fn light_barrier() {
    core::sync::atomic::compiler_fence(Ordering::SeqCst);
}
