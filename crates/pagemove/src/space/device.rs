//! Names of frames that aren't the engine's memory: a device's registers or memory.
//!
//! `unsafe`: a promise of the caller's about the frames.
#![allow(unsafe_code)]

use crate::{paging::Flags, units::FrameRange};

/// How CPUs cache a mapping. The machine must have set up what [`Flags`] says for its format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Caching {
    /// As memory.
    WriteBack,
    /// Stores are gathered, and not ordered: a picture's memory.
    WriteCombining,
    /// Each access reaches the device, in order: registers.
    Uncached,
}

impl Caching {
    pub(super) fn flags(self) -> Flags {
        match self {
            Caching::WriteBack => Flags::empty(),
            Caching::WriteCombining => Flags::WRITE_COMBINING,
            Caching::Uncached => Flags::UNCACHED,
        }
    }
}

/// Frames for [`Source::Device`](super::Source::Device).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceFrames {
    range: FrameRange,
    caching: Caching,
}

impl DeviceFrames {
    /// Names frames that processes may map.
    ///
    /// # Safety
    /// Programs may load and store them at will, with this caching, as long as any mapping has them: nothing that others rely on is there,
    /// and no device that writes memory obeys them.
    pub const unsafe fn new(range: FrameRange, caching: Caching) -> Self {
        Self { range, caching }
    }

    /// Gives the frames.
    pub const fn range(self) -> FrameRange {
        self.range
    }

    /// Gives the caching.
    pub const fn caching(self) -> Caching {
        self.caching
    }
}
