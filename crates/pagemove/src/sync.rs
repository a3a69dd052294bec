//! The one import point for atomics and locks.
//!
//! With the feature `std` locks sleep (threads can outnumber processors), without it they spin; both give the same
//! calls: `lock`, `try_lock`, `read`, `try_read`, `write`. A checker's own atomics are to be put in here as well.

pub(crate) use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

#[cfg(feature = "std")]
pub(crate) use parking_lot::{Mutex, RwLock, RwLockWriteGuard};
#[cfg(not(feature = "std"))]
pub(crate) use spin::{RwLock, RwLockWriteGuard, mutex::Mutex};
