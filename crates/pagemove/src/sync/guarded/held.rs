//! What is done while a thread holds a lock.
//!
//! Locks that spin: the thread is not preempted, if the machine brings the means. Locks that sleep: they are counted, so that a thread
//! which sleeps with one is found, since without `std` that lock would spin.

use core::marker::PhantomData;

#[cfg(any(not(feature = "std"), feature = "spinning"))]
mod kept {
    use crate::sync::preemption::Preemption;

    /// The first machine's: a program has one scheduler.
    static PREEMPTION: spin::Once<Preemption> = spin::Once::new();

    pub(crate) fn set_preemption(preemption: Option<Preemption>) {
        if let Some(preemption) = preemption {
            PREEMPTION.call_once(|| preemption);
        }
    }

    pub(super) fn begin() -> Option<fn()> {
        let preemption = PREEMPTION.get()?;
        (preemption.disable)();
        Some(preemption.enable)
    }

    /// The machine knows.
    pub(crate) fn assert_none_held() {}
}

#[cfg(all(feature = "std", not(feature = "spinning")))]
mod kept {
    extern crate std;

    use core::cell::Cell;

    use crate::sync::preemption::Preemption;

    std::thread_local! {
        static HELD: Cell<u32> = const { Cell::new(0) };
    }

    pub(crate) fn set_preemption(_: Option<Preemption>) {}

    pub(super) fn begin() -> Option<fn()> {
        HELD.set(HELD.get() + 1);
        Some(|| HELD.set(HELD.get() - 1))
    }

    /// Panics if this thread holds a lock.
    #[track_caller]
    pub(crate) fn assert_none_held() {
        assert_eq!(
            HELD.get(),
            0,
            "a thread is about to sleep that holds a lock of the engine, which spins without `std`"
        );
    }
}

pub(crate) use kept::{assert_none_held, set_preemption};

/// One lock that this thread holds, or is about to take; or something else for which others spin.
#[derive(Debug)]
pub(crate) struct Held {
    end: Option<fn()>,
    // Its thread's alone.
    _thread: PhantomData<*const ()>,
}

impl Held {
    pub(crate) fn new() -> Self {
        Self { end: kept::begin(), _thread: PhantomData }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(end) = self.end {
            end();
        }
    }
}
