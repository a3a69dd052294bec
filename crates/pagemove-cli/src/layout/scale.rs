//! Fewer or more pageblocks of the same kind.
//!
//! Takes a layout and a number of pageblocks, gives a layout with that many. Promises that blocks stay whole, so what
//! is fragmented inside a block stays so, that none is wholly absent, and that the same call gives the same layout.

use std::num::NonZeroUsize;

use super::{
    FrameClass, Layout, LayoutError, Run, Zone,
    check::{MAX_FRAMES, MAX_RUNS},
    parts::push_run,
};

impl Layout {
    /// Returns a layout of `count` pageblocks from this one, at PFNs from 0 on.
    ///
    /// Asked for fewer blocks than there are, it takes them evenly spread and in order. Asked for more, it takes all
    /// and repeats the whole pattern, its zones included, as often as it takes. Blocks that are wholly absent don't
    /// count. Each block counts to one zone, the first that has frames in it.
    pub(crate) fn scale(&self, count: NonZeroUsize) -> Result<Self, LayoutError> {
        let (count, size) = (count.get(), self.frames_per_block());
        match (count as u64).checked_mul(size) {
            Some(frames) if frames <= MAX_FRAMES => {}
            frames => return Err(LayoutError::TooManyFrames(frames.unwrap_or(u64::MAX))),
        }
        let total = self.blocks().count();
        let kept = count.min(total);
        // The middle of each of `kept` equal parts: the ends get no more weight than the rest.
        let place = |n: usize| ((2 * n as u128 + 1) * total as u128 / (2 * kept as u128)) as usize;
        let mut picked: Vec<(usize, Vec<Run>)> = Vec::with_capacity(kept);
        for (n, block) in self.blocks().enumerate() {
            if picked.len() == kept {
                break;
            }
            if n == place(picked.len()) {
                let mut runs = Vec::new();
                for &class in &block.classes {
                    push_run(&mut runs, class, 1);
                }
                picked.push((self.zone_of_block(block.pfn), runs));
            }
        }

        let (mut zones, mut runs) = (Vec::<Zone>::new(), Vec::new());
        let mut last_zone = None;
        for (n, (zone, block)) in picked.iter().cycle().take(count).enumerate() {
            let place = Some((n / kept, *zone));
            if last_zone != place {
                let Zone { name, node, .. } = self.zones()[*zone].clone();
                zones.push(Zone { name, node, start_pfn: n as u64 * size, spanned: 0, present: 0 });
                last_zone = place;
            }
            for run in block {
                push_run(&mut runs, run.class, run.frames);
            }
            if runs.len() > MAX_RUNS {
                return Err(LayoutError::TooManyRuns(runs.len()));
            }
            if let Some(zone) = zones.last_mut() {
                zone.spanned += size;
                zone.present +=
                    block.iter().filter(|run| run.class != FrameClass::Absent).map(|run| run.frames).sum::<u64>();
            }
        }
        Self::new(self.source().to_owned(), self.sizes(), zones, runs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Sizes;
    use FrameClass::*;

    fn blocks(n: usize) -> NonZeroUsize {
        NonZeroUsize::new(n).expect("more than none")
    }

    /// Ten blocks of two frames, one of them a hole; the n-th of the nine others is of the n-th class.
    fn ten() -> Layout {
        let zone =
            |name: &str, start_pfn, spanned| Zone { name: name.into(), node: 0, start_pfn, spanned, present: spanned };
        let zones = vec![zone("DMA", 101, 7), zone("Normal", 110, 10)];
        let mut runs = vec![Run { class: Absent, frames: 1 }, Run { class: Free, frames: 1 }];
        for class in [Anon, File, Slab, Absent, PageTable, Reserved, Balloon, DriverMapped, Kernel] {
            runs.push(Run { class, frames: 2 });
        }
        Layout::new("test".into(), Sizes::usual(1), zones, runs).expect("consistent")
    }

    fn firsts(layout: &Layout) -> Vec<FrameClass> {
        layout.blocks().map(|block| block.classes[1]).collect()
    }

    #[test]
    fn all_blocks_stay_whole_and_the_hole_is_dropped() {
        let scaled = ten().scale(blocks(9)).expect("scales");
        assert_eq!(firsts(&scaled), [Free, Anon, File, Slab, PageTable, Reserved, Balloon, DriverMapped, Kernel]);
        assert_eq!(scaled.blocks().next().map(|block| block.classes[0]), Some(Absent));
        assert_eq!(scaled.frames(), 18);
        let zones: Vec<_> =
            scaled.zones().iter().map(|z| (z.name.as_str(), z.start_pfn, z.spanned, z.present)).collect();
        assert_eq!(zones, [("DMA", 0, 8, 7), ("Normal", 8, 10, 10)]);
    }

    #[test]
    fn fewer_are_evenly_spread() {
        assert_eq!(firsts(&ten().scale(blocks(3)).expect("scales")), [Anon, PageTable, DriverMapped]);
        assert_eq!(firsts(&ten().scale(blocks(1)).expect("scales")), [PageTable]);
        let scaled = ten().scale(blocks(4)).expect("scales");
        assert_eq!(firsts(&scaled), [Anon, Slab, Reserved, DriverMapped]);
        assert_eq!(scaled, ten().scale(blocks(4)).expect("scales"));
    }

    #[test]
    fn more_repeat_the_pattern() {
        let scaled = ten().scale(blocks(20)).expect("scales");
        let once = firsts(&ten());
        assert_eq!(firsts(&scaled), once.iter().chain(&once).chain(&once[..2]).copied().collect::<Vec<_>>());
        let names: Vec<_> = scaled.zones().iter().map(|zone| (zone.name.as_str(), zone.spanned)).collect();
        assert_eq!(names, [("DMA", 8), ("Normal", 10), ("DMA", 8), ("Normal", 10), ("DMA", 4)]);
    }

    #[test]
    fn absurd_sizes_are_refused() {
        assert!(matches!(ten().scale(blocks(usize::MAX)), Err(LayoutError::TooManyFrames(_))));
        assert!(matches!(ten().scale(blocks(1 << 34)), Err(LayoutError::TooManyFrames(_))));
        assert!(matches!(ten().scale(blocks(1 << 20)), Err(LayoutError::TooManyZones(_))));
    }
}
