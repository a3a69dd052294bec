//! What holding a lock means for its thread.
//!
//! Locks that spin: the thread is not preempted, if the machine brings the means. Locks that sleep: they are counted, so that a thread
//! which sleeps with one is found, since without `std` that lock would spin.

/// How a thread keeps its CPU while it holds a lock that spins. Plain functions, which must not lock; calls nest.
#[derive(Debug, Clone, Copy)]
pub struct Preemption {
    /// Disables preemption (Linux: `preempt_disable`).
    pub disable: fn(),
    /// Enables it again, as often as it was disabled.
    pub enable: fn(),
}

/// Locks spin.
#[cfg(any(not(feature = "std"), feature = "spinning"))]
mod kept {
    use super::Preemption;

    /// The first machine's: a program has one scheduler.
    static PREEMPTION: spin::Once<Preemption> = spin::Once::new();

    pub(crate) fn set_preemption(preemption: Option<Preemption>) {
        if let Some(preemption) = preemption {
            PREEMPTION.call_once(|| preemption);
        }
    }

    pub(crate) fn begin() -> Option<fn()> {
        let preemption = PREEMPTION.get()?;
        (preemption.disable)();
        Some(preemption.enable)
    }

    /// The machine knows.
    pub(crate) fn assert_none_held() {}
}

/// Locks sleep, and are counted.
#[cfg(all(feature = "std", debug_assertions, not(any(feature = "spinning", feature = "shuttle", feature = "loom"))))]
mod kept {
    extern crate std;

    use core::cell::Cell;

    use super::Preemption;

    std::thread_local! {
        static HELD: Cell<u32> = const { Cell::new(0) };
    }

    pub(crate) fn set_preemption(_: Option<Preemption>) {}

    pub(crate) fn begin() -> Option<fn()> {
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

/// Locks sleep, or are a checker's.
#[cfg(not(any(
    any(not(feature = "std"), feature = "spinning"),
    all(feature = "std", debug_assertions, not(any(feature = "spinning", feature = "shuttle", feature = "loom")))
)))]
mod kept {
    pub(crate) fn set_preemption(_: Option<super::Preemption>) {}

    pub(crate) fn assert_none_held() {}
}

pub(crate) use kept::{assert_none_held, set_preemption};

#[cfg(any(
    any(not(feature = "std"), feature = "spinning"),
    all(feature = "std", debug_assertions, not(any(feature = "spinning", feature = "shuttle", feature = "loom")))
))]
pub(super) use guard::Held;

#[cfg(any(
    any(not(feature = "std"), feature = "spinning"),
    all(feature = "std", debug_assertions, not(any(feature = "spinning", feature = "shuttle", feature = "loom")))
))]
mod guard {
    use core::marker::PhantomData;

    /// One lock that this thread holds, or is about to take.
    #[derive(Debug)]
    pub(crate) struct Held {
        end: Option<fn()>,
        // Its thread's alone.
        _thread: PhantomData<*const ()>,
    }

    impl Held {
        pub(crate) fn new() -> Self {
            Self { end: super::kept::begin(), _thread: PhantomData }
        }
    }

    impl Drop for Held {
        fn drop(&mut self) {
            if let Some(end) = self.end {
                end();
            }
        }
    }
}
