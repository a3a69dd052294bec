//! Atomics for shuttle: the plain ones, with a point before each access at which another thread may go on. Unlike
//! shuttle's own they have no more bits than their value, so page tables in RAM can be made of them. Shuttle explores
//! sequentially consistent histories only; orderings are loom's to check.

extern crate std;

use core::{
    cell::Cell,
    sync::atomic::{self, Ordering},
};

std::thread_local! {
    // The host's thread, which all of an execution's threads share.
    static STEPPING: Cell<bool> = const { Cell::new(false) };
}

/// Makes accesses steps of the schedule, or not: where only one thread lives there is nothing to choose, and steps there
/// would use up the few changes of thread that a schedule is made of.
pub fn set_stepping(on: bool) {
    STEPPING.set(on);
}

/// Lets shuttle choose who goes on. (Its threads' sleep takes no time, and is just that.)
#[track_caller]
fn step() {
    if STEPPING.get() {
        shuttle::thread::sleep(core::time::Duration::ZERO);
    }
}

macro_rules! stepped {
    ($name:ident, $value:ty) => {
        /// As the one of `core`, a step of the schedule for each access.
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

            /// In two steps, as on a processor.
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
