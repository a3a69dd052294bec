//! What makes a layout consistent, in one place.
//!
//! Takes the parts of a layout, gives the first contradiction in a sentence. Promises that no sum in it
//! overflows and that its sizes are within bounds, whatever the parts were; capture, load, scale and save all pass
//! here.

use std::{io, path::PathBuf};

use super::{FrameClass, Owned, Run, Sizes, Zone};
use crate::terminal::steers;

/// Most frames that are not absent: 64 TiB with frames of 4 KiB. They may be far apart: node 1 of an Ampere Altra begins at 64 TiB.
pub(super) const MAX_FRAMES: u64 = 1 << 34;
/// PFNs end here: x86-64 has at most 52 bits of physical address.
pub(super) const MAX_PFN: u64 = 1 << 40;
/// Most runs.
pub(super) const MAX_RUNS: usize = 1 << 25;
/// Most zones.
pub(super) const MAX_ZONES: usize = 1 << 16;
/// Most bytes of a description or a name.
const MAX_TEXT: usize = 256;
/// Most owners, and bytes of an owner's name: a path, and a program.
pub(crate) const MAX_OWNERS: usize = 1 << 17;
pub(crate) const MAX_OWNER: usize = 8192;

/// Why a layout can't be loaded, made or saved.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LayoutError {
    /// The file can't be opened or read.
    #[error("can't read {path}: {error}", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The file can't be written.
    #[error("can't write {path}: {error}", path = path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// It doesn't begin as a gzip file does.
    #[error("not a layout file: it isn't gzip")]
    NotGzip,
    /// It ends before the gzip data do.
    #[error("the file is truncated: the gzip data end too early")]
    Truncated,
    /// The gzip data are damaged.
    #[error("the file is damaged: {0}")]
    Damaged(io::Error),
    /// Something follows the gzip data.
    #[error("the file is damaged: something follows the gzip data")]
    Trailing,
    /// It unpacks to more than a layout may have.
    #[error("the file unpacks to more than {} MiB, which no layout needs", .0 >> 20)]
    Unpacked(u64),
    /// The text isn't JSON.
    #[error("not a layout file: not JSON ({0})")]
    NotJson(serde_json::Error),
    /// It is JSON, but doesn't say that it is a layout.
    #[error("not a layout file: it doesn't say \"format\": \"pagemove-layout\" and a version")]
    NotLayout,
    /// It is of a version that this program doesn't know.
    #[error("the layout has version {0}, this program reads versions 1 to 3")]
    Version(u64),
    /// A field is missing, of the wrong kind, or names an unknown class.
    #[error("the layout has a wrong field: {0}")]
    Field(serde_json::Error),
    /// A description or name is too long, empty, or has control characters.
    #[error("{0} must have 1 to 256 bytes, and no control characters or others that have no shape")]
    Text(&'static str),
    /// The order of a pageblock is out of range.
    #[error("the order of a pageblock is {0}, it must be 1 to 13")]
    PageblockOrder(u8),
    /// The size of a frame is none that Linux has.
    #[error("a frame has {0} bytes, it must be 4, 8, 16, 32 or 64 KiB")]
    FrameBytes(u64),
    /// There is no zone.
    #[error("the layout has no zone")]
    NoZone,
    /// There are too many zones.
    #[error("the layout has {0} zones, the limit is 65536")]
    TooManyZones(usize),
    /// A zone has no frame, or more of them present than it spans.
    #[error("zone {name} spans {spanned} frames and has {present} of them, which can't be")]
    ZoneSize {
        /// Its name.
        name: String,
        /// Frames it spans.
        spanned: u64,
        /// Frames it has.
        present: u64,
    },
    /// A zone lies beyond any address.
    #[error("zone {name} starts at PFN {start_pfn} and spans {spanned} frames, beyond any physical address")]
    ZoneEnd {
        /// Its name.
        name: String,
        /// Its first PFN.
        start_pfn: u64,
        /// Frames it spans.
        spanned: u64,
    },
    /// A zone starts before the one ahead of it ends.
    #[error("zone {name} starts at PFN {start_pfn}, before the zone ahead of it ends")]
    ZonesOverlap {
        /// Its name.
        name: String,
        /// Its first PFN.
        start_pfn: u64,
    },
    /// It covers too many frames.
    #[error("the layout has {0} frames, the limit is 2^34 (64 TiB)")]
    TooManyFrames(u64),
    /// There are too many runs.
    #[error("the layout has {0} runs, the limit is 2^25")]
    TooManyRuns(usize),
    /// A run has no frame.
    #[error("run {0} has no frame")]
    EmptyRun(usize),
    /// The runs and the zones differ in size.
    #[error("the runs add up to {runs} frames, but the zones' pageblocks cover {zones}")]
    RunsDontFit {
        /// Frames of all runs; capped, since their sum can be beyond counting.
        runs: u64,
        /// Frames of all pageblocks, from the first zone's first to the last zone's last.
        zones: u64,
    },
    /// A frame is stated where no zone is.
    #[error("PFN {pfn} is {class}, but belongs to no zone")]
    OutsideZones {
        /// Where.
        pfn: u64,
        /// The class stated.
        class: FrameClass,
    },
    /// There are too many owners.
    #[error("the layout has {0} owners, the limit is 131072")]
    TooManyOwners(usize),
    /// An owner has frames that the layout doesn't have.
    #[error("an owner has {frames} frames from PFN {first} on, which aren't in the layout")]
    OwnersFrames {
        /// The first of them.
        first: u64,
        /// How many.
        frames: u64,
    },
    /// An owner's name is too long, empty, or has control characters.
    #[error("the name of an owner must have 1 to 8192 bytes, and no control characters or others that have no shape")]
    OwnersName,
    /// There is no frame at all.
    #[error("every frame of the layout is absent")]
    AllAbsent,
}

/// Checks that the parts of a layout don't contradict each other.
pub(super) fn check(source: &str, sizes: Sizes, zones: &[Zone], runs: &[Run]) -> Result<(), LayoutError> {
    check_text("the description of the source", source)?;
    check_sizes(sizes)?;
    let (first, end) = check_zones(zones, 1 << sizes.pageblock_order)?;
    if runs.len() > MAX_RUNS {
        return Err(LayoutError::TooManyRuns(runs.len()));
    }
    if let Some(place) = runs.iter().position(|run| run.frames == 0) {
        return Err(LayoutError::EmptyRun(place));
    }
    let sum = runs.iter().fold(0_u64, |sum, run| sum.saturating_add(run.frames));
    if sum != end - first {
        return Err(LayoutError::RunsDontFit { runs: sum, zones: end - first });
    }
    // The sum of all is that of the zones.
    match runs.iter().filter(|run| run.class != FrameClass::Absent).map(|run| run.frames).sum() {
        0 => return Err(LayoutError::AllAbsent),
        frames if frames > MAX_FRAMES => return Err(LayoutError::TooManyFrames(frames)),
        _ => {}
    }
    check_outside(zones, runs, first)
}

/// Refuses sizes that no kernel has: 32-bit ARM has pageblocks of order 13, arm64 with frames of 64 KiB as well.
pub(super) fn check_sizes(sizes: Sizes) -> Result<(), LayoutError> {
    let Sizes { frame_bytes, pageblock_order } = sizes;
    if !(4096..=65536).contains(&frame_bytes) || !frame_bytes.is_power_of_two() {
        return Err(LayoutError::FrameBytes(frame_bytes));
    }
    if (1..=13).contains(&pageblock_order) { Ok(()) } else { Err(LayoutError::PageblockOrder(pageblock_order)) }
}

/// Refuses what would garble a terminal or a table.
fn check_text(what: &'static str, text: &str) -> Result<(), LayoutError> {
    let fits = !text.is_empty() && text.len() <= MAX_TEXT && !text.chars().any(steers);
    if fits { Ok(()) } else { Err(LayoutError::Text(what)) }
}

/// Refuses owners of frames that a layout from `first` to `end` doesn't have, and names that would garble a terminal.
pub(super) fn check_owners(owners: &[Owned], first: u64, end: u64) -> Result<(), LayoutError> {
    if owners.len() > MAX_OWNERS {
        return Err(LayoutError::TooManyOwners(owners.len()));
    }
    for Owned { name, source, ranges, .. } in owners {
        let is_fit = |text: &str| !text.is_empty() && text.len() <= MAX_OWNER && !text.chars().any(steers);
        if !is_fit(name) || !is_fit(source) {
            return Err(LayoutError::OwnersName);
        }
        for &(at, frames) in ranges {
            if at < first || frames == 0 || at.checked_add(frames).is_none_or(|behind| behind > end) {
                return Err(LayoutError::OwnersFrames { first: at, frames });
            }
        }
    }
    Ok(())
}

/// Returns the first PFN of the first pageblock and the PFN after the last pageblock.
fn check_zones(zones: &[Zone], block: u64) -> Result<(u64, u64), LayoutError> {
    let first = zones.first().ok_or(LayoutError::NoZone)?.start_pfn / block * block;
    if zones.len() > MAX_ZONES {
        return Err(LayoutError::TooManyZones(zones.len()));
    }
    let mut end = first;
    for zone in zones {
        check_text("the name of a zone", &zone.name)?;
        let (name, start_pfn, spanned) = (zone.name.clone(), zone.start_pfn, zone.spanned);
        if spanned == 0 || zone.present > spanned {
            return Err(LayoutError::ZoneSize { name, spanned, present: zone.present });
        }
        if start_pfn < end {
            return Err(LayoutError::ZonesOverlap { name, start_pfn });
        }
        end = match start_pfn.checked_add(spanned) {
            Some(end) if end <= MAX_PFN => end,
            _ => {
                return Err(LayoutError::ZoneEnd { name, start_pfn, spanned });
            }
        };
    }
    Ok((first, end.next_multiple_of(block)))
}

/// Refuses a run other than `Absent` that reaches out of the zones.
fn check_outside(zones: &[Zone], runs: &[Run], first: u64) -> Result<(), LayoutError> {
    let mut zones = zones.iter().peekable();
    let mut pfn = first;
    for run in runs {
        let end = pfn + run.frames;
        let mut at = if run.class == FrameClass::Absent { end } else { pfn };
        while at < end {
            while zones.next_if(|zone| zone.end_pfn() <= at).is_some() {}
            at = match zones.peek() {
                Some(zone) if zone.start_pfn <= at => zone.end_pfn(),
                _ => {
                    return Err(LayoutError::OutsideZones { pfn: at, class: run.class });
                }
            };
        }
        pfn = end;
    }
    Ok(())
}
