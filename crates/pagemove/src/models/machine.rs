//! Machines for models: metadata only, no RAM. One polls to wait, the other sleeps.

use alloc::{boxed::Box, sync::Arc, vec};
use core::ptr::NonNull;

use loom::{
    cell::UnsafeCell,
    sync::{Condvar, Mutex, atomic::fence},
    thread,
};

use crate::{
    Engine,
    port::{Contents, CpuClaim, FlushRange, LentMemory, Machine, Ram, Space},
    sync::{AtomicU32, Ordering},
    units::{FrameRange, Order, Pfn},
    zone::Config,
};

/// Frames of most models' memory: two pageblocks of order 1.
pub(super) const FRAMES: u32 = 4;
/// Frames where there are page tables.
const MORE_FRAMES: u32 = 8;

/// How [`Machine::wait`] waits.
pub(super) enum Waiting {
    /// Polls. That orders nothing, so a missing ordering shows.
    Polling,
    /// Sleeps until woken. A lost wake-up is a deadlock.
    Sleeping(Mutex<()>, Condvar),
}

/// A machine whose TLB, if any, is `flush`.
pub(super) struct Model {
    waiting: Waiting,
    flush: Box<dyn Fn() + Send + Sync>,
    has_barrier: bool,
}

impl Model {
    pub(super) fn polling() -> Arc<Self> {
        Self::with(Waiting::Polling, || ())
    }

    pub(super) fn sleeping() -> Arc<Self> {
        Self::with(Waiting::Sleeping(Mutex::new(()), Condvar::new()), || ())
    }

    pub(super) fn with(waiting: Waiting, flush: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { waiting, flush: Box::new(flush), has_barrier: true })
    }

    /// One without a barrier. No CPU uses its lists there; only draining threads do.
    pub(super) fn without_barrier() -> Arc<Self> {
        Arc::new(Self { waiting: Waiting::Polling, flush: Box::new(|| ()), has_barrier: false })
    }

    pub(super) fn boot(self: Arc<Self>) -> Arc<Engine> {
        self.boot_with(FRAMES)
    }

    /// Boots with frames for page tables.
    pub(super) fn boot_larger(self: Arc<Self>) -> Arc<Engine> {
        self.boot_with(MORE_FRAMES)
    }

    fn boot_with(self: Arc<Self>, frames: u32) -> Arc<Engine> {
        let zones = vec![FrameRange::new(Pfn::new(0), frames).expect("a range")];
        let pageblock_order = Order::new(1).expect("an order");
        Engine::boot(self, &Config::new(zones, pageblock_order)).expect("an engine")
    }
}

// Metadata; aligned as the trait requires.
#[derive(Clone, Default)]
#[repr(align(64))]
struct Line {
    _words: [u64; 8],
}

#[allow(unsafe_code)]
// SAFETY: no CPU is ever claimed; the barrier is a full fence in the caller, see `light_barrier`.
unsafe impl Machine for Model {
    fn take_ram(&self) -> Option<Ram> {
        #[allow(unsafe_code)]
        // SAFETY: never accessed: data frames have no contents, and loom keeps page tables elsewhere.
        Some(unsafe { Ram::new(NonNull::dangling(), Pfn::new(0)..Pfn::new(MORE_FRAMES.into()), Contents::TablesOnly) })
    }

    fn lend(&self, bytes: usize) -> Option<LentMemory> {
        let mut lines = vec![Line::default(); bytes.div_ceil(64)].into_boxed_slice();
        let start = NonNull::new(lines.as_mut_ptr().cast())?;
        #[allow(unsafe_code)]
        // SAFETY: zeroed, aligned, and kept by the box.
        Some(unsafe { LentMemory::new(start, bytes, Box::new(lines)) })
    }

    unsafe fn move_root(&self, _: Space, _: Pfn, publish: &mut dyn FnMut()) {
        publish();
        // A CPU that walks by the old root ends.
        (self.flush)();
    }

    fn flush(&self, _: &[FlushRange]) {
        (self.flush)();
    }

    fn cpus(&self) -> usize {
        1
    }

    fn cpu_claim(&self) -> CpuClaim {
        CpuClaim::NONE
    }

    fn barrier(&self) {
        if self.has_barrier {
            fence(Ordering::SeqCst);
        }
    }

    fn wait(&self, word: &AtomicU32, value: u32) {
        match &self.waiting {
            Waiting::Polling => thread::yield_now(),
            Waiting::Sleeping(lock, woken) => {
                let guard = lock.lock().expect("nobody panics with it");
                if word.load(Ordering::Relaxed) == value {
                    drop(woken.wait(guard));
                }
            }
        }
    }

    fn wake(&self, _: &AtomicU32) {
        if let Waiting::Sleeping(lock, woken) = &self.waiting {
            let _guard = lock.lock().expect("nobody panics with it");
            woken.notify_all();
        }
    }

    fn pause(&self) {
        thread::yield_now();
    }

    fn now_ns(&self) -> u64 {
        0
    }
}

/// A value that a protocol guards: loom fails if two threads use it at once, or unordered.
pub(super) struct Guarded(UnsafeCell<u64>);

#[allow(unsafe_code)]
// SAFETY: loom checks every access.
unsafe impl Sync for Guarded {}

impl Guarded {
    pub(super) fn new() -> Self {
        Self(UnsafeCell::new(0))
    }

    pub(super) fn read(&self) -> u64 {
        #[allow(unsafe_code)]
        // SAFETY: loom checks that nobody writes meanwhile.
        self.0.with(|value| unsafe { *value })
    }

    pub(super) fn write(&self, new: u64) {
        #[allow(unsafe_code)]
        // SAFETY: loom checks that nobody else uses it meanwhile.
        self.0.with_mut(|value| unsafe { *value = new });
    }
}
