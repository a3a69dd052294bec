//! What a layout is made of: zones and runs of classes.

use serde::{Deserialize, Serialize};

use super::FrameClass;

/// Bytes in a frame where nothing says otherwise: x86-64's, and those of version 1 of the layout file.
pub(super) const USUAL_FRAME_BYTES: u64 = 4096;

/// Sizes of a machine's frames and pageblocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sizes {
    /// Bytes in a frame: 4 to 64 KiB.
    pub(crate) frame_bytes: u64,
    /// The order of a pageblock (9: 512 frames).
    pub(crate) pageblock_order: u8,
}

impl Sizes {
    /// Gives those of a machine with frames of 4 KiB.
    #[cfg(test)]
    pub(crate) const fn usual(pageblock_order: u8) -> Self {
        Self { frame_bytes: USUAL_FRAME_BYTES, pageblock_order }
    }
}

/// A range of frames that Linux keeps as one zone; a zone that another one splits has several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Zone {
    /// Name, as Linux gives it: `DMA32`, `Normal`, `Movable`.
    pub(crate) name: String,
    /// NUMA node.
    pub(crate) node: u32,
    /// First PFN.
    pub(crate) start_pfn: u64,
    /// Frames from the first to the last, holes included.
    pub(crate) spanned: u64,
    /// Frames without the holes.
    pub(crate) present: u64,
}

/// Frames of one owner, as they were named when the layout was saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Owned {
    /// The owner's name.
    pub(crate) name: String,
    /// What it is, or how its name was known.
    pub(crate) source: String,
    /// Processes that mapped the frames; 0: not a matter of processes.
    pub(crate) processes: u64,
    /// First frames, and how many.
    pub(crate) ranges: Vec<(u64, u64)>,
}

/// Neighbouring frames of one class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(FrameClass, u64)", into = "(FrameClass, u64)")]
pub(crate) struct Run {
    /// Their class.
    pub(crate) class: FrameClass,
    /// How many.
    pub(crate) frames: u64,
}

impl From<(FrameClass, u64)> for Run {
    fn from((class, frames): (FrameClass, u64)) -> Self {
        Self { class, frames }
    }
}

impl From<Run> for (FrameClass, u64) {
    fn from(run: Run) -> Self {
        (run.class, run.frames)
    }
}

impl Zone {
    /// Returns the PFN after the last; can't overflow for a zone of a [`Layout`].
    pub(crate) fn end_pfn(&self) -> u64 {
        self.start_pfn + self.spanned
    }
}

/// Appends a run; neighbours of one class become one run.
pub(super) fn push_run(runs: &mut Vec<Run>, class: FrameClass, frames: u64) {
    match runs.last_mut() {
        Some(last) if last.class == class => last.frames += frames,
        _ if frames == 0 => {}
        _ => runs.push(Run { class, frames }),
    }
}
