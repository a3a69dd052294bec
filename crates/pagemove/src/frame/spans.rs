//! The spans of physical memory: its frames numbered without the holes between them.
//!
//! Takes the zones; gives each of their frames a number from 0 on, for the tables of frames and pageblocks. So tables
//! cost by the memory there is, wherever it begins and however far apart its parts are (Linux: sparse memory).
//!
//! Numbers have 32 bits: 16 TiB of frames. An owner's tokens and an index's places keep numbers, not frames.

use alloc::{boxed::Box, vec::Vec};

use crate::units::{FrameRange, Pfn};

/// A hole of so many frames (128 MiB, as Linux' sections on x86-64) or more parts two spans. The metadata of a smaller
/// one is less than 1 MiB, and few spans are found sooner.
pub(crate) const SECTION: u64 = 1 << 15;

#[derive(Debug, Clone, Copy, Default)]
struct Span {
    range: FrameRange,
    /// Number of its first frame.
    first: u32,
}

/// Consecutive parts of memory, ascending.
#[derive(Debug, Clone, Default)]
pub(crate) struct Spans {
    /// Apart from the others, since most machines have only this one.
    lowest: Span,
    others: Box<[Span]>,
}

impl Spans {
    /// Makes the spans of `zones`, which are ascending and don't overlap; `None` if they have too many frames for
    /// numbers of 32 bits.
    pub(crate) fn of(zones: &[FrameRange]) -> Option<Self> {
        let mut spans: Vec<Span> = Vec::new();
        for zone in zones {
            let next = match spans.last_mut() {
                Some(Span { range, .. }) if zone.start.get() - range.end().get() < SECTION => {
                    range.frames = u32::try_from(zone.end().get() - range.start.get()).ok()?;
                    continue;
                }
                Some(last) => last.first.checked_add(last.range.frames)?,
                None => 0,
            };
            spans.push(Span { range: *zone, first: next });
        }
        let last = spans.last().copied().unwrap_or_default();
        // The highest number means "none" to those who keep numbers.
        last.first.checked_add(last.range.frames)?;
        let others = spans.split_off(spans.len().min(1)).into_boxed_slice();
        Some(Self { lowest: spans.pop().unwrap_or_default(), others })
    }

    /// Gives the number of frames.
    pub(crate) fn frames(&self) -> u32 {
        let last = self.others.last().unwrap_or(&self.lowest);
        last.first + last.range.frames
    }

    /// Gives the number of a frame; `None` outside of all spans.
    #[inline(always)]
    pub(crate) fn number(&self, pfn: Pfn) -> Option<u32> {
        let offset = pfn.get().wrapping_sub(self.lowest.range.start.get());
        if offset < u64::from(self.lowest.range.frames) { Some(offset as u32) } else { self.number_in_others(pfn) }
    }

    fn number_in_others(&self, pfn: Pfn) -> Option<u32> {
        let behind = self.others.partition_point(|span| span.range.start <= pfn);
        let span = self.others.get(behind.checked_sub(1)?)?;
        span.range.contains(pfn).then(|| span.first + pfn.offset_from(span.range.start))
    }

    /// Gives the frame of a number below [`Self::frames`].
    #[inline(always)]
    pub(crate) fn pfn(&self, number: u32) -> Pfn {
        if number < self.lowest.range.frames { self.lowest.range.start.up(number) } else { self.pfn_in_others(number) }
    }

    fn pfn_in_others(&self, number: u32) -> Pfn {
        let behind = self.others.partition_point(|span| span.first <= number);
        let span = behind.checked_sub(1).map_or(&self.lowest, |at| &self.others[at]);
        span.range.start.up(number - span.first)
    }

    /// Gives the first frame after all spans.
    pub(crate) fn end(&self) -> Pfn {
        self.others.last().unwrap_or(&self.lowest).range.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zones(of: &[(u64, u32)]) -> Vec<FrameRange> {
        of.iter().map(|&(start, frames)| FrameRange { start: Pfn::new(start), frames }).collect()
    }

    #[test]
    fn numbers_leave_out_large_holes_only() {
        let (far, end) = (1 << 34, (1 << 34) + SECTION + 10);
        let spans = Spans::of(&zones(&[(far, 10), (end, 5), (end + 5, 1), (2 * end, 7)])).unwrap();
        // The first hole is a section.
        assert_eq!((spans.frames(), spans.end()), (23, Pfn::new(2 * end + 7)));
        for (pfn, number) in [
            (0, None),
            (far - 1, None),
            (far, Some(0)),
            (far + 9, Some(9)),
            (far + 10, None),
            (end - 1, None),
            (end, Some(10)),
            (end + 5, Some(15)),
            (end + 6, None),
            (2 * end - 1, None),
            (2 * end, Some(16)),
            (2 * end + 6, Some(22)),
            (2 * end + 7, None),
            (u64::MAX, None),
        ] {
            assert_eq!(spans.number(Pfn::new(pfn)), number, "{pfn:#x}");
            assert!(number.is_none_or(|number| spans.pfn(number) == Pfn::new(pfn)), "{pfn:#x}");
        }
        // A frame less, and the hole has numbers.
        let spans = Spans::of(&zones(&[(far, 11), (end, 5)])).unwrap();
        assert_eq!((spans.frames(), spans.number(Pfn::new(end - 1))), (SECTION as u32 + 15, Some(SECTION as u32 + 9)));
    }

    #[test]
    fn more_frames_than_numbers_are_refused() {
        let half = 1 << 31;
        assert_eq!(Spans::of(&zones(&[(0, half), (1 << 40, half - 1)])).unwrap().frames(), u32::MAX);
        // In two parts, and in one with a small hole.
        assert!(Spans::of(&zones(&[(0, half), (1 << 40, half)])).is_none());
        assert!(Spans::of(&zones(&[(0, half), (u64::from(half) + 10, half)])).is_none());
        assert_eq!(Spans::of(&[]).unwrap().frames(), 0);
        assert_eq!(Spans::of(&[]).unwrap().number(Pfn::new(0)), None);
    }
}
