//! The layout of memory at boot, and the errors in it. Plain data.

use alloc::vec::Vec;
use core::ops::Range;

use super::Pageblocks;
use crate::{
    frame::{FrameTable, SECTION, Spans},
    units::{FrameRange, Order, Pfn},
};

/// The layout of memory at boot.
#[derive(Debug, Clone)]
pub struct Config {
    /// Zones, ascending, each of whole pageblocks; frames outside of them are reserved. Frames of a zone that the machine's RAM doesn't have
    /// must be in `reserved`.
    pub zones: Vec<FrameRange>,
    /// The node of each zone; 0 where none is given.
    pub nodes: Vec<u32>,
    /// Ranges in zones that the engine doesn't use: holes, firmware, the kernel's image. In any order; they may
    /// overlap.
    pub reserved: Vec<FrameRange>,
    /// Order of a pageblock, 1 to 10; 9 is 2 MiB.
    pub pageblock_order: Order,
}

impl Config {
    /// Makes the layout of `zones`, all of node 0 and without reserved ranges.
    pub fn new(zones: Vec<FrameRange>, pageblock_order: Order) -> Self {
        Self { zones, nodes: Vec::new(), reserved: Vec::new(), pageblock_order }
    }

    /// Adds reserved ranges.
    pub fn with_reserved(mut self, ranges: impl IntoIterator<Item = FrameRange>) -> Self {
        self.reserved.extend(ranges);
        self
    }

    /// Sets the node of each zone.
    pub fn with_nodes(self, nodes: Vec<u32>) -> Self {
        Self { nodes, ..self }
    }

    /// Makes the layout of a firmware's map: `usable` has ranges of any size, with their nodes. Makes a zone for each
    /// node, and one more for each of `borders` inside it (16 MiB, 4 GiB: for devices that can't address more). Frames
    /// of a zone outside of the usable ranges are reserved: holes, and the rest of pageblocks that a range fills only
    /// in part, by the machine's memory `ram` or by the map. A hole of 128 MiB or more ends a zone, and so do ranges of another node in
    /// between.
    pub fn from_map(usable: &[(FrameRange, u32)], borders: &[Pfn], ram: Range<Pfn>, pageblock_order: Order) -> Self {
        let block = u64::from(pageblock_order.frames());
        // A zone's frames are counted by 32 bits.
        let most = u64::from(u32::MAX) / block * block;
        let (first, last) = (ram.start.get(), ram.end.get());
        let mut parts: Vec<(u64, u64, u32)> = usable
            .iter()
            .map(|&(range, node)| (range.start.get(), u64::from(range.frames), node))
            .map(|(start, frames, node)| (start.max(first), start.saturating_add(frames).min(last), node))
            .filter(|&(start, end, _)| start < end)
            .collect();
        parts.sort_unstable();
        let mut borders: Vec<u64> = borders.iter().map(|border| border.get() / block * block).collect();
        borders.sort_unstable();
        let segment = |frame: u64| borders.partition_point(|&border| border <= frame);
        // Zones of whole pageblocks; one that two ranges share goes to the first one's zone.
        let mut zones: Vec<(u64, u64, u32)> = Vec::new();
        for &(start, end, node) in &parts {
            let taken = zones.last().map_or(0, |&(_, end, _)| end);
            let (mut from, behind) = ((start / block * block).max(taken), end.div_ceil(block) * block);
            while from < behind {
                let to = borders.get(segment(from)).map_or(behind, |&border| border.min(behind)).min(from + most);
                match zones.last_mut() {
                    Some((first, end, of))
                        if *of == node
                            && segment(*first) == segment(from)
                            && from - *end < SECTION
                            && to - *first <= most =>
                    {
                        *end = to;
                    }
                    _ => zones.push((from, to, node)),
                }
                from = to;
            }
        }
        let mut config = Self::new(Vec::new(), pageblock_order);
        for (start, end, node) in zones {
            config.zones.push(frame_range(start, end));
            config.nodes.push(node);
            let mut at = start;
            for &(from, to, _) in parts.iter().filter(|&&(from, to, _)| from < end && start < to) {
                if from > at {
                    config.reserved.push(frame_range(at, from));
                }
                at = at.max(to);
            }
            if at < end {
                config.reserved.push(frame_range(at, end));
            }
        }
        config
    }

    /// Tells whether all of these frames are reserved.
    fn reserves(&self, frames: Range<u64>) -> bool {
        let mut at = frames.start;
        while at < frames.end {
            let covers =
                |range: &&FrameRange| range.start.get() <= at && at < range.start.get() + u64::from(range.frames);
            match self.reserved.iter().find(covers) {
                Some(range) => at = range.start.get() + u64::from(range.frames),
                None => return false,
            }
        }
        true
    }

    /// Gives the bytes that [`Engine::boot`](crate::Engine::boot) borrows ([`Machine::lend`](crate::port::Machine::lend)),
    /// in three pieces; 0 for a layout that it refuses. Of a hole of 128 MiB or more it counts only a bit for each pageblock, and
    /// the machine is asked by [`Machine::lend_sparse`](crate::port::Machine::lend_sparse). The rest is on
    /// the heap: for each zone CPU lists of at most an eighth of its frames, 8 bytes each. So a kernel needs a heap of
    /// that size before it boots the engine.
    pub fn lent_bytes(&self) -> usize {
        let spans = check(self, &(Pfn::new(0)..Pfn::new(Pfn::LIMIT))).unwrap_or_default();
        FrameTable::bytes(&spans) + Pageblocks::bytes(&spans, self.pageblock_order)
    }
}

fn frame_range(start: u64, end: u64) -> FrameRange {
    FrameRange { start: Pfn::new(start), frames: (end - start) as u32 }
}

/// Why a layout is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BootError {
    /// Another engine has the machine's RAM.
    #[error("boot: another engine has taken the machine's RAM over")]
    TakenOver,
    /// The pageblock order is 0.
    #[error("boot: the order of a pageblock must be 1 to 10, not {}", .0.get())]
    PageblockOrder(Order),
    /// There is no zone, or an empty one.
    #[error("boot: there is no zone, or zone {0} is empty")]
    Empty(usize),
    /// A zone doesn't consist of whole pageblocks.
    #[error("boot: zone {0} does not start and end on a pageblock's border")]
    Misaligned(usize),
    /// A zone overlaps the one before it, or comes before it.
    #[error("boot: zone {0} overlaps the one before it, or lies before it")]
    Overlap(usize),
    /// A zone has frames that aren't in RAM, and aren't reserved.
    #[error("boot: zone {0} is not within the machine's RAM, and what is outside isn't reserved")]
    BeyondRam(usize),
    /// The zones have more frames than can be numbered.
    #[error("boot: the zones, and the holes of less than 128 MiB between them, have more than 16 TiB")]
    TooLarge,
    /// The program has booted too many engines.
    #[error("boot: 2^24 engines were booted in this program; start it again")]
    TooMany,
    /// The machine lends no memory for metadata.
    #[error("boot: the machine lends no memory for the metadata of {0} frames")]
    NoMetadata(u32),
}

/// Checks `config` against the RAM; numbers the frames.
pub(super) fn check(config: &Config, ram: &Range<Pfn>) -> Result<Spans, BootError> {
    if config.pageblock_order == Order::ZERO {
        return Err(BootError::PageblockOrder(config.pageblock_order));
    }
    if config.zones.is_empty() {
        return Err(BootError::Empty(0));
    }
    let mut last = 0;
    for (number, zone) in config.zones.iter().enumerate() {
        let start = zone.start.get();
        // Before the border, so that the sum can't overflow.
        let Some(end) = FrameRange::new(zone.start, zone.frames).map(|zone| zone.end().get()) else {
            return Err(BootError::BeyondRam(number));
        };
        let (below, above) = (start..end.min(ram.start.get()), start.max(ram.end.get())..end);
        if !config.reserves(below) || !config.reserves(above) {
            return Err(BootError::BeyondRam(number));
        }
        let block = u64::from(config.pageblock_order.frames());
        if zone.frames == 0 {
            return Err(BootError::Empty(number));
        }
        if start % block != 0 || end % block != 0 {
            return Err(BootError::Misaligned(number));
        }
        if start < last {
            return Err(BootError::Overlap(number));
        }
        last = end;
    }
    Spans::of(&config.zones).ok_or(BootError::TooLarge)
}
