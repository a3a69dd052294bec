//! The machine of one policy: RAM, engine, processes, and all that they hold.
//!
//! Owns what must live until the end. Fields are dropped in order: what uses the engine goes before it.

use std::sync::{Arc, atomic::Ordering};

use pagemove::{
    Engine,
    space::{Access, Map, Protection, Source},
    units::{FrameRange, Order, Pfn, VirtAddr, VirtRange},
    zone,
    zone::PinnedPage,
};
use pagemove_drivers::{Balloon, CharDevice};
use pagemove_hosted::{Config, Hosted, Process, TlbKind};

use super::{
    error::{EngineError, RunError},
    region::{Region, View},
    words::Words,
};

/// Processes of the load.
const PROCESSES: usize = 6;
/// Devices whose files processes map, and those that keep their pages to themselves.
const MAPPED_DEVICES: [&str; 4] = ["gpu", "nic-ring", "video", "accel"];
const UNMAPPED_DEVICES: [&str; 2] = ["zpool", "nic-buffers"];

/// What machine to make.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    /// Frames of RAM, all in one zone.
    pub(crate) frames: u32,
    /// Order of a pageblock.
    pub(crate) pageblock_order: Order,
    /// Threads that write while pages move.
    pub(crate) writers: usize,
    /// The TLB.
    pub(crate) tlb: TlbKind,
}

/// Processes and the engine below them.
pub(crate) struct Host {
    /// The processes.
    pub(crate) processes: Vec<Process>,
    /// The engine.
    pub(crate) engine: Arc<Engine>,
    /// The machine.
    pub(crate) machine: Arc<Hosted>,
    /// What pages hold.
    pub(crate) words: Words,
    next: Vec<VirtAddr>,
}

/// All of it.
pub(crate) struct World {
    /// Pages that a device holds by address.
    pub(crate) pins: Vec<PinnedPage>,
    /// Mappings, files and devices with their pages.
    pub(crate) regions: Vec<Region>,
    /// Frames that are the kernel's, of any kind.
    pub(crate) kernel: Vec<Pfn>,
    /// The balloon.
    pub(crate) balloon: Balloon,
    /// Devices whose files are mapped.
    pub(crate) mapped: Vec<CharDevice>,
    /// Devices whose pages nobody maps.
    pub(crate) unmapped: Vec<CharDevice>,
    /// Processes and engine.
    pub(crate) host: Host,
}

impl World {
    /// Makes a machine with nothing in it: no process yet, since that takes frames.
    pub(crate) fn new(shape: Shape, words: Words) -> Result<Self, RunError> {
        let Shape { frames, pageblock_order, writers, tlb } = shape;
        // One virtual processor more than writers, for compaction.
        let contents = pagemove::port::Contents::All;
        let machine = Hosted::new(Config { frames, cpus: writers + 1, tlb, contents })?;
        let zones = vec![FrameRange { start: Pfn::new(0), frames }];
        let engine = Engine::boot(machine.clone(), &zone::Config { zones, pageblock_order })?;
        let devices = |names: &[&str]| names.iter().map(|&name| CharDevice::new(&engine, name)).collect();
        Ok(Self {
            pins: Vec::new(),
            regions: Vec::new(),
            kernel: Vec::new(),
            balloon: Balloon::new(&engine),
            mapped: devices(&MAPPED_DEVICES),
            unmapped: devices(&UNMAPPED_DEVICES),
            host: Host { processes: Vec::new(), engine, machine, words, next: Vec::new() },
        })
    }

    /// Starts the processes.
    pub(crate) fn start_processes(&mut self) -> Result<(), RunError> {
        for _ in 0..PROCESSES {
            let process = Process::new(&self.host.machine, &self.host.engine)?;
            self.host.next.push(process.space().bounds().start());
            self.host.processes.push(process);
        }
        Ok(())
    }

    /// Adds a region; gives its number.
    pub(crate) fn add(&mut self, make: impl FnOnce(u32) -> Region) -> usize {
        let number = self.regions.len();
        self.regions.push(make(number as u32));
        number
    }
}

impl Host {
    /// Maps `pages` pages in a process, at its next address: no two mappings touch, so none of them is merged or found
    /// by searching.
    pub(crate) fn map(
        &mut self,
        process: usize,
        pages: u32,
        writable: bool,
        source: Source,
    ) -> Result<View, EngineError> {
        let protection = if writable { Protection::READ | Protection::WRITE } else { Protection::READ };
        let at = self.next[process];
        let range = self.processes[process].space().mmap(&Map { at: Some(at), pages, protection, source })?;
        self.next[process] = range.end().up(1);
        Ok(View { process, start: range.start(), writable })
    }

    /// Makes a page of a view present, as an access of its process would.
    pub(crate) fn fault(&self, view: &View, page: u32) -> Result<(), EngineError> {
        let access = if view.writable { Access::Write } else { Access::Read };
        Ok(self.processes[view.process].space().fault(view.start.up(page), access)?)
    }

    /// Gives the frame that a page of a view maps now.
    pub(crate) fn frame(&self, view: &View, page: u32) -> Result<Pfn, EngineError> {
        let address = view.start.up(page);
        let entry = self.processes[view.process].space().entry(address);
        let lost = || EngineError::Lost(format!("nothing is mapped at {address}, where a page was"));
        entry.is_present().then(|| entry.pfn()).ok_or_else(lost)
    }

    /// Writes a word through a view's page table. Only while nothing moves.
    pub(crate) fn poke(&self, view: &View, page: u32, place: usize, word: u64) -> Result<(), EngineError> {
        let pfn = self.frame(view, page)?;
        self.engine.physical().ram_words(pfn)[place].store(word, Ordering::Release);
        Ok(())
    }

    /// Reads a word through a view's page table. Only while nothing moves.
    pub(crate) fn peek(&self, view: &View, page: u32, place: usize) -> Result<u64, EngineError> {
        let pfn = self.frame(view, page)?;
        Ok(self.engine.physical().ram_words(pfn)[place].load(Ordering::Acquire))
    }

    /// Loads a word as the view's process does, through the TLB.
    pub(crate) fn load(&self, view: &View, page: u32, place: usize) -> Result<u64, EngineError> {
        Ok(self.processes[view.process].load(view.word(page, place)?)?)
    }

    /// Unmaps pages of a view.
    pub(crate) fn unmap(&self, view: &View, first: u32, pages: u32) -> Result<(), EngineError> {
        let range = VirtRange::new(view.start.up(first), pages);
        let range = range.ok_or_else(|| EngineError::Lost("a mapping without pages".into()))?;
        Ok(self.processes[view.process].space().munmap(range)?)
    }
}
