//! Which virtual processor a thread is.
//!
//! Every thread that lives has a number of its own, the smallest that is free when it first asks. Those below a machine's
//! number of processors are its processors; a machine's TLBs, which threads may share, are taken modulo.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicUsize, Ordering},
};

use parking_lot::Mutex;

/// Numbers given back, all below `NEXT`.
static FREE: Mutex<BTreeSet<usize>> = Mutex::new(BTreeSet::new());
static NEXT: AtomicUsize = AtomicUsize::new(0);

struct Number(usize);

impl Number {
    fn new() -> Self {
        let mut free = FREE.lock();
        // Under the lock, so that the smallest one is given.
        Self(free.pop_first().unwrap_or_else(|| NEXT.fetch_add(1, Ordering::Relaxed)))
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        FREE.lock().insert(self.0);
    }
}

thread_local! {
    static NUMBER: Number = Number::new();
}

/// Gives this thread's number; `None` while the thread ends.
pub(crate) fn number() -> Option<usize> {
    NUMBER.try_with(|number| number.0).ok()
}
