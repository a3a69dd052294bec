//! Locks that count those that their thread holds, for builds with debug assertions: without `std` all of them spin, so
//! nobody may sleep below one. They have the calls of `parking_lot`'s.

extern crate std;

use core::{
    cell::Cell,
    marker::PhantomData,
    ops::{Deref, DerefMut},
};

std::thread_local! {
    static HELD: Cell<u32> = const { Cell::new(0) };
}

/// Panics if this thread holds a lock.
#[track_caller]
pub(crate) fn assert_none_held() {
    assert_eq!(HELD.get(), 0, "a thread is about to sleep that holds a lock of the engine, which spins without `std`");
}

/// One lock that is held, by this thread alone.
#[derive(Debug)]
struct Held(PhantomData<*const ()>);

impl Held {
    fn new() -> Self {
        HELD.set(HELD.get() + 1);
        Self(PhantomData)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        HELD.set(HELD.get() - 1);
    }
}

macro_rules! guard {
    ($name:ident, $below:ident $(, $mutable:ident)?) => {
        /// As `parking_lot`'s.
        #[derive(Debug)]
        #[must_use = "the lock is released when this is dropped"]
        pub struct $name<'a, T> {
            below: parking_lot::$below<'a, T>,
            _held: Held,
        }

        impl<'a, T> $name<'a, T> {
            fn new(below: parking_lot::$below<'a, T>) -> Self {
                Self { below, _held: Held::new() }
            }
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
pub struct Mutex<T>(parking_lot::Mutex<T>);

impl<T> Mutex<T> {
    /// Makes it unlocked.
    pub const fn new(value: T) -> Self {
        Self(parking_lot::Mutex::new(value))
    }

    /// Locks it.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard::new(self.0.lock())
    }

    /// Locks it if that needs no wait.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        self.0.try_lock().map(MutexGuard::new)
    }
}

/// As `parking_lot::RwLock`.
#[derive(Debug, Default)]
pub struct RwLock<T>(parking_lot::RwLock<T>);

impl<T> RwLock<T> {
    /// Makes it unlocked.
    pub const fn new(value: T) -> Self {
        Self(parking_lot::RwLock::new(value))
    }

    /// Locks it for reading.
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        RwLockReadGuard::new(self.0.read())
    }

    /// Locks it for reading if that needs no wait.
    pub fn try_read(&self) -> Option<RwLockReadGuard<'_, T>> {
        self.0.try_read().map(RwLockReadGuard::new)
    }

    /// Locks it for writing.
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        RwLockWriteGuard::new(self.0.write())
    }

    /// Locks it for writing if that needs no wait.
    pub fn try_write(&self) -> Option<RwLockWriteGuard<'_, T>> {
        self.0.try_write().map(RwLockWriteGuard::new)
    }
}
