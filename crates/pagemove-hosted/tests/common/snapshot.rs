//! All that can be seen of a machine at a quiet point, to be compared before and after: entries of address spaces, fields
//! and contents of the frames in use, which blocks of each zone are free, and who pins what.

use std::sync::atomic::Ordering;

use pagemove::{
    frame::{Class, Key, Kind, Marks},
    paging::Entry,
    units::Pfn,
};
use pagemove_hosted::Process;

use super::{Lab, raw};

/// Mixes a sum so that no pattern of words cancels itself out: a multiplication by an odd number loses nothing, and the
/// rotation brings the upper bits, which depend on all others, back down.
fn mix(sum: u64) -> u64 {
    sum.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
}

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
    /// Free frames of each zone.
    free: Vec<u32>,
    /// Free blocks: where, and their order.
    blocks: Vec<(Pfn, u8)>,
    pins: Vec<(Pfn, Vec<String>)>,
}

impl Snapshot {
    /// Looks at all. A dirty mark counts as the frame's wherever it stands, since blocking an entry records it there.
    pub fn of<'p>(lab: &Lab, processes: impl IntoIterator<Item = &'p Process>) -> Self {
        let physical = lab.engine.physical();
        // Which frames lie on processors' lists is nobody's state.
        physical.drain_cpu_lists();
        let mut dirty = Vec::new();
        let entries = processes
            .into_iter()
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
        let (mut free, mut blocks) = (Vec::new(), Vec::new());
        for zone in physical.zones() {
            let heads = zone.iter().map(|pfn| (pfn, physical.frame(pfn).state()));
            let heads: Vec<_> = heads.filter(|(_, state)| state.is_free_head()).collect();
            free.push(heads.iter().map(|(_, state)| state.order().frames()).sum());
            blocks.extend(heads.into_iter().map(|(pfn, state)| (pfn, state.order().get())));
        }
        let pins = physical.pins().all().into_iter();
        let pins = pins.map(|(pfn, who)| (pfn, who.into_iter().map(|pin| pin.who).collect())).collect();
        for pfn in physical.zones().flat_map(|zone| zone.iter().collect::<Vec<_>>()) {
            let frame = physical.frame(pfn);
            let state = frame.state();
            if !state.kind().is_allocation() {
                continue;
            }
            // Tables differ in where what they point to lies; the entries are compared above.
            let words = if state.kind() == Kind::PageTable { 0 } else { state.order().frames() };
            let contents = (0..words)
                .flat_map(|page| raw::words(physical, pfn.up(page)))
                .fold(0u64, |sum, word| mix(sum ^ word.load(Ordering::Relaxed)));
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
        Self { entries, frames, free, blocks, pins }
    }

    /// Fails if anything differs, and prints what.
    pub fn assert_same(&self, before: &Self, what: &str) {
        fn lost<T: PartialEq + std::fmt::Debug>(from: &[T], to: &[T]) -> String {
            from.iter().filter(|one| !to.contains(one)).map(|one| format!("\n    {one:x?}")).collect()
        }
        if self != before {
            let parts = [
                ("entries", lost(&before.entries, &self.entries), lost(&self.entries, &before.entries)),
                ("frames", lost(&before.frames, &self.frames), lost(&self.frames, &before.frames)),
                ("free frames", lost(&before.free, &self.free), lost(&self.free, &before.free)),
                ("free blocks", lost(&before.blocks, &self.blocks), lost(&self.blocks, &before.blocks)),
                ("pins", lost(&before.pins, &self.pins), lost(&self.pins, &before.pins)),
            ];
            let parts = parts.map(|(part, was, is)| format!("\n  {part}\n   were:{was}\n   are:{is}"));
            panic!("{what}:{}", parts.concat());
        }
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
        self.free = vec![self.free.iter().sum()];
        self.blocks.clear();
        self.pins.iter_mut().for_each(|(pfn, _)| *pfn = Pfn::new(0));
        self
    }
}
