//! Which virtual processor a thread is.
//!
//! Every thread that lives has a number of its own, the smallest that is free when it first asks. Those below a machine's
//! number of processors are its processors; a machine's TLBs, which threads may share, are taken modulo.

use std::{
    cell::Cell,
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
        // First: whoever gets the number next must have it alone.
        let _ = KNOWN.try_with(|known| known.set(NONE));
        FREE.lock().insert(self.0);
    }
}

const NONE: usize = usize::MAX;

#[cfg(feature = "shuttle")]
use shuttle::thread_local;

thread_local! {
    static NUMBER: Number = Number::new();
    // What the other one holds, without a look at whether that still lives: allocations ask for it.
    static KNOWN: Cell<usize> = const { Cell::new(NONE) };
    static TLB: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Makes this thread use the TLB of virtual processor `cpu` (modulo the machine's number of them) from now on, so that one
/// thread can act for several. Its own lists of free frames stay those of its number.
pub fn enter(cpu: usize) {
    TLB.with(|tlb| tlb.set(Some(cpu)));
}

/// Gives the number of the TLB that this thread uses.
pub(crate) fn tlb() -> usize {
    TLB.with(Cell::get).unwrap_or_else(number)
}

/// Gives this thread's number; while the thread ends, [`NONE`], beyond all processors.
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
