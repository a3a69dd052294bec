//! Locks whose holders are known to `held`: it disables preemption for those that spin, and counts, with debug assertions, those that
//! sleep. They have the calls of `parking_lot`'s.

use core::ops::{Deref, DerefMut};

#[cfg(all(feature = "std", not(feature = "spinning")))]
use parking_lot as below;
#[cfg(any(not(feature = "std"), feature = "spinning"))]
mod below {
    pub(super) use spin::{
        RwLock, RwLockReadGuard, RwLockWriteGuard,
        mutex::{Mutex, MutexGuard},
    };
}

mod held;

pub(crate) use held::{Held, assert_none_held, set_preemption};

macro_rules! guard {
    ($name:ident, $below:ident $(, $mutable:ident)?) => {
        /// As `parking_lot`'s.
        #[derive(Debug)]
        #[must_use = "the lock is released when this is dropped"]
        pub struct $name<'a, T> {
            below: below::$below<'a, T>,
            // Last, since fields are dropped in this order.
            _held: Held,
        }

        impl<T> Deref for $name<'_, T> {
            type Target = T;

            fn deref(&self) -> &T {
                &self.below
            }
        }

        $(
            impl<T> $mutable for $name<'_, T> {
                fn deref_mut(&mut self) -> &mut T {
                    &mut self.below
                }
            }
        )?
    };
}

guard!(MutexGuard, MutexGuard, DerefMut);
guard!(RwLockReadGuard, RwLockReadGuard);
guard!(RwLockWriteGuard, RwLockWriteGuard, DerefMut);

/// As `parking_lot::Mutex`.
#[derive(Debug, Default)]
pub struct Mutex<T>(below::Mutex<T>);

impl<T> Mutex<T> {
    /// Makes it unlocked.
    pub const fn new(value: T) -> Self {
        Self(below::Mutex::new(value))
    }

    /// Locks it.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        // Before the lock: a thread that is preempted with it keeps others of its CPU from ever getting it.
        let held = Held::new();
        MutexGuard { below: self.0.lock(), _held: held }
    }

    /// Locks it if that needs no wait.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        let held = Held::new();
        self.0.try_lock().map(|below| MutexGuard { below, _held: held })
    }
}

/// As `parking_lot::RwLock`.
#[derive(Debug, Default)]
pub struct RwLock<T>(below::RwLock<T>);

impl<T> RwLock<T> {
    /// Makes it unlocked.
    pub const fn new(value: T) -> Self {
        Self(below::RwLock::new(value))
    }

    /// Locks it for reading.
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        // Before the lock: a thread that is preempted with it keeps others of its CPU from ever getting it.
        let held = Held::new();
        RwLockReadGuard { below: self.0.read(), _held: held }
    }

    /// Locks it for reading if that needs no wait.
    pub fn try_read(&self) -> Option<RwLockReadGuard<'_, T>> {
        let held = Held::new();
        self.0.try_read().map(|below| RwLockReadGuard { below, _held: held })
    }

    /// Locks it for writing.
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        // Before the lock: a thread that is preempted with it keeps others of its CPU from ever getting it.
        let held = Held::new();
        RwLockWriteGuard { below: self.0.write(), _held: held }
    }

    /// Locks it for writing if that needs no wait.
    pub fn try_write(&self) -> Option<RwLockWriteGuard<'_, T>> {
        let held = Held::new();
        self.0.try_write().map(|below| RwLockWriteGuard { below, _held: held })
    }
}
