//! The virtual CPU of a thread.
//!
//! Every live thread has its own number, the smallest that was free when it first asked. A number below a machine's
//! number of CPUs is the thread's CPU. TLBs may be shared: a thread's TLB is its number modulo the machine's number of
//! CPUs.

use std::{
    cell::Cell,
    collections::BTreeSet,
    sync::atomic::{AtomicUsize, Ordering},
};

use parking_lot::Mutex;

/// Returned numbers, all below `NEXT`.
#[cfg(not(feature = "shuttle"))]
static FREE: Mutex<BTreeSet<usize>> = Mutex::new(BTreeSet::new());
#[cfg(not(feature = "shuttle"))]
static NEXT: AtomicUsize = AtomicUsize::new(0);

// New ones for each execution, so that a replay is the same.
#[cfg(feature = "shuttle")]
shuttle::lazy_static! {
    static ref FREE: Mutex<BTreeSet<usize>> = Mutex::new(BTreeSet::new());
    static ref NEXT: AtomicUsize = AtomicUsize::new(0);
}

struct Number(usize);

impl Number {
    fn new() -> Self {
        let mut free = FREE.lock();
        // Under the lock, so that the smallest number is taken.
        Self(free.pop_first().unwrap_or_else(|| NEXT.fetch_add(1, Ordering::Relaxed)))
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        // First, since the number's next thread must have it alone.
        let _ = KNOWN.try_with(|known| known.set(NONE));
        FREE.lock().insert(self.0);
    }
}

const NONE: usize = usize::MAX;

#[cfg(feature = "shuttle")]
use shuttle::thread_local;

thread_local! {
    static NUMBER: Number = Number::new();
    // The value of `NUMBER`, without its destructor check, since each allocation reads it.
    static KNOWN: Cell<usize> = const { Cell::new(NONE) };
    static TLB: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Makes this thread use the TLB of virtual CPU `cpu` (modulo the machine's number of CPUs) from now on, so that one
/// thread can act for several. Its lists of free frames remain those of its number.
pub fn enter(cpu: usize) {
    TLB.with(|tlb| tlb.set(Some(cpu)));
}

/// Gives the number of the TLB that this thread uses.
pub(crate) fn tlb() -> usize {
    TLB.with(Cell::get).unwrap_or_else(number)
}

/// Gives this thread's number; [`NONE`], above all CPUs, while the thread ends.
pub(crate) fn number() -> usize {
    match KNOWN.with(Cell::get) {
        NONE => first(),
        number => number,
    }
}

#[cold]
fn first() -> usize {
    let number = NUMBER.try_with(|number| number.0).unwrap_or(NONE);
    KNOWN.with(|known| known.set(number));
    number
}
