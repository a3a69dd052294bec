//! The spans of physical memory: its frames numbered without the holes between them.
//!
//! Takes the zones; gives each of their frames a number, for the tables of frames and pageblocks. So tables cost by the
//! memory there is, wherever it begins and however far apart its parts are (Linux: sparse memory).
//!
//! A number is aligned as its frame is, up to the largest order, and no aligned run of numbers is of two spans. So aligned runs of
//! numbers are aligned runs of frames; in front of a span some numbers are left out.
//!
//! Numbers have 32 bits: 16 TiB of frames. An index's places keep numbers, not frames.

use alloc::{boxed::Box, vec::Vec};

use crate::units::{FrameRange, MAX_ORDER, Pfn};

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
            let behind = match spans.last_mut() {
                Some(Span { range, .. }) if zone.start.get() - range.end().get() < SECTION => {
                    range.frames = u32::try_from(zone.end().get() - range.start.get()).ok()?;
                    continue;
                }
                Some(last) => last.first.checked_add(last.range.frames)?,
                None => 0,
            };
            let place = zone.start.offset_from(zone.start.align_down(MAX_ORDER));
            let first = behind.checked_next_multiple_of(MAX_ORDER.frames())?.checked_add(place)?;
            spans.push(Span { range: *zone, first });
        }
        let last = spans.last().copied().unwrap_or_default();
        // The highest number means "none" to those who keep numbers.
        last.first.checked_add(last.range.frames)?;
        let others = spans.split_off(spans.len().min(1)).into_boxed_slice();
        Some(Self { lowest: spans.pop().unwrap_or_default(), others })
    }

    fn last(&self) -> &Span {
        self.others.last().unwrap_or(&self.lowest)
    }

    /// Gives the first number behind all frames.
    pub(crate) fn numbers(&self) -> u32 {
        self.last().first + self.last().range.frames
    }

    /// Gives the first frame behind all spans.
    pub(crate) fn end(&self) -> Pfn {
        self.last().range.end()
    }

    /// Gives the number of a frame; `None` outside of all spans.
    #[inline(always)]
    pub(crate) fn number(&self, pfn: Pfn) -> Option<u32> {
        let offset = pfn.get().wrapping_sub(self.lowest.range.start.get());
        if offset < u64::from(self.lowest.range.frames) {
            Some(self.lowest.first + offset as u32)
        } else {
            self.number_in_others(pfn)
        }
    }

    fn number_in_others(&self, pfn: Pfn) -> Option<u32> {
        let behind = self.others.partition_point(|span| span.range.start <= pfn);
        let span = self.others.get(behind.checked_sub(1)?)?;
        span.range.contains(pfn).then(|| span.first + pfn.offset_from(span.range.start))
    }

    /// Gives the frame of a number; for one that was left out, some frame outside of all spans.
    #[inline(always)]
    pub(crate) fn pfn(&self, number: u32) -> Pfn {
        let offset = number.wrapping_sub(self.lowest.first);
        if offset < self.lowest.range.frames { self.lowest.range.start.up(offset) } else { self.pfn_in_others(number) }
    }

    fn pfn_in_others(&self, number: u32) -> Pfn {
        let behind = self.others.partition_point(|span| span.first <= number);
        let span = behind.checked_sub(1).map_or(&self.lowest, |at| &self.others[at]);
        // Wrapping, for a number that was left out in front of the lowest span.
        Pfn::new(span.range.start.get().wrapping_add(u64::from(number)).wrapping_sub(span.first.into()))
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
        // The first hole is a section. Frames `end` and `2 * end` are numbers 10 and 20 of their 1024.
        assert_eq!((spans.numbers(), spans.end()), (2048 + 20 + 7, Pfn::new(2 * end + 7)));
        for (pfn, number) in [
            (0, None),
            (far - 1, None),
            (far, Some(0)),
            (far + 9, Some(9)),
            (far + 10, None),
            (end - 1, None),
            (end, Some(1024 + 10)),
            (end + 5, Some(1024 + 15)),
            (end + 6, None),
            (2 * end - 1, None),
            (2 * end, Some(2048 + 20)),
            (2 * end + 6, Some(2048 + 26)),
            (2 * end + 7, None),
            (u64::MAX, None),
        ] {
            assert_eq!(spans.number(Pfn::new(pfn)), number, "{pfn:#x}");
            assert!(number.is_none_or(|number| spans.pfn(number) == Pfn::new(pfn)), "{pfn:#x}");
        }
        let left_out = [10, 1024, 1033, 1040, 2067].map(|number| spans.pfn(number));
        assert_eq!(left_out.map(|pfn| spans.number(pfn)), [None; 5], "{left_out:?}");
        // A frame less, and the hole has numbers.
        let spans = Spans::of(&zones(&[(far, 11), (end, 5)])).unwrap();
        assert_eq!((spans.numbers(), spans.number(Pfn::new(end - 1))), (SECTION as u32 + 15, Some(SECTION as u32 + 9)));
    }

    #[test]
    fn memory_that_begins_anywhere_has_aligned_numbers() {
        for start in [0, 1, 512, 1023, 1024, (1 << 34) + 1536] {
            let spans = Spans::of(&zones(&[(start, 3000)])).unwrap();
            for pfn in (start..start + 3000).map(Pfn::new) {
                let number = spans.number(pfn).unwrap();
                assert_eq!((u64::from(number) % 1024, spans.pfn(number)), (pfn.get() % 1024, pfn));
            }
            assert_eq!(spans.number(spans.pfn(0)), (start % 1024 == 0).then_some(0));
        }
    }

    #[test]
    fn more_frames_than_numbers_are_refused() {
        let half = 1 << 31;
        let numbers = |second| Some(Spans::of(&zones(&[(0, half), (1 << 39, second)]))?.numbers());
        assert_eq!([numbers(half - 1), numbers(half)], [Some(u32::MAX), None]);
        // In one span with a small hole.
        assert!(Spans::of(&zones(&[(0, half), (u64::from(half) + 10, half)])).is_none());
        assert_eq!((Spans::of(&[]).unwrap().numbers(), Spans::of(&[]).unwrap().number(Pfn::new(0))), (0, None));
    }
}
