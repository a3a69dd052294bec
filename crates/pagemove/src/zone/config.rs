//! The layout of memory at boot, and the errors in it. Plain data.

use alloc::vec::Vec;

use super::Pageblocks;
use crate::{
    frame::FrameTable,
    units::{FrameRange, Order, Pfn},
};

/// The layout of memory at boot.
#[derive(Debug, Clone)]
pub struct Config {
    /// Zones, ascending, each of whole pageblocks; frames outside of them are reserved.
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
    /// in part. Ranges of two nodes that interleave get a zone each. The last pageblock is left out if the machine's
    /// `frames` end within it.
    pub fn from_map(usable: &[(FrameRange, u32)], borders: &[Pfn], frames: u32, pageblock_order: Order) -> Self {
        let block = u64::from(pageblock_order.frames());
        // In 64 bits, since the end after the last frame may not fit into 32.
        let last = u64::from(frames) / block * block;
        let mut parts: Vec<(u64, u64, u32)> = usable
            .iter()
            .map(|&(range, node)| (u64::from(range.start.get()), u64::from(range.frames), node))
            .map(|(start, frames, node)| (start, (start + frames).min(last), node))
            .filter(|&(start, end, _)| start < end)
            .collect();
        parts.sort_unstable();
        let mut borders: Vec<u64> = borders.iter().map(|border| u64::from(border.get()) / block * block).collect();
        borders.sort_unstable();
        let segment = |frame: u64| borders.partition_point(|&border| border <= frame);
        // Zones of whole pageblocks; one that two ranges share goes to the first one's zone.
        let mut zones: Vec<(u64, u64, u32)> = Vec::new();
        for &(start, end, node) in &parts {
            let taken = zones.last().map_or(0, |&(_, end, _)| end);
            let (mut from, behind) = ((start / block * block).max(taken), end.div_ceil(block) * block);
            while from < behind {
                let to = borders.get(segment(from)).map_or(behind, |&border| border.min(behind));
                match zones.last_mut() {
                    Some((first, end, of)) if *of == node && segment(*first) == segment(from) => *end = to,
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

    /// Gives the bytes that [`Engine::boot`](crate::Engine::boot) borrows from a machine of `frames` frames
    /// ([`Machine::lend`](crate::port::Machine::lend)), in three pieces. The rest is on the heap: for each zone CPU
    /// lists of at most an eighth of its frames, 4 bytes each. So a kernel needs a heap of that size before it boots
    /// the engine.
    pub fn lent_bytes(&self, frames: u32) -> usize {
        FrameTable::bytes(frames) + Pageblocks::bytes(frames, self.pageblock_order)
    }
}

fn frame_range(start: u64, end: u64) -> FrameRange {
    FrameRange { start: Pfn::new(start as u32), frames: (end - start) as u32 }
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
    /// A zone ends after RAM.
    #[error("boot: zone {0} ends behind the machine's RAM")]
    BeyondRam(usize),
    /// The machine lends no memory for metadata.
    #[error("boot: the machine lends no memory for the metadata of {0} frames")]
    NoMetadata(u32),
}

/// Checks `config` against a RAM of `frames` frames.
pub(super) fn check(config: &Config, frames: u32) -> Result<(), BootError> {
    if config.pageblock_order == Order::ZERO {
        return Err(BootError::PageblockOrder(config.pageblock_order));
    }
    if config.zones.is_empty() {
        return Err(BootError::Empty(0));
    }
    let mut last = 0;
    for (number, zone) in config.zones.iter().enumerate() {
        let (start, end) = (u64::from(zone.start.get()), u64::from(zone.start.get()) + u64::from(zone.frames));
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
        if end > u64::from(frames) {
            return Err(BootError::BeyondRam(number));
        }
        last = end;
    }
    Ok(())
}
