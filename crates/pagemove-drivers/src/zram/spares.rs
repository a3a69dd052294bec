//! What a call needs for itself: buffers, a compressor's tables. Kept for the next call, so there are as many as there ever were calls at once.

use alloc::vec::Vec;
use core::ops::{Deref, DerefMut};

use pagemove::sync::Mutex;

/// Those that no call has.
pub(super) struct Spares<T>(Mutex<Vec<T>>);

impl<T> Default for Spares<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Spares<T> {
    /// Takes one, or makes it. Dropping gives it back.
    pub(super) fn take(&self, make: impl FnOnce() -> Option<T>) -> Option<Spare<'_, T>> {
        let kept = self.0.lock().pop();
        Some(Spare { of: self, value: Some(kept.or_else(make)?) })
    }
}

/// One in use.
pub(super) struct Spare<'s, T> {
    of: &'s Spares<T>,
    value: Option<T>,
}

impl<T> Deref for Spare<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.value.as_ref().expect("there until it is dropped")
    }
}

impl<T> DerefMut for Spare<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.value.as_mut().expect("there until it is dropped")
    }
}

impl<T> Drop for Spare<'_, T> {
    fn drop(&mut self) {
        let mut kept = self.of.0.lock();
        // Without memory it isn't kept.
        if kept.try_reserve(1).is_ok() {
            kept.extend(self.value.take());
        }
    }
}
