// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! The kit on the engine: runs a driver written for stock Linux on the hosted machine, for tests.
//!
//! Takes a driver, unchanged; gives opens that processes map, read, write and call, while the engine moves their pages,
//! one by one or by compaction, with real page tables and real threads. Guarantees what [`Store`](pagemove_kit::Store)
//! does: a pinned page doesn't move, a page freed while pinned keeps its frame, every new page is zeroed.
//!
//! Unlike on Linux, `isolate` comes before mappings are blocked (so a refusal costs processes nothing), and a
//! truncation leaves processes their private copies.

mod open;
mod pages;
mod user;

pub use open::{Open, Outcome};
pub use pages::{Held, Pages};
pub use user::User;

use std::sync::Arc;

use pagemove::{
    Engine,
    compact::{self, Goal},
    migrate::{Mode, Options},
    port::Contents,
    space::{Map, Protection, Source},
    units::{HUGE_ORDER, VirtRange},
    zone,
};
use pagemove_hosted::{Config, Hosted, Process, TlbKind};
use pagemove_kit::{Driver, Errno};

/// A machine with an engine.
pub struct Host {
    machine: Arc<Hosted>,
    engine: Arc<Engine>,
}

impl Host {
    /// Makes a machine of `blocks` blocks of 2 MiB with four CPUs.
    ///
    /// # Panics
    /// If the host has no memory for it.
    pub fn new(tlb: TlbKind, blocks: u32) -> Self {
        let frames = blocks << HUGE_ORDER.get();
        let machine = Hosted::new(Config { frames, cpus: 4, tlb, contents: Contents::All }).expect("a machine");
        let zones = vec![machine.frames()];
        let config = zone::Config::new(zones, HUGE_ORDER);
        let engine = Engine::boot(machine.clone(), &config).expect("an engine");
        Self { machine, engine }
    }

    /// Gives the engine.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Opens the device.
    pub fn open<D: Driver<Pages>>(&self) -> Result<Arc<Open<D>>, Errno> {
        Open::new(&self.engine)
    }

    /// Starts a process.
    ///
    /// # Panics
    /// If there is no memory for its top page table.
    pub fn process(&self) -> Process {
        Process::new(&self.machine, &self.engine).expect("a process")
    }

    /// Maps the first `pages` pages of an open, shared and writable.
    ///
    /// # Panics
    /// If there is no memory for page tables.
    pub fn map<D: Driver<Pages> + 'static>(&self, process: &Process, open: &Arc<Open<D>>, pages: u32) -> VirtRange {
        let source = Source::Shared { file: open.clone(), first: 0 };
        let protection = Protection::READ.union(Protection::WRITE);
        process.space().mmap(&Map { at: None, pages, protection, source }).expect("a mapping")
    }

    /// Compacts all memory; gives the number of pages moved.
    pub fn compact(&self, mode: Mode) -> u64 {
        let zones = self.engine.physical().zones();
        let compacted = zones.flat_map(|zone| compact::compact(&self.engine, zone, Goal::All, Options::new(mode)));
        compacted.map(|block| block.moved).sum()
    }
}
