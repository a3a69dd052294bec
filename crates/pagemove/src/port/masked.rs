//! A lock that interrupt handlers may take (Linux: `spin_lock_irqsave`).
//!
//! While it is held, no handler that calls the engine runs on the holder's CPU: it would wait for the code that it
//! interrupted. The holder doesn't sleep, waits for other CPUs only at such locks, and releases them in reverse order.

use core::ops::{Deref, DerefMut};

use super::InterruptMask;
use crate::sync::{Mutex, MutexGuard};

/// A mutex whose holder's CPU takes no interrupts; without a mask an ordinary mutex.
#[derive(Debug)]
pub(crate) struct MaskedMutex<T> {
    mask: Option<InterruptMask>,
    inner: Mutex<T>,
}

impl<T> MaskedMutex<T> {
    /// Makes it unlocked.
    pub(crate) fn new(mask: Option<InterruptMask>, value: T) -> Self {
        Self { mask, inner: Mutex::new(value) }
    }

    /// Masks interrupts, then locks: in the other order an interrupt between the two would find the lock held.
    #[inline]
    pub(crate) fn lock(&self) -> MaskedGuard<'_, T> {
        let masked = self.mask.map(|mask| Masked { before: (mask.mask)(), restore: mask.restore });
        MaskedGuard { inner: self.inner.lock(), _masked: masked }
    }
}

/// Access to the value, with interrupts masked.
pub(crate) struct MaskedGuard<'a, T> {
    inner: MutexGuard<'a, T>,
    // Last, since fields are dropped in this order: unlock first, then restore interrupts.
    _masked: Option<Masked>,
}

impl<T> Deref for MaskedGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> DerefMut for MaskedGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

/// Interrupts are masked until this is dropped.
struct Masked {
    before: usize,
    restore: fn(usize),
}

impl Drop for Masked {
    #[inline]
    fn drop(&mut self) {
        (self.restore)(self.before);
    }
}

#[cfg(all(test, not(any(feature = "loom", feature = "shuttle"))))]
mod tests {
    extern crate std;

    use core::cell::Cell;

    use super::*;

    std::thread_local! {
        static DEPTH: Cell<usize> = const { Cell::new(0) };
        static SHOWN: Cell<Option<&'static MaskedMutex<u32>>> = const { Cell::new(None) };
    }

    /// Checks, when interrupts are masked or restored, that the lock isn't held.
    fn assert_is_free() {
        if let Some(lock) = SHOWN.get() {
            assert!(lock.inner.try_lock().is_some(), "held with interrupts on");
        }
    }

    fn mask() -> usize {
        assert_is_free();
        DEPTH.replace(DEPTH.get() + 1)
    }

    fn restore(before: usize) {
        assert_is_free();
        assert_eq!(DEPTH.replace(before), before + 1, "in reverse order");
    }

    #[test]
    fn is_held_only_while_interrupts_are_masked() {
        static LOCK: std::sync::OnceLock<MaskedMutex<u32>> = std::sync::OnceLock::new();
        let lock = LOCK.get_or_init(|| MaskedMutex::new(Some(InterruptMask { mask, restore }), 1));
        SHOWN.set(Some(lock));
        let mut guard = lock.lock();
        *guard += 1;
        assert_eq!((DEPTH.get(), *guard), (1, 2));
        drop(guard);
        SHOWN.set(None);
        let other = MaskedMutex::new(lock.mask, ());
        let nested = (other.lock(), lock.lock());
        assert_eq!(DEPTH.get(), 2);
        drop(nested.1);
        drop(nested.0);
        assert_eq!(DEPTH.get(), 0);
    }

    #[test]
    fn without_a_mask_it_is_a_plain_mutex() {
        let lock = MaskedMutex::new(None, 1);
        *lock.lock() += 1;
        assert_eq!(*lock.lock(), 2);
    }
}
