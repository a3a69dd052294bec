//! The spans of physical memory: where its parts are, and numbers for its frames without the holes between them.
//!
//! Takes the zones. The tables of frames and pageblocks have an entry for each frame, or block, from the lowest span to the end of the
//! highest, so that finding one is a subtraction and an index; the machine backs only what the spans need ([`Spans::lend`]). (Linux:
//! sparse memory with a virtual memory map.)
//!
//! Numbers have 32 bits, for 16 TiB of frames wherever they are: an index's places keep numbers, not frames.

use alloc::{boxed::Box, vec::Vec};
use core::ops::Range;

use crate::{
    port::{LentMemory, Machine},
    units::{FrameRange, MAX_ORDER, Pfn},
};

/// A hole of so many frames (128 MiB, as Linux' sections on x86-64) or more parts two spans. The metadata of a smaller
/// one is less than 1 MiB, and few spans are found sooner.
pub(crate) const SECTION: u64 = 1 << 15;

#[derive(Debug, Clone, Copy, Default)]
struct Span {
    range: FrameRange,
    /// Number of its first frame.
    first: u32,
}

/// Consecutive parts of memory, ascending. Each begins at a multiple of the largest order's frames, in front of its first zone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Spans(Box<[Span]>);

impl Spans {
    /// Makes the spans of `zones`, which are ascending and don't overlap; `None` if they have too many frames for
    /// numbers of 32 bits.
    pub(crate) fn of(zones: &[FrameRange]) -> Option<Self> {
        let mut spans: Vec<Span> = Vec::new();
        let mut numbers = 0u32;
        for zone in zones {
            match spans.last_mut() {
                Some(Span { range, first }) if zone.start.get() - range.end().get() < SECTION => {
                    range.frames = frames(range.start, zone.end())?;
                    numbers = first.checked_add(range.frames)?;
                }
                _ => {
                    let start = zone.start.align_down(MAX_ORDER);
                    let range = FrameRange { start, frames: frames(start, zone.end())? };
                    spans.push(Span { range, first: numbers });
                    // The highest number means "none" to those who keep numbers.
                    numbers = numbers.checked_add(range.frames)?;
                }
            }
        }
        Some(Self(spans.into()))
    }

    /// Gives the number of frames.
    pub(crate) fn frames(&self) -> u32 {
        self.0.last().map_or(0, |span| span.first + span.range.frames)
    }

    /// Gives the first frame of the lowest span, and the first one behind the highest.
    pub(crate) fn ends(&self) -> Range<Pfn> {
        let start = self.0.first().map_or(Pfn::new(0), |span| span.range.start);
        start..self.0.last().map_or(start, |span| span.range.end())
    }

    /// Walks the spans' ranges.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = FrameRange> + '_ {
        self.0.iter().map(|span| span.range)
    }

    /// Gives the number of a frame; `None` outside of all spans.
    pub(crate) fn number(&self, pfn: Pfn) -> Option<u32> {
        let behind = self.0.partition_point(|span| span.range.start <= pfn);
        let span = self.0.get(behind.checked_sub(1)?)?;
        span.range.contains(pfn).then(|| span.first + pfn.offset_from(span.range.start))
    }

    /// Gives the frame of a number that [`Self::number`] gave.
    pub(crate) fn pfn(&self, number: u32) -> Pfn {
        let behind = self.0.partition_point(|span| span.first <= number);
        let span = self.0[..behind].last().copied().unwrap_or_default();
        span.range.start.up(number - span.first)
    }

    /// Borrows memory for a table from the lowest span to the end of the highest, with `bytes` for each 2^`shift` frames. Gives it
    /// with its number of entries.
    pub(crate) fn lend(&self, machine: &dyn Machine, shift: u32, bytes: usize) -> Option<(LentMemory, usize)> {
        let ends = self.ends();
        let entry = |pfn: Pfn| usize::try_from((pfn.get() - ends.start.get()).div_ceil(1 << shift)).ok();
        let entries = entry(ends.end)?;
        let all = entries.checked_mul(bytes)?;
        if self.0.len() < 2 {
            return Some((machine.lend(all)?, entries));
        }
        // No overflow: less than `all`.
        let used = self.ranges().map(|span| Some(entry(span.start)? * bytes..entry(span.end())? * bytes));
        let used: Vec<Range<usize>> = used.collect::<Option<_>>()?;
        Some((machine.lend_sparse(all, &used)?, entries))
    }
}

/// Gives the number of frames from one to another; `None` if 32 bits don't count them.
fn frames(start: Pfn, end: Pfn) -> Option<u32> {
    u32::try_from(end.get() - start.get()).ok()
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
        // The first hole is a section. Frames `end` and `2 * end` are numbers 10 and 20 of their 1024, with which a span begins.
        assert_eq!((spans.frames(), spans.ends()), (10 + 16 + 27, Pfn::new(far)..Pfn::new(2 * end + 7)));
        for (pfn, number) in [
            (0, None),
            (far - 1, None),
            (far, Some(0)),
            (far + 9, Some(9)),
            (far + 10, None),
            (end - 11, None),
            (end - 10, Some(10)),
            (end, Some(20)),
            (end + 5, Some(25)),
            (end + 6, None),
            (2 * end - 21, None),
            (2 * end - 20, Some(26)),
            (2 * end, Some(46)),
            (2 * end + 6, Some(52)),
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
        let frames = |second| Some(Spans::of(&zones(&[(0, half), (1 << 39, second)]))?.frames());
        assert_eq!([frames(half - 1), frames(half)], [Some(u32::MAX), None]);
        // In one span with a small hole.
        assert!(Spans::of(&zones(&[(0, half), (u64::from(half) + 10, half)])).is_none());
        assert_eq!((Spans::of(&[]).unwrap().frames(), Spans::of(&[]).unwrap().number(Pfn::new(0))), (0, None));
    }
}
