//! A small machine for tests, on either TLB, and what most tests do with it.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test file uses its part")]

use std::sync::Arc;

use pagemove::{
    Engine,
    migrate::{AnyFree, Mode, Mover, Options, Outcome},
    port::Contents,
    report::Reason,
    space::{Map, Mappable, Protection, Source},
    units::{FrameRange, Order, Pfn, VirtAddr, VirtRange},
    zone,
};
use pagemove_hosted::{Config, Hosted, Process, TlbKind};

pub const RW: Protection = Protection::READ.union(Protection::WRITE);
pub const BOTH: [TlbKind; 2] = [TlbKind::Soft, TlbKind::Host];

pub struct Lab {
    pub machine: Arc<Hosted>,
    pub engine: Arc<Engine>,
}

impl Lab {
    /// `blocks` pageblocks of 2 MiB, all in one zone.
    pub fn new(tlb: TlbKind, blocks: u32) -> Self {
        Self::with(tlb, blocks, Contents::All, 4)
    }

    pub fn with(tlb: TlbKind, blocks: u32, contents: Contents, cpus: usize) -> Self {
        let frames = blocks * 512;
        let machine = Hosted::new(Config { frames, cpus, tlb, contents }).unwrap();
        let config = zone::Config {
            zones: vec![FrameRange::new(Pfn::new(0), frames).unwrap()],
            pageblock_order: Order::new(9).unwrap(),
        };
        let engine = Engine::boot(machine.clone(), &config).unwrap();
        Self { machine, engine }
    }

    pub fn process(&self) -> Process {
        Process::new(&self.machine, &self.engine).unwrap()
    }

    /// Moves one page to any free frame.
    pub fn migrate(&self, pfn: Pfn, mode: Mode) -> Result<(), Reason> {
        let outcome = self.migrate_all(&[pfn], Options::new(mode));
        match outcome.stayed.first() {
            Some(&(_, reason)) => Err(reason),
            None => Ok(()),
        }
    }

    pub fn migrate_all(&self, pfns: &[Pfn], options: Options) -> Outcome {
        let mut destination = AnyFree::new(self.engine.physical(), pfns.len().min(512));
        Mover::new(&self.engine).migrate(pfns, &mut destination, options)
    }

    /// Checks all invariants; at a quiet point.
    pub fn validate(&self) {
        self.engine.physical().validate().unwrap();
    }

    pub fn free_frames(&self) -> u32 {
        self.engine.physical().free_frames()
    }
}

pub fn anonymous(process: &Process, pages: u32) -> VirtRange {
    let source = Source::Anonymous { huge: false };
    process.space().mmap(&Map { at: None, pages, protection: RW, source }).unwrap()
}

pub fn shared(process: &Process, file: Arc<dyn Mappable>, pages: u32, protection: Protection) -> VirtRange {
    process.space().mmap(&Map { at: None, pages, protection, source: Source::Shared { file, first: 0 } }).unwrap()
}

pub fn private(process: &Process, file: Arc<dyn Mappable>, pages: u32) -> VirtRange {
    process.space().mmap(&Map { at: None, pages, protection: RW, source: Source::Private { file, first: 0 } }).unwrap()
}

/// The frame that `address` maps now.
pub fn pfn_at(process: &Process, address: VirtAddr) -> Pfn {
    let entry = process.space().entry(address);
    assert!(entry.is_present(), "nothing is mapped at {address}");
    entry.pfn()
}
