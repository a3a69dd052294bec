//! Memory at boot: the firmware's map, from which the kernel takes what it needs before the engine manages the rest.

use alloc::vec::Vec;
use core::ops::Range;

use crate::sparse::more_frames;
use pagemove::{
    units::{FrameRange, HUGE_ORDER, PAGE_SHIFT, PAGE_SIZE, Pfn},
    zone::Config,
};

/// Usable memory, without what is reserved.
#[derive(Debug, Clone, Default)]
pub struct MemoryMap {
    // Frames and node; neither sorted nor free of overlaps.
    usable: Vec<(Range<u64>, u32)>,
    reserved: Vec<Range<u64>>,
}

impl MemoryMap {
    /// Adds usable memory of `node`, of which whole pages count. Ranges may overlap, be empty, or pass the end of addresses.
    pub fn add_usable(&mut self, start: u64, bytes: u64, node: u32) {
        let first = start.div_ceil(PAGE_SIZE as u64);
        let end = (start.saturating_add(bytes) >> PAGE_SHIFT).min(Pfn::LIMIT);
        if first < end {
            self.usable.push((first..end, node));
        }
    }

    /// Takes out memory that is in use: firmware's, the kernel's image. All pages that it touches; usable memory may contain it.
    pub fn reserve(&mut self, start: u64, bytes: u64) {
        let end = start.saturating_add(bytes).div_ceil(PAGE_SIZE as u64).min(Pfn::LIMIT);
        let first = start >> PAGE_SHIFT;
        if bytes > 0 && first < end {
            self.reserved.push(first..end);
        }
    }

    /// Gives what is usable and not reserved: ascending, without overlaps.
    pub fn free(&self) -> Vec<(FrameRange, u32)> {
        let mut usable = self.usable.clone();
        usable.sort_unstable_by_key(|(range, node)| (range.start, *node));
        let mut reserved = self.reserved.clone();
        reserved.sort_unstable_by_key(|range| range.start);
        let mut free: Vec<(Range<u64>, u32)> = Vec::new();
        for (range, node) in usable {
            let mut at = range.start.max(free.last().map_or(0, |(last, _)| last.end));
            let before_or_in = |taken: &&Range<u64>| taken.start < range.end;
            for taken in reserved.iter().take_while(before_or_in).filter(|taken| taken.end > range.start) {
                if at < taken.start {
                    free.push((at..taken.start, node));
                }
                at = at.max(taken.end);
            }
            if at < range.end {
                free.push((at..range.end, node));
            }
        }
        free.into_iter().flat_map(|(range, node)| pieces(range).map(move |piece| (piece, node))).collect()
    }

    /// Takes whole pages for the kernel, from the smallest range that has as many; gives `None` if none has.
    pub fn take(&mut self, bytes: usize) -> Option<FrameRange> {
        let frames = u32::try_from(bytes.div_ceil(PAGE_SIZE)).ok().filter(|&frames| frames > 0)?;
        let fits = self.free().into_iter().map(|(range, _)| range).filter(|range| range.frames >= frames);
        let range = fits.min_by_key(|range| range.frames)?;
        // From its end, so that its aligned start stays whole.
        let taken = FrameRange::new(Pfn::new(range.end().get() - u64::from(frames)), frames)?;
        self.reserved.push(taken.start.get()..taken.end().get());
        Some(taken)
    }

    /// Gives the engine's configuration, with a direct map of the frames `ram`. `borders` are as for [`Config::from_map`].
    pub fn config(&self, borders: &[Pfn], ram: Range<Pfn>) -> Config {
        Config::from_map(&self.free(), borders, ram, HUGE_ORDER)
    }

    /// Takes the engine's metadata, and gives it with the configuration, in which it is reserved. `None` if no range is large enough.
    pub fn config_with_metadata(&mut self, borders: &[Pfn], ram: Range<Pfn>) -> Option<(Config, FrameRange)> {
        // A configuration without the range needs no more metadata than one with it. A page for each of the three pieces, and page
        // tables for those that have holes.
        let config = self.config(borders, ram.clone());
        let more = more_frames(config.lent_bytes(), config.zones.len());
        let bytes = config.lent_bytes() + (3 + 3 * more) * PAGE_SIZE;
        let lent = self.take(bytes)?;
        Some((self.config(borders, ram), lent))
    }
}

/// Cuts a range into pieces that a [`FrameRange`] can have.
fn pieces(range: Range<u64>) -> impl Iterator<Item = FrameRange> {
    // Whole pageblocks, so that the next piece is aligned as the first.
    let most = u64::from(u32::MAX) / 1024 * 1024;
    let mut at = range.start;
    core::iter::from_fn(move || {
        let frames = (range.end - at).min(most);
        let piece = FrameRange::new(Pfn::new(at), frames as u32).filter(|_| frames > 0)?;
        at += frames;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    fn map(usable: &[(u64, u64)], reserved: &[(u64, u64)]) -> MemoryMap {
        let mut map = MemoryMap::default();
        usable.iter().for_each(|&(start, bytes)| map.add_usable(start, bytes, 0));
        reserved.iter().for_each(|&(start, bytes)| map.reserve(start, bytes));
        map
    }

    fn free(map: &MemoryMap) -> Vec<(u64, u64)> {
        map.free().into_iter().map(|(range, _)| (range.start.get(), range.end().get())).collect()
    }

    #[test]
    fn usable_is_rounded_inwards_and_reserved_outwards() {
        assert_eq!(free(&map(&[(0x1001, 0x4fff)], &[])), [(2, 6)]);
        assert_eq!(free(&map(&[(0x1000, 0x8000)], &[(0x3fff, 2)])), [(1, 3), (5, 9)]);
        assert_eq!(free(&map(&[(0x1fff, 0x1000)], &[])), []);
        assert_eq!(free(&map(&[(0x1000, 0x1000)], &[(0x1000, 0)])), [(1, 2)]);
    }

    #[test]
    fn overlaps_count_once_and_wild_ranges_do_no_harm() {
        let map = map(
            &[(0x10000, 0x10000), (0x8000, 0x10000), (0x18000, u64::MAX), (u64::MAX, 1), (0, 0)],
            &[(0x9000, 0x2000), (0xa000, 0x3000), (0x1f000, 0x2000), (u64::MAX - 1, u64::MAX)],
        );
        let free = free(&map);
        assert_eq!(free[..3], [(8, 9), (0xd, 0x18), (0x18, 0x1f)]);
        assert_eq!(free[3].0, 0x21);
        assert_eq!(free.last().map(|last| last.1), Some(Pfn::LIMIT));
    }

    /// By hand, frame by frame, on random maps.
    #[test]
    fn exactly_the_usable_frames_that_nobody_reserves_are_free() {
        let mut state = 1u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % below
        };
        for _ in 0..500 {
            let mut ranges = |count| (0..count).map(|_| (random(64), random(20))).collect::<Vec<_>>();
            let (usable, reserved) = (ranges(5), ranges(4));
            let bytes =
                |ranges: &[(u64, u64)]| ranges.iter().map(|&(at, len)| (at << 12, len << 12)).collect::<Vec<_>>();
            let mut map = map(&bytes(&usable), &bytes(&reserved));
            let has = |ranges: &[(u64, u64)], frame| ranges.iter().any(|&(at, len)| (at..at + len).contains(&frame));
            let expected: Vec<u64> = (0..100).filter(|&frame| has(&usable, frame) && !has(&reserved, frame)).collect();
            let found = |map: &MemoryMap| free(map).into_iter().flat_map(|(start, end)| start..end).collect::<Vec<_>>();
            assert_eq!(found(&map), expected, "{usable:?} {reserved:?}");
            let Some(taken) = map.take(3 << 12) else { continue };
            let mut left = expected;
            left.retain(|&frame| !taken.contains(Pfn::new(frame)));
            assert_eq!(found(&map), left);
        }
    }

    #[test]
    fn metadata_is_taken_and_reserved() {
        let mut map = map(&[(0x1000, 0x9e000), (0x100000, 64 << 20)], &[(0x200000, 3 << 20)]);
        let ram = Pfn::new(0)..Pfn::new((64 << 8) + 256);
        let (config, lent) = map.config_with_metadata(&[], ram).unwrap();
        assert!(lent.frames as usize * PAGE_SIZE >= config.lent_bytes());
        assert!(config.reserved.iter().any(|range| range.contains(lent.start)));
        assert_eq!(map.take(1 << 40), None);
        assert_eq!(vec![map.take(0)], [None]);
    }
}
