//! A picture of memory in a few lines of text.
//!
//! Takes the pageblocks in order of their PFN, gives strips in which each character stands for a group of neighbouring
//! blocks and shows a share of it by its height. Promises that only an empty share looks empty and that strips of one
//! picture line up.

use super::{FrameClass, census::ByClass, census::Verdict};

/// Characters of a strip, at most.
const WIDTH: u64 = 72;
/// Levels from none to all.
const BLOCKS: [char; 9] = ['·', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// The same for terminals that show ASCII only.
const ASCII: [char; 9] = [' ', '.', ':', '-', '=', '+', '*', '#', '@'];

/// What one pageblock adds to the picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cell {
    free: u16,
    movable: u16,
    stays: u16,
    hostage: bool,
}

/// Collects pageblocks, then draws them.
#[derive(Debug, Default)]
pub(crate) struct Picture(Vec<(Cell, u64)>);

/// Frames, and blocks, of one kind and of all.
type Share = (u64, u64);

impl Picture {
    /// Adds `count` pageblocks that are alike.
    pub(crate) fn add(&mut self, frames: &ByClass, verdict: Verdict, count: u64) {
        let small = |count: u64| u16::try_from(count).unwrap_or(u16::MAX);
        let cell = Cell {
            free: small(frames.of(FrameClass::Free)),
            movable: small(frames.sum(FrameClass::linux_moves)),
            stays: small(frames.sum(FrameClass::stays)),
            hostage: verdict == Verdict::Hostage,
        };
        match self.0.last_mut() {
            Some((last, blocks)) if *last == cell => *blocks += count,
            _ => self.0.push((cell, count)),
        }
    }

    /// Returns the pageblocks that a character stands for.
    pub(crate) fn blocks_per_char(&self) -> u64 {
        let blocks: u64 = self.0.iter().map(|(_, blocks)| blocks).sum();
        blocks.div_ceil(WIDTH).max(1)
    }

    /// Returns four strips with their captions.
    pub(crate) fn strips(&self, ascii: bool) -> [(&'static str, String); 4] {
        let strip = |of: fn(&Cell) -> Share| self.shares(of).map(|(part, whole)| level(part, whole, ascii)).collect();
        [
            ("free frames", strip(|cell| (cell.free.into(), cell.frames()))),
            ("movable frames", strip(|cell| (cell.movable.into(), cell.frames()))),
            ("frames that stay", strip(|cell| (cell.stays.into(), cell.frames()))),
            ("hostage blocks", strip(|cell| (cell.hostage.into(), 1))),
        ]
    }

    /// Sums over the blocks of each character.
    fn shares(&self, of: fn(&Cell) -> Share) -> impl Iterator<Item = Share> {
        let each = self.blocks_per_char();
        let mut cells = self.0.iter().map(move |&(cell, blocks)| (of(&cell), blocks));
        let mut rest = None;
        std::iter::from_fn(move || {
            let (mut sum, mut left) = ((0, 0), each);
            while left > 0 {
                let Some(((part, whole), blocks)) = rest.take().or_else(|| cells.next()) else { break };
                let taken = blocks.min(left);
                sum = (sum.0 + part * taken, sum.1 + whole * taken);
                left -= taken;
                rest = (blocks > taken).then_some(((part, whole), blocks - taken));
            }
            (left < each).then_some(sum)
        })
    }
}

impl Cell {
    fn frames(&self) -> u64 {
        u64::from(self.free) + u64::from(self.movable) + u64::from(self.stays)
    }
}

/// Returns the character for a share; the lowest is for nothing at all, the highest for nearly all.
fn level(part: u64, whole: u64, ascii: bool) -> char {
    let levels = if ascii { ASCII } else { BLOCKS };
    match (part, whole) {
        (0, _) | (_, 0) => levels[0],
        _ => levels[((part * 8).div_ceil(whole) as usize).min(8)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(blocks: &[(u64, u64, u64)]) -> Picture {
        let mut picture = Picture::default();
        for &(free, anon, slab) in blocks {
            let mut frames = ByClass::default();
            frames.add(FrameClass::Free, free);
            frames.add(FrameClass::Anon, anon);
            frames.add(FrameClass::Slab, slab);
            picture.add(&frames, Verdict::of(&frames), 1);
        }
        picture
    }

    #[test]
    fn each_strip_shows_its_share() {
        let picture = picture(&[(8, 0, 0), (7, 0, 1), (0, 4, 4), (0, 0, 8)]);
        assert_eq!(picture.strips(false).map(|(_, strip)| strip), ["█▇··", "··▄·", "·▁▄█", "·██·"]);
        assert_eq!(picture.strips(true).map(|(_, strip)| strip), ["@#  ", "  = ", " .=@", " @@ "]);
    }

    #[test]
    fn many_blocks_share_a_character_and_nothing_is_lost() {
        let mut blocks = vec![(8, 0, 0); 1000];
        blocks[999] = (7, 0, 1);
        let picture = picture(&blocks);
        assert_eq!(picture.blocks_per_char(), 14);
        let [free, _, stays, hostage] = picture.strips(false).map(|(_, strip)| strip);
        assert_eq!([&free, &stays, &hostage].map(|strip| strip.chars().count()), [72; 3]);
        assert_eq!((stays.chars().filter(|c| *c != '·').count(), hostage.chars().last()), (1, Some('▂')));
    }

    #[test]
    fn no_block_gives_empty_strips() {
        assert_eq!(picture(&[]).strips(false).map(|(_, strip)| strip), [""; 4]);
    }
}
