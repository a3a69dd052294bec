//! Physical memory by class: what a layout is.

use super::{
    FrameClass, LayoutError, Owned, Run, Sizes, Zone,
    check::{check, check_owners},
    parts::push_run,
};

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
    sizes: Sizes,
    zones: Vec<Zone>,
    runs: Vec<Run>,
    /// Who had frames, if the machine was asked; each within the layout.
    owners: Vec<Owned>,
}

impl Layout {
    /// Makes a layout of its parts, if they don't contradict each other; joins neighbouring runs of one class.
    pub(crate) fn new(source: String, sizes: Sizes, zones: Vec<Zone>, runs: Vec<Run>) -> Result<Self, LayoutError> {
        check(&source, sizes, &zones, &runs)?;
        let mut joined = Vec::with_capacity(runs.len());
        for run in runs {
            push_run(&mut joined, run.class, run.frames);
        }
        Ok(Self { source, sizes, zones, runs: joined, owners: Vec::new() })
    }

    /// Returns the same layout under another description of where it comes from.
    pub(crate) fn with_source(self, source: String) -> Result<Self, LayoutError> {
        Self::new(source, self.sizes, self.zones, self.runs)?.with_owners(self.owners)
    }

    /// Returns the same layout with the names of who has frames.
    pub(crate) fn with_owners(self, owners: Vec<Owned>) -> Result<Self, LayoutError> {
        check_owners(&owners, self.first_pfn(), self.first_pfn() + self.frames())?;
        Ok(Self { owners, ..self })
    }

    /// Returns who had frames, if the machine was asked.
    pub(crate) fn owners(&self) -> &[Owned] {
        &self.owners
    }

    /// Returns the same layout with another class for some of the frames that have one, in rising order of their PFN; holes stay holes.
    pub(crate) fn with_class(mut self, pfns: &[u64], class: FrameClass) -> Self {
        let (mut runs, mut at) = (Vec::with_capacity(self.runs.len()), self.first_pfn());
        let mut pfns = pfns.iter().copied().peekable();
        for run in &self.runs {
            let end = at + run.frames;
            while let Some(pfn) = pfns.next_if(|&pfn| pfn < end) {
                if run.class != FrameClass::Absent && pfn >= at {
                    push_run(&mut runs, run.class, pfn - at);
                    push_run(&mut runs, class, 1);
                    at = pfn + 1;
                }
            }
            push_run(&mut runs, run.class, end - at);
            at = end;
        }
        self.runs = runs;
        self
    }

    /// Returns where the layout comes from, in words.
    pub(crate) fn source(&self) -> &str {
        &self.source
    }

    /// Returns the order of a pageblock (9: 2 MiB).
    pub(crate) fn pageblock_order(&self) -> u8 {
        self.sizes.pageblock_order
    }

    /// Returns the sizes of frames and pageblocks.
    pub(crate) fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// Returns the frames of a pageblock.
    pub(crate) fn frames_per_block(&self) -> u64 {
        1 << self.sizes.pageblock_order
    }

    /// Returns the bytes of a pageblock.
    pub(crate) fn block_bytes(&self) -> u64 {
        self.frames_per_block() * self.sizes.frame_bytes
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

    /// Returns the number of the zone to which a pageblock counts: the first that has frames in it.
    pub(crate) fn zone_of_block(&self, pfn: u64) -> usize {
        // A block that has a frame has one in a zone; so the search only falls short for blocks of no layout.
        self.zones.partition_point(|zone| zone.end_pfn() <= pfn).min(self.zones.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_get_another_class() {
        use FrameClass::*;
        let runs = [(Free, 2), (File, 4), (Absent, 2)].map(Run::from).to_vec();
        let zone = Zone { name: "Normal".into(), node: 0, start_pfn: 8, spanned: 6, present: 6 };
        let layout = Layout::new("test".into(), Sizes::usual(2), vec![zone], runs).expect("consistent");
        let changed = |pfns: &[u64]| -> Vec<(FrameClass, u64)> {
            layout.clone().with_class(pfns, Slab).runs().iter().map(|&run| run.into()).collect()
        };
        assert_eq!(changed(&[8, 11, 12]), [(Slab, 1), (Free, 1), (File, 1), (Slab, 2), (File, 1), (Absent, 2)]);
        assert_eq!(changed(&[10, 10, 13, 14, 99]), [(Free, 2), (Slab, 1), (File, 2), (Slab, 1), (Absent, 2)]);
        assert_eq!(changed(&[1, 7]), [(Free, 2), (File, 4), (Absent, 2)]);
    }
}
