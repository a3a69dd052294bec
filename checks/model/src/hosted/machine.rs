//! The hosted machine, for one thread: a wait panics, since no other thread can wake it. Flushes can be skipped, to
//! check that this is found.
#![allow(unsafe_code, reason = "a machine is an unsafe trait; this one passes all on to a real one")]

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use pagemove::port::{FlushRange, Machine};
use pagemove_hosted::Hosted;

/// The machine.
pub(crate) struct SingleThreaded {
    inner: Arc<Hosted>,
    skips_flushes: AtomicBool,
}

impl SingleThreaded {
    pub(crate) fn new(inner: Arc<Hosted>) -> Arc<Self> {
        Arc::new(Self { inner, skips_flushes: AtomicBool::new(false) })
    }

    /// Skips flushes from now on, or makes them again.
    pub(crate) fn skip_flushes(&self, skip: bool) {
        // Relaxed: one thread.
        self.skips_flushes.store(skip, Ordering::Relaxed);
    }
}

// SAFETY: as the hosted machine's. A skipped flush breaks the engine's guarantees to processes, on purpose; frames
// remain memory of the machine.
unsafe impl Machine for SingleThreaded {
    pagemove::pass_on!(inner: take_ram return_ram lend lend_sparse root_made move_root root_freed cpus cpu_claim interrupt_mask preemption might_wait barrier wake pause now_ns);

    fn flush(&self, ranges: &[FlushRange]) {
        if !self.skips_flushes.load(Ordering::Relaxed) {
            self.inner.flush(ranges);
        }
    }

    fn wait(&self, word: &AtomicU32, value: u32) {
        assert_ne!(word.load(Ordering::Acquire), value, "waits, and nobody is there to wake it");
    }
}
