//! The hosted machine, for one thread: waiting is a failure, since nobody is there to wake; and flushes can be left out, to
//! see that this is found.
#![allow(unsafe_code, reason = "a machine is an unsafe trait; this one passes all on to a real one")]

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use pagemove::{
    port::{CpuClaim, FlushRange, InterruptMask, LentMemory, Machine, Ram, Space, SpaceId},
    units::Pfn,
};
use pagemove_hosted::Hosted;

/// The machine.
pub(crate) struct Lonely {
    inner: Arc<Hosted>,
    skips_flushes: AtomicBool,
}

impl Lonely {
    pub(crate) fn new(inner: Arc<Hosted>) -> Arc<Self> {
        Arc::new(Self { inner, skips_flushes: AtomicBool::new(false) })
    }

    /// Leaves flushes out from now on, or does them again.
    pub(crate) fn skip_flushes(&self, skip: bool) {
        // Relaxed: one thread.
        self.skips_flushes.store(skip, Ordering::Relaxed);
    }
}

// SAFETY: as the hosted machine's. A flush that is left out breaks the engine's promises to processes, which is what it's for;
// frames are memory of the machine all the time.
unsafe impl Machine for Lonely {
    fn take_ram(&self) -> Option<Ram> {
        self.inner.take_ram()
    }

    fn lend(&self, bytes: usize) -> Option<LentMemory> {
        self.inner.lend(bytes)
    }

    fn root_made(&self, id: SpaceId, root: Pfn) -> u64 {
        self.inner.root_made(id, root)
    }

    fn root_freed(&self, space: Space) {
        self.inner.root_freed(space);
    }

    fn flush(&self, ranges: &[FlushRange]) {
        if !self.skips_flushes.load(Ordering::Relaxed) {
            self.inner.flush(ranges);
        }
    }

    fn cpus(&self) -> usize {
        self.inner.cpus()
    }

    fn cpu_claim(&self) -> CpuClaim {
        self.inner.cpu_claim()
    }

    fn interrupt_mask(&self) -> Option<InterruptMask> {
        self.inner.interrupt_mask()
    }

    fn might_wait(&self) {
        self.inner.might_wait();
    }

    fn barrier(&self) {
        self.inner.barrier();
    }

    fn wait(&self, word: &AtomicU32, value: u32) {
        assert_ne!(word.load(Ordering::Acquire), value, "waits, and nobody is there to wake it");
    }

    fn wake(&self, word: &AtomicU32) {
        self.inner.wake(word);
    }

    fn pause(&self) {
        self.inner.pause();
    }

    fn now_ns(&self) -> u64 {
        self.inner.now_ns()
    }
}
