//! The engine's machine on x86-64.
//!
//! `unsafe`: views of the kernel's own root, and the promise to load only what exists. Relies on the contracts of [`Setup`]'s author.
#![allow(unsafe_code)]

use alloc::{boxed::Box, sync::Arc};
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
    platform::{Instructions, Platform, Privileged, masked},
    shootdown::{Cpus, Deed, needs_flush},
    sparse::Sparse,
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
    /// Frames for the engine's metadata, as [`MemoryMap::config_with_metadata`](crate::memory::MemoryMap::config_with_metadata) gives them.
    pub lent: FrameRange,
    /// An address in the upper half, aligned to 512 GiB, from which on nothing is mapped: for metadata with holes. It takes 32 bytes for each
    /// frame from the first to the last, holes included: 1 TiB is enough for 128 TiB.
    pub sparse: u64,
}

/// The machine. The kernel keeps an `Arc` of it, for its interrupt handlers and its scheduler.
pub struct X86Machine<P, I = Privileged> {
    setup: Setup,
    cpus: Cpus,
    is_taken: AtomicBool,
    // The frames of `lent` that were not lent yet.
    left: Mutex<Range<u64>>,
    // Where the next table with holes begins.
    next_sparse: Mutex<u64>,
    _kernel: PhantomData<fn() -> (P, I)>,
}

impl<P: Platform, I: Instructions> X86Machine<P, I> {
    /// Makes the machine; the caller's CPU is online, the others when they call [`Self::cpu_started`].
    ///
    /// # Safety
    /// The caller's CPU has `kernel_root` loaded, a frame of `ram` whose upper half maps all that the kernel uses. `lent` is in `ram`, nobody
    /// uses it, and the engine's configuration reserves it. Nothing is mapped from `sparse` on, but what this machine maps there.
    ///
    /// # Panics
    /// If there are more CPUs than [`MAX_CPUS`](crate::cpus::MAX_CPUS), or none.
    pub unsafe fn new(setup: Setup) -> Arc<Self> {
        assert!((1..=crate::cpus::MAX_CPUS).contains(&setup.cpus), "1 to 256 CPUs, not {}", setup.cpus);
        let cpus = Cpus::new(setup.cpus, setup.kernel_root, I::has_pcids());
        let left = setup.lent.start.get()..setup.lent.end().get();
        let machine = Self {
            cpus,
            is_taken: AtomicBool::new(false),
            left: Mutex::new(left),
            next_sparse: Mutex::new(setup.sparse),
            setup,
            _kernel: PhantomData,
        };
        let own = masked::<I, _>(P::cpu);
        // SAFETY: the caller's CPU, which has the kernel's root, by the contract of this function.
        unsafe { machine.cpu_started(own) };
        Arc::new(machine)
    }

    /// CPU `cpu` is online: it answers interrupts from now on. Called on that CPU.
    ///
    /// # Safety
    /// It's the caller's CPU, and has the kernel's own root loaded. It hasn't called the engine before, nor a heap that grows from it: barriers
    /// skip a CPU that isn't online.
    ///
    /// # Panics
    /// If there is no such CPU in [`Setup::cpus`], or if it has PCIDs switched on and the first CPU hadn't, or the other way round.
    pub unsafe fn cpu_started(&self, cpu: usize) {
        assert!(cpu < self.cpus.len(), "CPU {cpu} has started, but the machine was made for {}", self.cpus.len());
        assert_eq!(
            I::has_pcids(),
            self.cpus.has_pcids,
            "CPU {cpu} must have CR4.PCIDE as the CPU that made the machine had it"
        );
        self.cpus.of(cpu).is_online.store(true, Ordering::SeqCst);
    }

    /// Does what other CPUs have asked of this one. Called by the handler of the interrupt of [`Platform::send_ipi`], and by a CPU that
    /// waits for long with interrupts masked. Takes no lock that a holder sleeps with.
    pub fn answer(&self) {
        masked::<I, _>(|| self.cpus.answer::<I>(P::cpu()));
    }

    /// Has this CPU run `table`'s address space. Loads the root only if need be. Called by the scheduler.
    ///
    /// # Safety
    /// Interrupts are masked. The table is of the engine that was booted on this machine.
    pub unsafe fn activate(&self, table: &PageTable<X86_64>) {
        let cpu = self.cpus.of(P::cpu());
        debug_assert!(!I::are_interrupts_on(), "`activate` is called with interrupts masked");
        debug_assert!(
            cpu.is_online.load(Ordering::Relaxed),
            "CPU {} runs a process, and hasn't called `cpu_started`",
            P::cpu()
        );
        match cpu.tlb.enter(table.space().id) {
            Load::Loaded => (),
            // The root is read after `enter`: a move of the root either is seen here, or sees that this CPU has it loaded.
            Load::Root { pcid, keep } => self.cpus.load::<I>(table.root(), pcid, keep),
        }
        cpu.tlb.has_switched();
    }

    /// This CPU runs kernel threads, or idles, until the next [`Self::activate`]. It keeps the root that it has loaded, and is
    /// spared interrupts of flushes that only change leaf entries. Called by the scheduler.
    ///
    /// # Safety
    /// Interrupts are masked. Until the next [`Self::activate`] nothing on this CPU uses addresses of the lower half.
    pub unsafe fn go_lazy(&self) {
        debug_assert!(!I::are_interrupts_on(), "`go_lazy` is called with interrupts masked");
        self.cpus.of(P::cpu()).tlb.go_lazy();
    }

    /// Gives the number of interrupts sent for flushes, barriers and roots.
    pub fn interrupts_sent(&self) -> usize {
        self.cpus.interrupts.load(Ordering::Relaxed)
    }

    /// Takes a cleared frame of `lent`.
    fn take(&self) -> Option<Pfn> {
        let pfn = {
            let mut left = self.left.lock();
            Pfn::new(left.next()?)
        };
        // SAFETY: nobody uses these frames, by `new`'s contract.
        let words = unsafe { self.setup.ram.words(pfn) };
        words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        Some(pfn)
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

    unsafe fn return_ram(&self) {
        // Where metadata with holes was mapped, its frames and tables are in use for good.
        if *self.next_sparse.lock() != self.setup.sparse {
            return;
        }
        *self.left.lock() = self.setup.lent.start.get()..self.setup.lent.end().get();
        self.is_taken.store(false, Ordering::Release);
    }

    fn lend(&self, bytes: usize) -> Option<LentMemory> {
        // They follow each other: nobody else takes any at boot.
        let frames = bytes.div_ceil(PAGE_SIZE).max(1);
        let first = self.take()?;
        for at in 1..frames as u32 {
            if self.take()? != first.up(at) {
                return None;
            }
        }
        // SAFETY: a frame of `lent`, cleared.
        let start = NonNull::from(unsafe { self.setup.ram.words(first) }).cast();
        // SAFETY: cleared, and lent until the engine has ended: the machine isn't asked twice for the same frames before.
        Some(unsafe { LentMemory::new(start, bytes, Box::new(())) })
    }

    fn lend_sparse(&self, bytes: usize, used: &[Range<usize>]) -> Option<LentMemory> {
        let pages = (bytes.div_ceil(PAGE_SIZE) * PAGE_SIZE) as u64;
        let mut next = self.next_sparse.lock();
        let (address, root) = (*next, self.setup.kernel_root);
        let mut sparse = Sparse { ram: self.setup.ram, take: &mut || self.take() };
        // Also if it fails half-way: what is mapped stays.
        *next += pages;
        // SAFETY: nothing is mapped there, by `new`'s contract; the root is the kernel's own.
        unsafe { sparse.map(root, address, pages, used) }?;
        // SAFETY: just mapped, and cleared; as in `lend`.
        Some(unsafe { LentMemory::new(NonNull::new(address as *mut u8)?, bytes, Box::new(())) })
    }

    unsafe fn root_made(&self, _: SpaceId, root: Pfn) -> u64 {
        self.fill_kernel_half(root);
        0
    }

    unsafe fn move_root(&self, space: Space, to: Pfn, publish: &mut dyn FnMut()) {
        self.fill_kernel_half(to);
        publish();
        self.cpus.run::<P, I>(Deed::MoveRoot(space.id, to), |cpu| cpu.tlb.must_interrupt(space, true));
    }

    unsafe fn root_freed(&self, space: Space) {
        self.cpus.run::<P, I>(Deed::FreeRoot(space.id), |cpu| cpu.tlb.must_interrupt(space, true));
    }

    fn flush(&self, ranges: &[FlushRange]) {
        self.cpus.run::<P, I>(Deed::Flush(ranges), |cpu| needs_flush(cpu, ranges));
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
        self.cpus.run::<P, I>(Deed::Barrier, |_| true);
    }

    fn wait(&self, word: &AtomicU32, value: u32) {
        P::wait(word, value);
    }

    fn wake(&self, word: &AtomicU32) {
        P::wake(word);
    }

    fn might_wait(&self) {
        assert!(I::are_interrupts_on(), "a call that may wait for other CPUs, with interrupts masked");
    }

    fn pause(&self) {
        P::pause();
    }

    fn now_ns(&self) -> u64 {
        P::now_ns()
    }
}
