//! The hosted machine: RAM, virtual CPUs, and one of two TLBs.

use std::sync::{
    Arc, Once,
    atomic::{AtomicBool, Ordering},
};

use pagemove::{
    port::{Contents, CpuClaim, FlushRange, InterruptMask, LentMemory, Machine, Preemption, Ram, Space, SpaceId},
    sync::AtomicU32,
    units::{FrameRange, PAGE_SIZE, Pfn},
};

use crate::{
    clock::Clock,
    cpu, depth,
    error::HostedError,
    format::FIRST_FRAME,
    os::{self, Area, MemoryFile},
    roots::Roots,
    tlb::{HostTlb, SoftTlb, Tlb},
    wait,
};

/// The kind of the virtual CPUs' TLBs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TlbKind {
    /// In software: slow; keeps entries until they are flushed.
    Soft,
    /// The host's MMU.
    Host,
}

/// The configuration of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Frames of RAM that are used.
    pub frames: u32,
    /// Virtual CPUs.
    pub cpus: usize,
    /// Their TLB.
    pub tlb: TlbKind,
    /// Which frames have contents.
    pub contents: Contents,
}

/// A machine inside this program.
pub struct Hosted {
    ram: Area,
    ram_frames: FrameRange,
    config: Config,
    tlb: Tlb,
    clock: Clock,
    // Without `membarrier` no CPU can be claimed.
    has_barrier: bool,
    // RAM was given to an engine.
    is_taken: AtomicBool,
    roots: Roots,
}

/// The most memory needed besides RAM: metadata, and the program's own.
const MARGIN: u64 = 64 << 20;

impl Hosted {
    /// Makes a machine whose RAM begins at [`FIRST_FRAME`]. The host allocates it page by page, at first use.
    pub fn new(config: Config) -> Result<Arc<Self>, HostedError> {
        Self::with_ram(config, FrameRange { start: FIRST_FRAME, frames: config.frames })
    }

    /// Makes a machine whose RAM is somewhere in `ram`, in parts with holes between them: the zones of an engine's
    /// layout tell where. `config.frames` is the sum of the parts.
    pub fn with_ram(config: Config, ram: FrameRange) -> Result<Arc<Self>, HostedError> {
        if config.frames == 0 || config.cpus == 0 || ram.frames < config.frames {
            return Err(HostedError::Nothing);
        }
        let used = config.frames as u64 * PAGE_SIZE as u64;
        if config.contents == Contents::All
            && let Some(available) = os::available_memory()
            && used + MARGIN > available
        {
            return Err(HostedError::NotEnoughMemory { asked: used >> 20, available: available >> 20 });
        }
        let bytes = ram.frames as usize * PAGE_SIZE;
        let host = |what| move |source| HostedError::Host { what, source };
        let file = MemoryFile::new(bytes).map_err(host("RAM"))?;
        let area = Area::of_file(&file).map_err(host("the direct map"))?;
        let tlb = match config.tlb {
            TlbKind::Soft => Tlb::Soft(SoftTlb::new(config.cpus)),
            TlbKind::Host => {
                static HANDLER: Once = Once::new();
                HANDLER.call_once(crate::tlb::install_handler);
                Tlb::Host(HostTlb::new(file, ram.start)?)
            }
        };
        let has_barrier = os::register_barrier();
        Ok(Arc::new(Self {
            ram: area,
            ram_frames: ram,
            config,
            tlb,
            clock: Clock::start(),
            has_barrier,
            is_taken: AtomicBool::new(false),
            roots: Roots::default(),
        }))
    }

    /// Gives the configuration.
    pub fn config(&self) -> Config {
        self.config
    }

    /// Gives the frames that its RAM is in.
    pub fn frames(&self) -> FrameRange {
        self.ram_frames
    }

    /// Gives the direct map.
    pub(crate) fn area(&self) -> &Area {
        &self.ram
    }

    /// Gives the number of the TLB that this thread uses.
    pub(crate) fn tlb_number(&self) -> usize {
        let number = cpu::tlb();
        // Mostly below already, and a division costs as much as the look-up.
        if number < self.config.cpus { number } else { number % self.config.cpus }
    }

    pub(crate) fn ram(&self) -> Ram {
        #[allow(unsafe_code)]
        // SAFETY: the area is mapped readable and writable as long as `self`, page-aligned, with all these frames.
        // Besides the engine only processes access it, through the engine's page tables.
        unsafe {
            Ram::new(self.ram.start(), self.ram_frames.start..self.ram_frames.end(), self.config.contents)
        }
    }

    pub(crate) fn tlb(&self) -> &Tlb {
        &self.tlb
    }
}

#[allow(unsafe_code)]
// SAFETY: no two threads have the same number; the barrier is the host's, and without one no CPU is ever claimed.
unsafe impl Machine for Hosted {
    fn take_ram(&self) -> Option<Ram> {
        // Acquire and Release: an engine sees what the one before it did with the RAM.
        (!self.is_taken.swap(true, Ordering::Acquire)).then(|| self.ram())
    }

    unsafe fn return_ram(&self) {
        self.is_taken.store(false, Ordering::Release);
    }

    fn lend(&self, bytes: usize) -> Option<LentMemory> {
        let area = Area::zeroed(bytes.max(1)).ok()?;
        let (start, bytes) = (area.start(), area.bytes());
        #[allow(unsafe_code)]
        // SAFETY: new zeroed memory, page-aligned, used only by the borrower until the area is dropped with it.
        Some(unsafe { LentMemory::new(start, bytes, Box::new(area)) })
    }

    unsafe fn root_made(&self, id: SpaceId, root: Pfn) -> u64 {
        self.roots.add(self.ram(), id, root)
    }

    unsafe fn move_root(&self, space: Space, to: Pfn, publish: &mut dyn FnMut()) {
        self.roots.replace(self.ram(), space, to);
        publish();
        match &self.tlb {
            Tlb::Soft(tlb) => tlb.load_root(space.id, to),
            Tlb::Host(tlb) => tlb.end_walks(space.id),
        }
    }

    unsafe fn root_freed(&self, space: Space) {
        self.roots.remove(self.ram(), space);
        if let Tlb::Soft(tlb) = &self.tlb {
            tlb.forget(space.id);
        }
    }

    fn flush(&self, ranges: &[FlushRange]) {
        if cfg!(debug_assertions) {
            self.roots.check(ranges);
        }
        match &self.tlb {
            Tlb::Soft(tlb) => tlb.flush(ranges),
            Tlb::Host(tlb) => tlb.flush(ranges),
        }
    }

    fn cpus(&self) -> usize {
        self.config.cpus
    }

    fn cpu_claim(&self) -> CpuClaim {
        // A live thread's number is unique, so there is nothing to release.
        if self.has_barrier { CpuClaim { claim: cpu::number, release: None } } else { CpuClaim::NONE }
    }

    fn interrupt_mask(&self) -> Option<InterruptMask> {
        // There are no interrupts. With debug assertions, count where they would be masked.
        cfg!(debug_assertions).then_some(depth::COUNTING)
    }

    fn barrier(&self) {
        if self.has_barrier {
            os::barrier();
        }
    }

    fn preemption(&self) -> Option<Preemption> {
        cfg!(debug_assertions).then_some(depth::PREEMPTION)
    }

    fn wait(&self, word: &AtomicU32, value: u32) {
        depth::assert_preemptible();
        wait::wait(word, value);
    }

    fn wake(&self, word: &AtomicU32) {
        wait::wake_all(word);
    }

    fn might_wait(&self) {
        depth::assert_unmasked();
    }

    fn pause(&self) {
        wait::yield_now();
    }

    fn now_ns(&self) -> u64 {
        self.clock.now_ns()
    }
}
