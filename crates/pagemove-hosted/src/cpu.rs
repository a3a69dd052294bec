//! Which virtual processor a thread is: the one it entered, or one given in turn at its first use.

use std::{
    cell::Cell,
    sync::atomic::{AtomicUsize, Ordering},
};

static NEXT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static CPU: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Makes this thread run as virtual processor `cpu` (modulo the machine's number of them) from now on.
pub fn enter(cpu: usize) {
    CPU.set(Some(cpu));
}

/// Gives this thread's number, below `cpus`.
pub(crate) fn current(cpus: usize) -> usize {
    let cpu = CPU.get().unwrap_or_else(|| {
        let cpu = NEXT.fetch_add(1, Ordering::Relaxed);
        enter(cpu);
        cpu
    });
    // Mostly it is below already, and a division costs as much as an allocation may.
    if cpu < cpus { cpu } else { cpu % cpus }
}
