//! Atomics for shuttle: those of `core`, with a possible thread switch before each access. Unlike shuttle's own they
//! are no larger than their value, so page tables in RAM can consist of them. Shuttle explores sequentially consistent
//! histories only; loom checks orderings.

extern crate std;

use core::{
    cell::Cell,
    sync::atomic::{self, Ordering},
};

std::thread_local! {
    // Of the host's thread, which all threads of an execution share.
    static STEPPING: Cell<bool> = const { Cell::new(false) };
}

/// Turns thread switches on or off. While only one thread runs there is nothing to choose, and steps would use up the
/// schedule's few thread switches.
pub fn set_stepping(on: bool) {
    STEPPING.set(on);
}

/// Lets shuttle switch threads. (Its `sleep` takes no time, and only does that.)
#[track_caller]
fn step() {
    if STEPPING.get() {
        shuttle::thread::sleep(core::time::Duration::ZERO);
    }
}

macro_rules! stepped {
    ($name:ident, $value:ty) => {
        /// As the one of `core`, with a step of the schedule before each access.
        #[derive(Debug, Default)]
        #[repr(transparent)]
        pub struct $name(atomic::$name);

        #[allow(missing_docs, reason = "as in core")]
        impl $name {
            pub const fn new(value: $value) -> Self {
                Self(atomic::$name::new(value))
            }

            #[track_caller]
            pub fn load(&self, order: Ordering) -> $value {
                step();
                self.0.load(order)
            }

            #[track_caller]
            pub fn store(&self, value: $value, order: Ordering) {
                step();
                self.0.store(value, order);
            }

            #[track_caller]
            pub fn swap(&self, value: $value, order: Ordering) -> $value {
                step();
                self.0.swap(value, order)
            }

            #[track_caller]
            pub fn compare_exchange(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                step();
                self.0.compare_exchange(current, new, success, failure)
            }

            #[track_caller]
            pub fn fetch_or(&self, value: $value, order: Ordering) -> $value {
                step();
                self.0.fetch_or(value, order)
            }

            #[track_caller]
            pub fn fetch_and(&self, value: $value, order: Ordering) -> $value {
                step();
                self.0.fetch_and(value, order)
            }

            /// In two steps, as on a CPU.
            #[track_caller]
            pub fn fetch_update(
                &self,
                success: Ordering,
                failure: Ordering,
                mut update: impl FnMut($value) -> Option<$value>,
            ) -> Result<$value, $value> {
                let mut before = self.load(failure);
                while let Some(next) = update(before) {
                    match self.compare_exchange(before, next, success, failure) {
                        Ok(done) => return Ok(done),
                        Err(now) => before = now,
                    }
                }
                Err(before)
            }
        }
    };
}

macro_rules! stepped_number {
    ($name:ident, $value:ty) => {
        stepped!($name, $value);

        #[allow(missing_docs, reason = "as in core")]
        impl $name {
            #[track_caller]
            pub fn fetch_add(&self, value: $value, order: Ordering) -> $value {
                step();
                self.0.fetch_add(value, order)
            }

            #[track_caller]
            pub fn fetch_sub(&self, value: $value, order: Ordering) -> $value {
                step();
                self.0.fetch_sub(value, order)
            }

            #[track_caller]
            pub fn fetch_max(&self, value: $value, order: Ordering) -> $value {
                step();
                self.0.fetch_max(value, order)
            }
        }
    };
}

stepped!(AtomicBool, bool);
stepped_number!(AtomicU32, u32);
stepped_number!(AtomicU64, u64);
