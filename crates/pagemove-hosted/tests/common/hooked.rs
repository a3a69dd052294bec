//! A machine that lets a test do something at the very moment of a TLB flush, that is between two steps of a move or in
//! the middle of a system call; that counts and interrupts waits; or that lends no memory.

use std::{
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
};

use pagemove::{
    Engine,
    port::{CpuClaim, FlushRange, InterruptMask, LentMemory, Machine, Ram, Space, SpaceId},
    units::Pfn,
    zone::{BootError, Config},
};
use pagemove_hosted::{Hosted, TlbKind};

use super::{Lab, hosted, one_zone};

type Deed = Box<dyn FnOnce() + Send>;
type Hook = Box<dyn FnOnce(&[FlushRange]) + Send>;

pub struct Hooked {
    inner: Arc<Hosted>,
    before_flush: Mutex<Option<Hook>>,
    at_barrier: Mutex<Option<Deed>>,
    at_pause: Mutex<Option<Deed>>,
    loans: AtomicUsize,
    lent: AtomicUsize,
    waits: AtomicUsize,
    interrupts: AtomicBool,
    clock: Mutex<Option<u64>>,
}

impl Hooked {
    /// A machine that lends memory `loans` times.
    pub fn new(inner: Arc<Hosted>, loans: usize) -> Arc<Self> {
        Arc::new(Self {
            inner,
            before_flush: Mutex::default(),
            at_barrier: Mutex::default(),
            at_pause: Mutex::default(),
            loans: AtomicUsize::new(loans),
            lent: AtomicUsize::new(0),
            waits: AtomicUsize::new(0),
            interrupts: AtomicBool::new(false),
            clock: Mutex::default(),
        })
    }

    /// A lab of `blocks` pageblocks, with the hooks of its machine.
    pub fn lab(tlb: TlbKind, blocks: u32) -> (Lab, Arc<Self>) {
        Self::lab_of(tlb, &one_zone(blocks * 512, 9))
    }

    /// A lab of the zones of `config`.
    pub fn lab_of(tlb: TlbKind, config: &Config) -> (Lab, Arc<Self>) {
        super::end_if_hung();
        let frames = config.zones.iter().map(|zone| super::number(zone.end())).max().unwrap();
        let machine = hosted(tlb, frames, 4);
        let hooked = Self::new(machine.clone(), usize::MAX);
        let engine = hooked.boot(config).unwrap();
        (Lab { machine, engine }, hooked)
    }

    pub fn boot(self: &Arc<Self>, config: &Config) -> Result<Arc<Engine>, BootError> {
        Engine::boot(self.clone(), config)
    }

    /// Does `hook` once, just before the next flush.
    pub fn before_next_flush(&self, hook: impl FnOnce(&[FlushRange]) + Send + 'static) {
        *self.before_flush.lock().unwrap() = Some(Box::new(hook));
    }

    /// Does `deed` once, at the next barrier of all processors.
    pub fn at_next_barrier(&self, deed: impl FnOnce() + Send + 'static) {
        *self.at_barrier.lock().unwrap() = Some(Box::new(deed));
    }

    /// Does `deed` once, when somebody next lets others run.
    pub fn at_next_pause(&self, deed: impl FnOnce() + Send + 'static) {
        *self.at_pause.lock().unwrap() = Some(Box::new(deed));
    }

    /// Ends every wait early from now on, or lets waits last again.
    pub fn interrupt_waits(&self, interrupt: bool) {
        self.interrupts.store(interrupt, Ordering::SeqCst);
    }

    /// How many bytes it has lent.
    pub fn lent(&self) -> usize {
        self.lent.load(Ordering::Relaxed)
    }

    /// Stops the machine's clock, and sets it forward by `ns`.
    pub fn advance(&self, ns: u64) {
        let mut clock = self.clock.lock().unwrap();
        *clock = Some(clock.unwrap_or(0) + ns);
    }

    /// How often anybody has waited on any word.
    pub fn waits(&self) -> usize {
        self.waits.load(Ordering::SeqCst)
    }

    /// Tells whether the hook has run.
    pub fn has_run(&self) -> bool {
        self.before_flush.lock().unwrap().is_none()
    }
}

#[allow(unsafe_code, reason = "a machine is an unsafe trait; this one passes all on to a real one")]
// SAFETY: as the hosted machine's.
unsafe impl Machine for Hooked {
    pagemove::pass_on!(inner: take_ram return_ram root_made move_root root_freed cpus cpu_claim interrupt_mask preemption might_wait wake);

    fn lend(&self, bytes: usize) -> Option<LentMemory> {
        self.loans.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).ok()?;
        self.lent.fetch_add(bytes, Ordering::Relaxed);
        self.inner.lend(bytes)
    }

    fn lend_sparse(&self, bytes: usize, used: &[Range<usize>]) -> Option<LentMemory> {
        assert!(used.is_sorted_by_key(|part| (part.start, part.end)) && used.iter().all(|part| part.end <= bytes));
        self.lent.fetch_add(used.iter().map(|part| part.len()).sum(), Ordering::Relaxed);
        self.inner.lend_sparse(bytes, used)
    }

    fn flush(&self, ranges: &[FlushRange]) {
        let hook = self.before_flush.lock().unwrap().take();
        if let Some(hook) = hook {
            hook(ranges);
        }
        self.inner.flush(ranges);
    }

    fn barrier(&self) {
        let deed = self.at_barrier.lock().unwrap().take();
        if let Some(deed) = deed {
            deed();
        }
        self.inner.barrier();
    }

    fn wait(&self, word: &AtomicU32, value: u32) {
        self.waits.fetch_add(1, Ordering::SeqCst);
        if self.interrupts.load(Ordering::SeqCst) {
            std::thread::yield_now();
        } else {
            self.inner.wait(word, value);
        }
    }

    fn pause(&self) {
        let deed = self.at_pause.lock().unwrap().take();
        if let Some(deed) = deed {
            deed();
        }
        self.inner.pause();
    }

    fn now_ns(&self) -> u64 {
        self.clock.lock().unwrap().unwrap_or_else(|| self.inner.now_ns())
    }
}
