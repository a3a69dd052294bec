//! Locks for whose holders nothing is done: those that sleep, in release builds, and the checkers'.

#[cfg(any(feature = "shuttle", feature = "loom"))]
pub use super::checked::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
#[cfg(not(any(feature = "shuttle", feature = "loom")))]
pub use parking_lot::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::preemption::Preemption;

pub(crate) fn set_preemption(_: Option<Preemption>) {}

pub(crate) fn assert_none_held() {}

/// As `guarded`'s.
pub(crate) struct Held;

impl Held {
    pub(crate) fn new() -> Self {
        Self
    }
}
