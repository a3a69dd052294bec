//! All that can be seen of a machine at a quiet point, to be compared before and after: entries of address spaces, fields
//! and contents of the frames in use, and how much is free.

use std::sync::atomic::Ordering;

use pagemove::{
    frame::{Class, Key, Kind, Marks},
    paging::Entry,
    units::Pfn,
};
use pagemove_hosted::Process;

use super::Lab;

/// A frame in use.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seen {
    /// First in order, so that frames sort by what they are, not by where they are.
    what: (u8, u32, u32, u32),
    contents: u64,
    counts: [u32; 3],
    class: Class,
    order: u8,
    marks: u32,
    pfn: Option<Pfn>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    entries: Vec<Vec<(u64, u64)>>,
    frames: Vec<Seen>,
    free: u32,
}

impl Snapshot {
    /// Looks at all. A dirty mark counts as the frame's wherever it stands, since blocking an entry records it there.
    pub fn of(lab: &Lab, processes: &[Process]) -> Self {
        let physical = lab.engine.physical();
        let mut dirty = Vec::new();
        let entries = processes
            .iter()
            .map(|process| {
                let mut entries = Vec::new();
                process.space().for_each_entry(|at, entry| {
                    if entry.has(pagemove::paging::Flags::DIRTY) {
                        dirty.push(entry.pfn());
                    }
                    entries.push((at.get(), entry.bits()));
                });
                entries
            })
            .collect();
        let mut frames = Vec::new();
        for pfn in physical.zones().flat_map(|zone| zone.iter().collect::<Vec<_>>()) {
            let frame = physical.frame(pfn);
            let state = frame.state();
            if matches!(state.kind(), Kind::Free | Kind::Cached | Kind::Tail) {
                continue;
            }
            // Tables differ in where what they point to lies; the entries are compared above.
            let words = if state.kind() == Kind::PageTable { 0 } else { state.order().frames() };
            let contents = (0..words)
                .flat_map(|page| physical.ram_words(pfn.up(page)))
                .fold(0u64, |sum, word| sum.rotate_left(5) ^ word.load(Ordering::Relaxed));
            let Key { rmap, index } = frame.key();
            let mut marks = state.marks();
            marks.set(Marks::DIRTY, marks.contains(Marks::DIRTY) || dirty.contains(&pfn));
            frames.push(Seen {
                what: (state.kind() as u8, frame.owner(), rmap, index),
                contents,
                counts: [frame.refs(), frame.maps(), frame.pins()],
                class: state.class(),
                order: state.order().get(),
                marks: marks.bits(),
                pfn: Some(pfn),
            });
        }
        frames.sort();
        Self { entries, frames, free: lab.free_frames() }
    }

    /// The same without frame numbers: what a move must not change either.
    pub fn without_places(mut self) -> Self {
        for (_, entry) in self.entries.iter_mut().flatten() {
            *entry = Entry::from_bits(*entry).flags().bits();
        }
        for seen in &mut self.frames {
            seen.pfn = None;
        }
        self.frames.sort();
        self
    }
}
