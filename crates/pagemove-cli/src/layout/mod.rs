//! The layout of physical memory: which class of frame stands where.
//!
//! Takes a live kernel, a layout file, or the sample that ships with the command; gives a [`Layout`], zones and runs
//! of classes in the order of their PFN. Promises that every `Layout` is consistent ([`check`] is the only way to make
//! one), so nothing that uses it needs to look for contradictions.
//!
//! The modules, in the order in which they depend on each other: [`class`], [`check`], [`blocks`], [`scale`],
//! [`file`], for a live kernel [`zoneinfo`], [`kpage`], [`capture`] and [`settle`]; [`source`] chooses between them;
//! [`census`] counts what a layout holds, and [`tables`] and [`picture`] show it. [`fuzz`] feeds any bytes to what reads them.

mod blocks;
pub(crate) mod capture;
pub(crate) mod census;
mod check;
mod class;
mod file;
pub mod fuzz;
#[cfg(test)]
mod file_tests;
mod kpage;
pub(crate) mod picture;
mod scale;
pub(crate) mod settle;
mod source;
pub(crate) mod tables;
mod zoneinfo;

use serde::{Deserialize, Serialize};

pub(crate) use blocks::Blocks;
pub(crate) use check::LayoutError;
pub(crate) use class::FrameClass;
pub(crate) use source::{LayoutSource, SourceError};

/// Bytes in a frame; a capture of a kernel with another page size is refused.
pub(crate) const FRAME_BYTES: u64 = 4096;

/// Physical memory by class.
///
/// # Invariants
///
/// Those that [`Layout::new`] checks: zones rise in PFN and don't overlap; `runs` begins with the pageblock of the
/// first zone's first frame, ends with the pageblock of the last zone's last frame, and is `Absent` wherever no zone
/// is; no run is empty, no two neighbours have the same class; at least one frame isn't `Absent`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    source: String,
    pageblock_order: u8,
    zones: Vec<Zone>,
    runs: Vec<Run>,
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

impl Layout {
    /// Returns the same layout under another description of where it comes from.
    pub(crate) fn with_source(self, source: String) -> Result<Self, LayoutError> {
        Self::new(source, self.pageblock_order, self.zones, self.runs)
    }

    /// Returns where the layout comes from, in words.
    pub(crate) fn source(&self) -> &str {
        &self.source
    }

    /// Returns the order of a pageblock (9: 2 MiB).
    pub(crate) fn pageblock_order(&self) -> u8 {
        self.pageblock_order
    }

    /// Returns the frames of a pageblock.
    pub(crate) fn frames_per_block(&self) -> u64 {
        1 << self.pageblock_order
    }

    /// Returns the zones, by rising PFN.
    pub(crate) fn zones(&self) -> &[Zone] {
        &self.zones
    }

    /// Returns the runs, by rising PFN from [`Layout::first_pfn`] on.
    pub(crate) fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// Returns the first PFN of the first pageblock.
    pub(crate) fn first_pfn(&self) -> u64 {
        self.zones[0].start_pfn & !(self.frames_per_block() - 1)
    }

    /// Returns the number of frames from the first pageblock to the last, holes included.
    pub(crate) fn frames(&self) -> u64 {
        self.runs.iter().map(|run| run.frames).sum()
    }

    /// Returns the pageblocks that have at least one frame, by rising PFN.
    pub(crate) fn blocks(&self) -> Blocks<'_> {
        Blocks::new(self)
    }

    /// Returns the number of the zone to which a pageblock counts: the first that has frames in it.
    fn zone_of_block(&self, pfn: u64) -> usize {
        // A block that has a frame has one in a zone; so the search only falls short for blocks of no layout.
        self.zones.partition_point(|zone| zone.end_pfn() <= pfn).min(self.zones.len() - 1)
    }
}

/// Appends a run; neighbours of one class become one run.
fn push_run(runs: &mut Vec<Run>, class: FrameClass, frames: u64) {
    match runs.last_mut() {
        Some(last) if last.class == class => last.frames += frames,
        _ if frames == 0 => {}
        _ => runs.push(Run { class, frames }),
    }
}
