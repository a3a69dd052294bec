//! What a memory is booted with, and what can be wrong with that. Plain data.

use alloc::vec::Vec;

use crate::units::{FrameRange, Order};

/// How memory is laid out at boot.
#[derive(Debug, Clone)]
pub struct Config {
    /// Zones, rising, each a whole number of pageblocks; what lies in none is reserved.
    pub zones: Vec<FrameRange>,
    /// Order of a pageblock, 1 to 10; 9 is 2 MiB.
    pub pageblock_order: Order,
}

/// Why memory can't be managed as configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BootError {
    /// The pageblock's order is 0.
    #[error("boot: the order of a pageblock must be 1 to 10, not {}", .0.get())]
    PageblockOrder(Order),
    /// There is no zone, or one without frames.
    #[error("boot: there is no zone, or zone {0} is empty")]
    Empty(usize),
    /// A zone isn't a whole number of pageblocks.
    #[error("boot: zone {0} does not start and end on a pageblock's border")]
    Misaligned(usize),
    /// A zone overlaps the one before it, or comes before it.
    #[error("boot: zone {0} overlaps the one before it, or lies before it")]
    Overlap(usize),
    /// A zone ends behind RAM.
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
