//! The frames that want a name: ranges of a layout, to be asked for each frame that a source tells of.

use crate::layout::{FrameClass, Layout};

/// Ranges of frames, upwards.
pub(super) struct Wanted(Vec<(u64, u64)>);

impl Wanted {
    /// Those of the classes for which `which` holds.
    pub(super) fn of(layout: &Layout, which: impl Fn(FrameClass) -> bool) -> Self {
        let mut at = layout.first_pfn();
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for run in layout.runs() {
            let end = at + run.frames;
            match ranges.last_mut() {
                _ if !which(run.class) => {}
                Some(last) if last.1 == at => last.1 = end,
                _ => ranges.push((at, end)),
            }
            at = end;
        }
        Self(ranges)
    }

    /// Tells whether a frame is one of them.
    pub(super) fn contains(&self, pfn: u64) -> bool {
        self.meets(pfn, pfn + 1)
    }

    /// Tells whether one of them is in a range.
    pub(super) fn meets(&self, first: u64, end: u64) -> bool {
        let behind = self.0.partition_point(|&(start, _)| start < end);
        behind > 0 && first < self.0[behind - 1].1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{Run, Sizes, Zone};

    #[test]
    fn ranges_are_those_of_the_classes() {
        use FrameClass::*;
        let runs = [(Free, 4), (DriverMapped, 2), (Slab, 1), (DriverMapped, 1)].map(Run::from).to_vec();
        let zone = Zone { name: "Normal".into(), node: 0, start_pfn: 16, spanned: 8, present: 8 };
        let layout = Layout::new("test".into(), Sizes::usual(2), vec![zone], runs).expect("consistent");
        let found = |wanted: &Wanted| (0..40).filter(|&pfn| wanted.contains(pfn)).collect::<Vec<u64>>();
        let mapped = Wanted::of(&layout, |class| class == DriverMapped);
        assert_eq!(found(&mapped), [20, 21, 23]);
        assert_eq!(
            [mapped.meets(0, 20), mapped.meets(0, 21), mapped.meets(22, 23), mapped.meets(22, 99)],
            [false, true, false, true]
        );
        assert_eq!(found(&Wanted::of(&layout, FrameClass::stays)), [20, 21, 22, 23]);
        assert_eq!(found(&Wanted::of(&layout, |class| class == Anon)), [0_u64; 0]);
    }
}
