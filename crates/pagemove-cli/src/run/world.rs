//! The machine of one policy: RAM, engine, processes, and all that they hold.
//!
//! Owns what must live until the end. Fields are dropped in order: what uses the engine goes before it.

use pagemove::{
    Engine,
    units::{FrameRange, Order, Pfn},
    zone,
    zone::PinnedPage,
};
use pagemove_drivers::{Balloon, CharDevice};
use pagemove_hosted::{Config, Hosted, TlbKind};

use super::{error::RunError, host::Host, region::Region, words::Words};

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
            host: Host::new(machine, engine, words),
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
