//! Names that stand in a layout: of the machine that it was captured on.
//!
//! Takes the layout, gives each frame the owner that it had then. Where two owners claim a frame, one of them has it.

use crate::layout::{Layout, Owned};

/// Names of frames.
#[derive(Debug, Default)]
pub(super) struct Saved {
    /// First frame, end, and the owner's place, upwards.
    ranges: Vec<(u64, u64, u32)>,
    /// Without their ranges.
    owners: Vec<Owned>,
}

impl Saved {
    /// Takes the names of a layout.
    pub(super) fn of(layout: &Layout) -> Self {
        let mut saved = Self::default();
        for (owned, number) in layout.owners().iter().zip(0..) {
            saved.ranges.extend(owned.ranges.iter().map(|&(first, frames)| (first, first + frames, number)));
            saved.owners.push(Owned { ranges: Vec::new(), ..owned.clone() });
        }
        saved.ranges.sort_unstable();
        // Each ends before the next one begins, so that the one in which a frame is can be found.
        let mut behind = u64::MAX;
        for (first, end, _) in saved.ranges.iter_mut().rev() {
            *end = (*end).min(behind);
            behind = *first;
        }
        saved
    }

    /// Tells whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Gives the number of a frame's owner.
    pub(super) fn number(&self, pfn: u64) -> Option<u32> {
        let behind = self.ranges.partition_point(|&(first, ..)| first <= pfn);
        let &(_, end, number) = self.ranges.get(behind.checked_sub(1)?)?;
        (pfn < end).then_some(number)
    }

    /// Tells whether all frames of a range have one owner here, or none.
    pub(super) fn is_uniform(&self, first: u64, end: u64) -> bool {
        let from = self.ranges.partition_point(|&(_, behind, _)| behind <= first);
        self.ranges.get(from).is_none_or(|&(start, behind, _)| start >= end || start <= first && behind >= end)
    }

    /// Gives an owner.
    pub(super) fn owner(&self, number: u32) -> &Owned {
        &self.owners[number as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{FrameClass, Run, Sizes, Zone};

    #[test]
    fn each_frame_has_the_owner_that_it_had() {
        let zone = Zone { name: "Normal".into(), node: 0, start_pfn: 16, spanned: 16, present: 16 };
        let runs = vec![Run { class: FrameClass::Kernel, frames: 16 }];
        let layout = Layout::new("test".into(), Sizes::usual(2), vec![zone], runs).expect("consistent");
        let owned = |name: &str, ranges| Owned { name: name.into(), source: "test".into(), processes: 0, ranges };
        let owners = vec![owned("a", vec![(28, 4), (16, 4)]), owned("b", vec![(18, 3)])];
        let saved = Saved::of(&layout.with_owners(owners).expect("within the layout"));
        let name = |pfn| saved.number(pfn).map(|number| saved.owner(number).name.as_str());
        assert_eq!(
            [15, 16, 17, 18, 20, 21, 28, 31, 32].map(name),
            [None, Some("a"), Some("a"), Some("b"), Some("b"), None, Some("a"), Some("a"), None]
        );
        let uniform = [(21, 28), (28, 32), (18, 21), (20, 22), (27, 29), (0, 99)]
            .map(|(first, end)| saved.is_uniform(first, end));
        assert_eq!(uniform, [true, true, true, false, false, false]);
    }
}
