//! The machine of one policy: RAM, engine, processes, and all that they hold.
//!
//! Owns what must live until the end. Fields are dropped in order: what uses the engine goes before it.

use std::sync::Arc;

use pagemove::{
    Engine,
    folio::{FrozenFolio, PinnedPage},
    units::Order,
    zone,
};
use pagemove_drivers::{Balloon, CharDevice};
use pagemove_hosted::{Config, Hosted, TlbKind};

use super::{compressed::Compressed, error::RunError, host::Host, region::Region, words::Words};

/// Processes of the load.
const PROCESSES: usize = 6;
/// Devices whose files processes map, and those that keep their pages to themselves.
const MAPPED_DEVICES: [&str; 4] = ["gpu", "nic-ring", "video", "accel"];
const UNMAPPED_DEVICES: [&str; 2] = ["dma-pool", "nic-buffers"];

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

/// A machine and its engine, which outlive all that is on them.
pub(crate) struct Base {
    machine: Arc<Hosted>,
    engine: Arc<Engine>,
}

impl Base {
    /// Makes a machine with nothing in it.
    pub(crate) fn new(shape: Shape) -> Result<Self, RunError> {
        let Shape { frames, pageblock_order, writers, tlb } = shape;
        // One virtual processor more than writers, for compaction.
        let contents = pagemove::port::Contents::All;
        let machine = Hosted::new(Config { frames, cpus: writers + 1, tlb, contents })?;
        let zones = vec![machine.frames()];
        let engine = Engine::boot(machine.clone(), &zone::Config::new(zones, pageblock_order))?;
        Ok(Self { machine, engine })
    }
}

/// All of it.
pub(crate) struct World<'e> {
    /// Pages that a device holds by address.
    pub(crate) pins: Vec<PinnedPage>,
    /// Mappings, files and devices with their pages.
    pub(crate) regions: Vec<Region>,
    /// What is the kernel's, of any kind.
    pub(crate) kernel: Vec<FrozenFolio<'e>>,
    /// The balloon. What is in it is given back to the host.
    pub(crate) balloon: Balloon,
    /// The compressed pages, and how many of the device have been given to regions.
    pub(crate) compressed: Arc<Compressed>,
    pub(crate) compressed_pages: u32,
    /// Devices whose files are mapped.
    pub(crate) mapped: Vec<CharDevice>,
    /// Devices whose pages nobody maps.
    pub(crate) unmapped: Vec<CharDevice>,
    /// The engine, for as long as its folios.
    pub(crate) engine: &'e Arc<Engine>,
    /// Processes and engine.
    pub(crate) host: Host,
}

impl<'e> World<'e> {
    /// Puts all but processes on a machine, since those take frames.
    pub(crate) fn new(base: &'e Base, words: Words) -> Result<Self, RunError> {
        let Base { machine, engine } = base;
        let compressed = Arc::new(Compressed::new(engine, machine.frames().frames).ok_or(RunError::NoTable)?);
        let devices = |names: &[&str]| names.iter().map(|&name| CharDevice::new(engine, name)).collect();
        Ok(Self {
            pins: Vec::new(),
            regions: Vec::new(),
            kernel: Vec::new(),
            balloon: Balloon::with_host(engine, machine.clone()),
            compressed,
            compressed_pages: 0,
            mapped: devices(&MAPPED_DEVICES),
            unmapped: devices(&UNMAPPED_DEVICES),
            engine,
            host: Host::new(machine.clone(), engine.clone(), words),
        })
    }

    /// Starts the processes.
    pub(crate) fn start_processes(&mut self) -> Result<(), RunError> {
        for _ in 0..PROCESSES {
            self.host.start_process()?;
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
