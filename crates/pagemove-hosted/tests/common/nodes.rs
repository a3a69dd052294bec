//! A machine of two nodes: two zones of the same size, between which pages are moved by name.

use pagemove::{
    migrate::{Mode, Mover, Options, Outcome, TheseFrames},
    units::Pfn,
    zone::Config,
};
use pagemove_hosted::TlbKind;

use super::{Lab, hosted, number, order, range};

pub struct Nodes {
    pub lab: Lab,
    blocks: u32,
}

impl Nodes {
    /// Two nodes of `blocks` pageblocks each.
    pub fn new(tlb: TlbKind, blocks: u32) -> Self {
        Self { lab: Lab::boot(hosted(tlb, 2 * blocks * 512, 4), &Self::zones(blocks)), blocks }
    }

    /// The zones of such a machine.
    pub fn zones(blocks: u32) -> Config {
        let frames = blocks * 512;
        Config::new(vec![range(0, frames), range(frames, frames)], order(9)).with_nodes(vec![0, 1])
    }

    /// On which node a frame is.
    pub fn of(&self, pfn: Pfn) -> u32 {
        number(pfn) / (self.blocks * 512)
    }

    /// Moves pages to `node`.
    pub fn move_to(&self, node: u32, pages: &[Pfn], mode: Mode) -> Outcome {
        // The frames that wait on processors' lists belong to the node as well.
        self.lab.engine.physical().drain_cpu_lists();
        let blocks = node * self.blocks..(node + 1) * self.blocks;
        let mut to = TheseFrames::new(self.lab.engine.physical(), blocks);
        Mover::new(&self.lab.engine).migrate(pages, &mut to, Options::new(mode))
    }
}
