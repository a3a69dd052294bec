//! Memory blocks (`/sys/devices/system/memory`, since Linux 2.6.16): which ranges of frames are there, of which node they are, and which are online.
//!
//! `/proc/zoneinfo` tells only where a zone begins and ends: the memory of nodes may interleave, and have holes. Takes a folder like `/sys`, gives ranges by rising
//! PFN; none if the kernel doesn't have them. Promises no panic, whatever the files say.

use std::{fs, path::Path};

/// Frames of one node that are online.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Online {
    pub(super) node: u32,
    pub(super) start_pfn: u64,
    pub(super) end_pfn: u64,
}

/// Gives the frames of a memory block: number N begins at N times as many.
pub(crate) fn frames(sys: &Path, frame_bytes: u64) -> Option<u64> {
    let size = fs::read_to_string(sys.join("devices/system/memory/block_size_bytes")).ok()?;
    let frames = u64::from_str_radix(size.trim(), 16).ok()? / frame_bytes;
    (frames > 0).then_some(frames)
}

/// Finds all that are online; neighbours of one node are one range.
pub(super) fn online(sys: &Path, frame_bytes: u64) -> Vec<Online> {
    let memory = sys.join("devices/system/memory");
    let Some(frames) = frames(sys, frame_bytes) else { return Vec::new() };
    let is_online = |name: &str| {
        let state = fs::read_to_string(memory.join(name).join("state")).unwrap_or_default();
        matches!(state.trim(), "online" | "going-offline")
    };
    let mut all: Vec<Online> = Vec::new();
    for (node, folder) in numbered(&sys.join("devices/system/node"), "node") {
        for (number, _) in
            numbered(&folder, "memory").into_iter().filter(|(number, _)| is_online(&format!("memory{number}")))
        {
            let range = number.checked_mul(frames).and_then(|start| Some((start, start.checked_add(frames)?)));
            let node = u32::try_from(node).ok();
            all.extend(range.zip(node).map(|((start_pfn, end_pfn), node)| Online { node, start_pfn, end_pfn }));
        }
    }
    all.sort_by_key(|range| range.start_pfn);
    all.dedup_by(|next, last| {
        let follows = next.node == last.node && next.start_pfn == last.end_pfn;
        if follows {
            last.end_pfn = next.end_pfn;
        }
        follows
    });
    all
}

/// Finds the entries `NAMEnumber` of a folder.
fn numbered(folder: &Path, name: &str) -> Vec<(u64, std::path::PathBuf)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let number = |entry: fs::DirEntry| {
        let number = entry.file_name().to_str()?.strip_prefix(name)?.parse().ok()?;
        Some((number, entry.path()))
    };
    entries.filter_map(number).collect()
}
