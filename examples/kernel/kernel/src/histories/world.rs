//! What histories run on: an engine on memory of the kernel's, and processes whose words are loaded and stored by agents.

use alloc::{
    string::{String, ToString},
    sync::Arc,
    vec::Vec,
};

use pagemove::{
    Engine,
    paging::X86_64,
    port::Machine,
    space::{AddressSpace, FaultError},
    units::{FrameRange, HUGE_ORDER, VirtAddr, VirtRange},
    zone::Config,
};
use pagemove_model::{Failed, World};

use super::memory::{MEMORY, OnMemory};
use crate::{
    agent::{self, Deed},
    platform,
    process::Process,
    sched, trap,
};

/// As the hosted machine's: 64 GiB from 4 MiB on.
const FIRST: u64 = 4 << 20;
const PAGES: u32 = 16 << 20;

/// An engine of a history.
pub(super) struct Base {
    engine: Arc<Engine>,
    machine: Arc<OnMemory>,
}

/// A process of a history, with the threads that it has so far.
pub(super) struct Running {
    process: Arc<Process>,
    threads: spin::Mutex<Vec<(usize, Arc<sched::Thread>)>>,
}

impl Running {
    fn new(space: AddressSpace) -> Self {
        Self { process: Process::of_agents(space, platform::machine().cpus()), threads: spin::Mutex::default() }
    }

    fn ask(&self, cpu: usize, deed: Deed) -> Result<u64, FaultError> {
        let cpu = cpu % platform::machine().cpus();
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
        let machine = OnMemory::new(memory.clone());
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
        self.machine.skip_flushes(skip);
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
