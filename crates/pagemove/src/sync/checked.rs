//! The checkers' locks, with the calls of `parking_lot`'s. A panic of the holder doesn't poison them.

extern crate std;

use std::sync::{PoisonError, TryLockError};

#[cfg(feature = "loom")]
use loom::sync as below;
#[cfg(feature = "shuttle")]
use shuttle::sync as below;

pub use below::{MutexGuard, RwLockReadGuard, RwLockWriteGuard};
#[cfg(feature = "loom")]
pub use loom::thread::yield_now;
#[cfg(feature = "shuttle")]
pub use shuttle::thread::yield_now;

/// As `parking_lot::Mutex`.
#[derive(Debug, Default)]
pub struct Mutex<T>(below::Mutex<T>);

impl<T> Mutex<T> {
    /// Makes it unlocked.
    pub fn new(value: T) -> Self {
        Self(below::Mutex::new(value))
    }

    /// Locks it.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As `parking_lot::RwLock`.
#[derive(Debug, Default)]
pub struct RwLock<T>(below::RwLock<T>);

impl<T> RwLock<T> {
    /// Makes it unlocked.
    pub fn new(value: T) -> Self {
        Self(below::RwLock::new(value))
    }

    /// Locks it for reading.
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks it for reading if that needs no wait.
    pub fn try_read(&self) -> Option<RwLockReadGuard<'_, T>> {
        match self.0.try_read() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Locks it for writing if that needs no wait.
    pub fn try_write(&self) -> Option<RwLockWriteGuard<'_, T>> {
        match self.0.try_write() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Locks it for writing.
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The light side of an asymmetric barrier. The checkers have none, so both sides are full barriers: that is what the
/// real pair guarantees.
pub(crate) fn light_barrier() {
    #[cfg(feature = "loom")]
    loom::sync::atomic::fence(super::Ordering::SeqCst);
}
