//! Histories of operations on real page tables (`checks/model`), each answer compared with a simple model's: an engine of its own on memory
//! that it has of the kernel's, and processes whose words are loaded and stored in ring 3, on the processor that the history names.

use alloc::{
    boxed::Box,
    string::{String, ToString},
    sync::Arc,
    vec::Vec,
};
use core::{
    ops::Range,
    ptr::NonNull,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use pagemove::{
    Engine,
    compact::alloc_compacting,
    folio::FrozenFolio,
    frame::Kind,
    migrate::Options,
    movable::Mode,
    paging::X86_64,
    port::{CpuClaim, FlushRange, InterruptMask, LentMemory, Machine, Preemption, Ram, Space, SpaceId},
    space::{AddressSpace, FaultError},
    sync::AtomicU32,
    units::{FrameRange, HUGE_ORDER, MAX_ORDER, Order, PAGE_SIZE, Pfn, VirtAddr, VirtRange},
    zone::{Config, Request},
};
use pagemove_model::{Failed, History, Sabotage, Summary, World, run_on};

use crate::{
    agent::{self, Deed},
    console::print,
    platform,
    process::Process,
    sched, trap,
};

/// As the hosted machine's: 64 GiB from 4 MiB on.
const FIRST: u64 = 4 << 20;
const PAGES: u32 = 16 << 20;
/// The most pageblocks of a history.
const BLOCKS: usize = 12;
/// A page of the lower half that programs may use: present, writable, theirs.
const TABLE: u64 = 7;

type Folio = FrozenFolio<'static>;

/// Memory for the engines of all histories, one after the other.
struct Memory {
    /// Pageblocks, by address.
    blocks: Vec<Folio>,
    metadata: Folio,
    /// Table, table, table, and the agents' code.
    tables: [Folio; 4],
}

fn take(order: Order) -> Result<Folio, String> {
    let request = Request::new(order, Kind::Kernel);
    let mut folio =
        alloc_compacting(platform::engine(), &request, Options::new(Mode::Sync)).map_err(|error| error.to_string())?;
    folio.zero();
    Ok(folio)
}

impl Memory {
    fn take() -> Result<Self, String> {
        let mut blocks = Vec::new();
        for _ in 0..BLOCKS {
            blocks.push(take(HUGE_ORDER)?);
        }
        blocks.sort_by_key(|block| block.pfn());
        let tables = [take(Order::ZERO)?, take(Order::ZERO)?, take(Order::ZERO)?, take(Order::ZERO)?];
        for pair in tables.windows(2) {
            pair[0].words(0)[0].store(pair[1].pfn().get() << 12 | TABLE, Ordering::Relaxed);
        }
        for (word, bytes) in tables[3].words(0).iter().zip(agent::code().chunks(8)) {
            let mut value = [0; 8];
            value[..bytes.len()].copy_from_slice(bytes);
            word.store(u64::from_le_bytes(value), Ordering::Relaxed);
        }
        Ok(Self { blocks, metadata: take(MAX_ORDER)?, tables })
    }
}

/// As long as histories run.
static MEMORY: spin::Mutex<Option<Arc<Memory>>> = spin::Mutex::new(None);

/// The kernel's machine, on other memory.
struct Inner {
    memory: Arc<Memory>,
    lent: AtomicUsize,
    skips_flushes: AtomicBool,
}

/// Runs as the kernel's machine does, which all calls but these are passed on to.
fn kernel() -> &'static impl Machine {
    platform::machine()
}

// SAFETY: the kernel's machine, which the contract of `Machine` is kept by; the memory is nobody else's, as one history runs at a time. A
// skipped flush breaks the engine's guarantees to the history's processes, on purpose.
unsafe impl Machine for Inner {
    fn take_ram(&self) -> Option<Ram> {
        Some(platform::ram())
    }

    fn lend(&self, bytes: usize) -> Option<LentMemory> {
        let bytes = bytes.next_multiple_of(PAGE_SIZE);
        let at = self.lent.fetch_add(bytes, Ordering::Relaxed);
        let metadata = &self.memory.metadata;
        if at + bytes > metadata.order().frames() as usize * PAGE_SIZE {
            return None;
        }
        let frames = (at / PAGE_SIZE) as u32..((at + bytes) / PAGE_SIZE) as u32;
        let start = NonNull::from(metadata.words(frames.start)).cast();
        for frame in frames {
            metadata.words(frame).iter().for_each(|word| word.store(0, Ordering::Relaxed));
        }
        // SAFETY: cleared, and lent until the history is over.
        Some(unsafe { LentMemory::new(start, bytes, Box::new(self.memory.clone())) })
    }

    fn lend_sparse(&self, bytes: usize, _: &[Range<usize>]) -> Option<LentMemory> {
        self.lend(bytes)
    }

    unsafe fn root_made(&self, id: SpaceId, root: Pfn) -> u64 {
        // SAFETY: the engine's call, passed on.
        let word = unsafe { kernel().root_made(id, root) };
        // SAFETY: a new root; this entry is outside of the bounds of all processes of histories.
        let words = unsafe { platform::ram().words(root) };
        words[agent::ROOT_ENTRY].store(self.memory.tables[0].pfn().get() << 12 | TABLE, Ordering::Relaxed);
        word
    }

    unsafe fn move_root(&self, space: Space, to: Pfn, publish: &mut dyn FnMut()) {
        // SAFETY: the engine's call, passed on.
        unsafe { kernel().move_root(space, to, publish) }
    }

    unsafe fn root_freed(&self, space: Space) {
        // SAFETY: the engine's call, passed on.
        unsafe { kernel().root_freed(space) }
    }

    fn flush(&self, ranges: &[FlushRange]) {
        if !self.skips_flushes.load(Ordering::Relaxed) {
            kernel().flush(ranges);
        }
    }

    fn cpus(&self) -> usize {
        kernel().cpus()
    }

    fn cpu_claim(&self) -> CpuClaim {
        kernel().cpu_claim()
    }

    fn interrupt_mask(&self) -> Option<InterruptMask> {
        kernel().interrupt_mask()
    }

    fn preemption(&self) -> Option<Preemption> {
        kernel().preemption()
    }

    fn barrier(&self) {
        kernel().barrier();
    }

    fn wait(&self, word: &AtomicU32, value: u32) {
        kernel().wait(word, value);
    }

    fn wake(&self, word: &AtomicU32) {
        kernel().wake(word);
    }

    fn might_wait(&self) {
        kernel().might_wait();
    }

    fn pause(&self) {
        kernel().pause();
    }

    fn now_ns(&self) -> u64 {
        kernel().now_ns()
    }
}

/// An engine of a history.
struct Base {
    engine: Arc<Engine>,
    machine: Arc<Inner>,
}

/// A process of a history, with the threads that it has so far.
struct Running {
    process: Arc<Process>,
    threads: spin::Mutex<Vec<(usize, Arc<sched::Thread>)>>,
}

impl Running {
    fn new(space: AddressSpace) -> Self {
        Self { process: Process::of_agents(space, kernel().cpus()), threads: spin::Mutex::default() }
    }

    fn ask(&self, cpu: usize, deed: Deed) -> Result<u64, FaultError> {
        let cpu = cpu % kernel().cpus();
        let has_thread = self.threads.lock().iter().any(|&(of, _)| of == cpu);
        if !has_thread {
            let frame = trap::Frame::of_user(agent::ADDRESS, 0);
            // The kernel has memory: a history has its own.
            let thread =
                sched::spawn_in(&self.process, Some(cpu), trap::enter_user, frame).expect("memory for a thread");
            self.threads.lock().push((cpu, thread));
        }
        let agents = self.process.agents.as_ref().expect("made with agents");
        agents[cpu].ask(deed)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let threads = core::mem::take(&mut *self.threads.lock());
        self.process.end(0);
        for (_, thread) in threads {
            sched::join(&thread);
        }
        // Who has freed the threads lets go of them, and so of the process.
        while Arc::strong_count(&self.process) > 1 {
            sched::yield_now();
        }
    }
}

impl World for Base {
    type Format = X86_64;
    type Process = Running;

    fn boot(blocks: u32, apart: bool) -> Result<Self, String> {
        let memory = MEMORY.lock().clone().ok_or("no memory was taken")?;
        let all = &memory.blocks;
        let blocks = (blocks as usize).min(all.len());
        // The lowest ones, or half of them the highest.
        let upper = if apart { blocks / 2 } else { 0 };
        let chosen = all[..blocks - upper].iter().chain(&all[all.len() - upper..]);
        let mut zones: Vec<FrameRange> = Vec::new();
        for block in chosen.map(|block| block.pfn()) {
            match zones.last_mut().filter(|zone| zone.end() == block) {
                Some(zone) => zone.frames += HUGE_ORDER.frames(),
                None => zones.push(FrameRange { start: block, frames: HUGE_ORDER.frames() }),
            }
        }
        let machine = Arc::new(Inner { memory, lent: AtomicUsize::new(0), skips_flushes: AtomicBool::new(false) });
        let engine =
            Engine::boot(machine.clone(), &Config::new(zones, HUGE_ORDER)).map_err(|error| error.to_string())?;
        Ok(Self { engine, machine })
    }

    fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    fn start(&self) -> Result<Running, Failed> {
        let start = VirtAddr::new(FIRST).and_then(|start| VirtRange::new(start, PAGES));
        let bounds = start.ok_or_else(|| Failed::Other("no such range".into()))?;
        Ok(Running::new(AddressSpace::new(&self.engine, bounds)?))
    }

    fn skip_flushes(&self, skip: bool) {
        self.machine.skips_flushes.store(skip, Ordering::Relaxed);
    }
}

impl pagemove_model::Process<X86_64> for Running {
    fn space(&self) -> &AddressSpace {
        &self.process.space
    }

    fn fork(&self) -> Result<Self, Failed> {
        Ok(Self::new(self.process.space.fork()?))
    }

    fn load(&self, cpu: usize, at: VirtAddr) -> Result<u64, FaultError> {
        self.ask(cpu, Deed::Load(at))
    }

    fn store(&self, cpu: usize, at: VirtAddr, value: u64) -> Result<(), FaultError> {
        self.ask(cpu, Deed::Store(at, value)).map(drop)
    }
}

/// Random numbers (SplitMix64, Steele et al. 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ word >> 31
    }
}

/// Runs `count` histories of random bytes. With a deliberate fault it runs until one differs, at most four times as many; what that one had
/// is lost. Tells whether it went otherwise than it should.
pub(crate) fn run(seed: u64, count: u64, sabotage: Option<Sabotage>) -> bool {
    match Memory::take() {
        Ok(memory) => *MEMORY.lock() = Some(Arc::new(memory)),
        Err(error) => {
            print!("histories: {error}\n");
            return true;
        }
    }
    let failed = if sabotage.is_some() { !is_noticed(seed, 4 * count, sabotage) } else { differs(seed, count) };
    let memory = MEMORY.lock().take();
    drop(memory);
    failed
}

fn differs(seed: u64, count: u64) -> bool {
    let mut sum = Summary::default();
    for number in 0..count {
        match run_on::<Base>(&history(seed, number), None) {
            Ok(done) => {
                sum.calls += done.calls;
                sum.moved += done.moved;
                sum.out_of_memory += done.out_of_memory;
            }
            Err(failure) => {
                print!("histories: number {number} of seed {seed}: {failure}\n");
                return true;
            }
        }
    }
    print!(
        "histories: {count}, with {} calls that gave what the model gives, {} without memory, and {} moved pages\n",
        sum.calls, sum.out_of_memory, sum.moved
    );
    // Else nothing was shown.
    sum.calls == 0 || sum.moved == 0
}

fn is_noticed(seed: u64, count: u64, sabotage: Option<Sabotage>) -> bool {
    let noticed = (0..count).find_map(|number| Some((number, run_on::<Base>(&history(seed, number), sabotage).err()?)));
    match noticed {
        Some((number, failure)) => {
            print!("histories: the fault is noticed in number {number}: {}\n", failure.what);
            true
        }
        None => {
            print!("histories: the fault is noticed in none of {count}\n");
            false
        }
    }
}

fn history(seed: u64, number: u64) -> History {
    let mut random = Random(seed << 32 ^ number);
    let operations = 20 + random.next() % 80;
    let bytes: Vec<u8> = (0..=operations).flat_map(|_| random.next().to_le_bytes()).collect();
    History::decode(&bytes)
}
