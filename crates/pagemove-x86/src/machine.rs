//! The engine's machine on x86-64.
//!
//! `unsafe`: views of the kernel's own root, and the promise to load only what exists. Relies on the contracts of [`Setup`]'s author.
#![allow(unsafe_code)]

use alloc::{boxed::Box, sync::Arc, vec::Vec};
use core::{
    marker::PhantomData,
    ops::Range,
    ptr::NonNull,
    sync::atomic::{AtomicBool, Ordering},
};

use pagemove::{
    paging::{PageTable, X86_64},
    port::{CpuClaim, FlushRange, InterruptMask, LentMemory, Machine, Preemption, Ram, Space, SpaceId},
    sync::{AtomicU32, Mutex},
    units::{FrameRange, PAGE_SIZE, Pfn},
};

use crate::{
    platform::{Instructions, Platform, Privileged},
    shootdown::{Cpus, Work, needs_flush},
    tlb::Load,
};

/// The entries of a root that are the kernel's.
const KERNEL_HALF: Range<usize> = 256..512;

/// What a machine is made of.
pub struct Setup {
    /// The direct map.
    pub ram: Ram,
    /// The frame of the kernel's own root. Its upper half is copied to each address space, so its entries don't change any more.
    pub kernel_root: Pfn,
    /// The number of CPUs, also of those that start later.
    pub cpus: usize,
    /// Frames for the engine's metadata: at least `Config::lent_bytes`, and a page for each of the three pieces.
    pub lent: FrameRange,
}

/// The machine. The kernel keeps an `Arc` of it, for its interrupt handlers and its scheduler.
pub struct X86Machine<P, I = Privileged> {
    setup: Setup,
    cpus: Cpus,
    is_taken: AtomicBool,
    // The frames of `lent` that were not lent yet.
    left: Mutex<Range<u64>>,
    _kernel: PhantomData<fn() -> (P, I)>,
}

impl<P: Platform, I: Instructions> X86Machine<P, I> {
    /// Makes the machine; the caller's CPU is online, the others when they call [`Self::cpu_started`].
    ///
    /// # Safety
    /// All CPUs run on `kernel_root` now, or on a root that has its upper half, and all that the kernel uses is in that half. `lent` is in
    /// `ram`, nobody uses it, and the engine's configuration reserves it.
    ///
    /// # Panics
    /// If there are more CPUs than [`MAX_CPUS`](crate::cpus::MAX_CPUS), or none.
    pub unsafe fn new(setup: Setup) -> Arc<Self> {
        assert!((1..=crate::cpus::MAX_CPUS).contains(&setup.cpus), "1 to 256 CPUs, not {}", setup.cpus);
        let cpus = Cpus::new(setup.cpus, setup.kernel_root, I::has_pcids());
        let left = setup.lent.start.get()..setup.lent.end().get();
        let machine =
            Self { cpus, is_taken: AtomicBool::new(false), left: Mutex::new(left), setup, _kernel: PhantomData };
        let own = Self::with_interrupts_masked(P::cpu);
        machine.cpu_started(own);
        Arc::new(machine)
    }

    fn with_interrupts_masked<T>(deed: impl FnOnce() -> T) -> T {
        let were_on = I::mask_interrupts();
        let result = deed();
        I::restore_interrupts(were_on);
        result
    }

    /// CPU `cpu` is online: it answers interrupts from now on, and has the kernel's own root loaded.
    pub fn cpu_started(&self, cpu: usize) {
        self.cpus.of(cpu).is_online.store(true, Ordering::SeqCst);
    }

    /// Does what other CPUs have asked of this one. Called by the handler of the interrupt of [`Platform::send_ipi`], and by a CPU that
    /// waits for long with interrupts masked. Takes no lock that a holder sleeps with.
    pub fn answer(&self) {
        Self::with_interrupts_masked(|| self.cpus.answer::<I>(P::cpu()));
    }

    /// Has this CPU run `table`'s address space. Loads the root only if need be. Called by the scheduler.
    ///
    /// # Safety
    /// Interrupts are masked. The table is of the engine that was booted on this machine.
    pub unsafe fn activate(&self, table: &PageTable<X86_64>) {
        match self.cpus.of(P::cpu()).tlb.enter(table.space().id) {
            Load::Loaded => (),
            // The root is read after `enter`: a move of the root either is seen here, or sees that this CPU has it loaded.
            Load::Root { pcid, keep } => self.cpus.load::<I>(table.root(), pcid, keep),
        }
    }

    /// This CPU runs kernel threads, or idles, until the next [`Self::activate`]. It keeps the root that it has loaded, and is
    /// spared interrupts of flushes that only change leaf entries. Called by the scheduler with interrupts masked.
    pub fn go_lazy(&self) {
        self.cpus.of(P::cpu()).tlb.go_lazy();
    }

    /// Gives the number of interrupts sent for flushes, barriers and roots.
    pub fn interrupts_sent(&self) -> usize {
        self.cpus.interrupts.load(Ordering::Relaxed)
    }

    /// Writes the kernel's half into a new root.
    fn fill_kernel_half(&self, root: Pfn) {
        // SAFETY: the kernel's own root stays; the new one is the engine's, which called for this.
        let (from, to) = unsafe { (self.setup.ram.words(self.setup.kernel_root), self.setup.ram.words(root)) };
        for (from, to) in from[KERNEL_HALF].iter().zip(&to[KERNEL_HALF]) {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }
}

// SAFETY: a CPU's number is the caller's while it is claimed, by `Platform`'s contract; `barrier` interrupts all CPUs; `take_ram` gives the
// RAM to one engine at a time.
unsafe impl<P: Platform, I: Instructions> Machine for X86Machine<P, I> {
    fn take_ram(&self) -> Option<Ram> {
        (!self.is_taken.swap(true, Ordering::Acquire)).then_some(self.setup.ram)
    }

    fn return_ram(&self) {
        *self.left.lock() = self.setup.lent.start.get()..self.setup.lent.end().get();
        self.is_taken.store(false, Ordering::Release);
    }

    fn lend(&self, bytes: usize) -> Option<LentMemory> {
        let frames = bytes.div_ceil(PAGE_SIZE) as u64;
        let mut left = self.left.lock();
        if left.end - left.start < frames {
            return None;
        }
        let pieces: Vec<Pfn> = (left.start..left.start + frames).map(Pfn::new).collect();
        left.start += frames;
        drop(left);
        let mut first = None;
        for pfn in pieces {
            // SAFETY: nobody uses these frames, by `new`'s contract.
            let words = unsafe { self.setup.ram.words(pfn) };
            words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
            first.get_or_insert(NonNull::from(words).cast());
        }
        // SAFETY: just cleared; lent until the engine has ended, as the machine isn't asked twice for the same frames before.
        Some(unsafe { LentMemory::new(first.unwrap_or(NonNull::dangling()), bytes, Box::new(())) })
    }

    fn root_made(&self, _: SpaceId, root: Pfn) -> u64 {
        self.fill_kernel_half(root);
        0
    }

    fn move_root(&self, space: Space, to: Pfn, publish: &mut dyn FnMut()) {
        self.fill_kernel_half(to);
        publish();
        self.cpus.run::<P, I>(Work::MoveRoot(space.id, to), |cpu| cpu.tlb.must_interrupt(space, true));
    }

    fn root_freed(&self, space: Space) {
        self.cpus.run::<P, I>(Work::FreeRoot(space.id), |cpu| cpu.tlb.must_interrupt(space, true));
    }

    fn flush(&self, ranges: &[FlushRange]) {
        self.cpus.run::<P, I>(Work::flush(ranges), |cpu| needs_flush(cpu, ranges));
    }

    fn cpus(&self) -> usize {
        self.cpus.len()
    }

    fn cpu_claim(&self) -> CpuClaim {
        let claim = || {
            P::disable_preemption();
            P::cpu()
        };
        CpuClaim { claim, release: Some(P::enable_preemption) }
    }

    fn interrupt_mask(&self) -> Option<InterruptMask> {
        Some(InterruptMask {
            mask: || usize::from(I::mask_interrupts()),
            restore: |were_on| I::restore_interrupts(were_on != 0),
        })
    }

    fn preemption(&self) -> Option<Preemption> {
        Some(Preemption { disable: P::disable_preemption, enable: P::enable_preemption })
    }

    fn barrier(&self) {
        self.cpus.run::<P, I>(Work::Barrier, |_| true);
    }

    fn wait(&self, word: &AtomicU32, value: u32) {
        P::wait(word, value);
    }

    fn wake(&self, word: &AtomicU32) {
        P::wake(word);
    }

    fn might_wait(&self) {
        P::might_wait();
    }

    fn pause(&self) {
        P::pause();
    }

    fn now_ns(&self) -> u64 {
        P::now_ns()
    }
}
