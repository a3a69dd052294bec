//! Pageblocks: the unit of grouping and compaction (order 9 unless configured), each with a summary of its frames.
//!
//! A summary is two words of 12-bit counts by [`Class`], changed by one atomic addition when a frame changes its class.
//! An index has one bit for each block, set if compaction may empty or fill it. So a search for work costs by the
//! blocks in use, not by the size of memory (Illuminator, ASPLOS'18, shows what such knowledge saves).

use crate::{
    frame::{Class, Spans, not_in_memory},
    port::{Machine, Table, Zeroed},
    sync::{AtomicU32, AtomicU64, Ordering},
    units::{FrameRange, Order, Pfn},
};

/// The intended use of a pageblock's frames; a hint that fallback may override.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Migratetype {
    /// Movable pages.
    Movable = 0,
    /// Pages that can't move.
    Unmovable = 1,
    /// Pages that can be reclaimed, but not moved.
    Reclaimable = 2,
}

impl Migratetype {
    pub(crate) const ALL: [Self; 3] = [Self::Movable, Self::Unmovable, Self::Reclaimable];

    /// Gives the types to take from when this one has nothing free, best first.
    pub(crate) const fn fallbacks(self) -> &'static [Self] {
        match self {
            Self::Movable => &[Self::Reclaimable, Self::Unmovable],
            Self::Unmovable => &[Self::Reclaimable, Self::Movable],
            Self::Reclaimable => &[Self::Unmovable, Self::Movable],
        }
    }

    fn from_word(word: u32) -> Self {
        // Four values, so that no bounds check is needed; the last one is never written.
        [Self::Movable, Self::Unmovable, Self::Reclaimable, Self::Movable][(word & TYPE) as usize]
    }
}

/// The migratetype's bits in a block's word.
const TYPE: u32 = 3;
/// The block is being emptied, and not allocated from. A separate bit, so that the type is kept.
const ISOLATED: u32 = 1 << 8;

/// Bits of a count; a block of order 10 has 1024 frames.
const BITS: u32 = 12;
/// Classes in the first word: those that change often.
const IN_FIRST: usize = 5;

#[derive(Default)]
#[repr(C, align(32))]
struct Block {
    first: AtomicU64,
    second: AtomicU64,
    migratetype: AtomicU32,
    zone: AtomicU32,
}

#[cfg(not(feature = "loom"))]
const _: () = assert!(size_of::<Block>() == 32);

#[allow(unsafe_code)]
// SAFETY: atomics only.
unsafe impl Zeroed for Block {}
#[allow(unsafe_code)]
// SAFETY: an atomic.
unsafe impl Zeroed for AtomicU64 {}

/// The number of a pageblock's frames in each class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    counts: [u16; Class::ALL.len()],
}

impl Summary {
    /// Gives the number of frames of `class`.
    pub fn of(&self, class: Class) -> u32 {
        u32::from(self.counts[class as usize])
    }

    /// Adds a frame of `class`.
    pub fn count(&mut self, class: Class) {
        self.counts[class as usize] += 1;
    }
}

/// Gives the word (true: the first) and the shift of a class's count.
fn place(class: Class) -> (bool, u32) {
    let number = class as usize;
    if number < IN_FIRST { (true, number as u32 * BITS) } else { (false, (number - IN_FIRST) as u32 * BITS) }
}

fn field(word: u64, number: usize) -> u16 {
    (word >> (number as u32 * BITS) & ((1 << BITS) - 1)) as u16
}

/// Sums up equal changes of class within a pageblock, since a batch of pages is mostly in few pageblocks.
#[derive(Default)]
pub(crate) struct ClassRun {
    /// First frame of the pageblock.
    start: Pfn,
    change: Option<(Class, Class)>,
    frames: u32,
}

impl ClassRun {
    /// Counts one frame; [`Self::finish`] must follow.
    pub(crate) fn add(&mut self, blocks: &Pageblocks, pfn: Pfn, from: Class, to: Class) {
        if from == to {
            return;
        }
        let start = pfn.align_down(blocks.order);
        if self.change != Some((from, to)) || start != self.start {
            self.finish(blocks);
            (self.start, self.change) = (start, Some((from, to)));
        }
        self.frames += 1;
    }

    /// Counts the rest.
    pub(crate) fn finish(&mut self, blocks: &Pageblocks) {
        if let Some((from, to)) = self.change.take() {
            blocks.moved(self.start, from, to, core::mem::take(&mut self.frames));
        }
    }
}

/// All pageblocks.
pub struct Pageblocks {
    blocks: Table<Block>,
    index: Table<AtomicU64>,
    /// The first frame of block 0.
    start: Pfn,
    order: Order,
}

impl Pageblocks {
    /// Gives the bytes of metadata for `spans`, including the index.
    pub(super) fn bytes(spans: &Spans, order: Order) -> usize {
        let count = |frames: u64| frames.div_ceil(order.frames().into()) as usize;
        let blocks: usize = spans.ranges().map(|span| count(span.frames.into())).sum();
        let all = count(spans.ends().end.get() - spans.ends().start.get());
        blocks * size_of::<Block>() + all.div_ceil(64) * 8
    }

    pub(super) fn new(machine: &dyn Machine, spans: &Spans, order: Order) -> Option<Self> {
        let (memory, count) = spans.lend(machine, order.get().into(), size_of::<Block>())?;
        u32::try_from(count).ok()?;
        let blocks = memory.into_table(count)?;
        let words = count.div_ceil(64);
        let index = machine.lend(words * 8)?.into_table(words)?;
        let new = Self { blocks, index, start: spans.ends().start, order };
        for number in spans.ranges().flat_map(|span| new.numbers(span)) {
            // Blocks outside of all zones stay reserved.
            new.block(number).second.store(new.whole() << place(Class::Reserved).1, Ordering::Relaxed);
        }
        Some(new)
    }

    pub(super) fn give_to_zone(&self, range: FrameRange, zone: u32) {
        for number in self.numbers(range) {
            let block = self.block(number);
            block.first.store(self.whole() << place(Class::Free).1, Ordering::Relaxed);
            block.second.store(0, Ordering::Relaxed);
            block.zone.store(zone + 1, Ordering::Relaxed);
        }
    }

    fn whole(&self) -> u64 {
        u64::from(self.order.frames())
    }

    fn block(&self, number: u32) -> &Block {
        &self.blocks[number as usize]
    }

    /// Gives the number of blocks from the first zone to the last, those of holes included.
    pub fn count(&self) -> u32 {
        self.blocks.len() as u32
    }

    /// Gives the order of a block.
    pub fn order(&self) -> Order {
        self.order
    }

    /// Gives the number of the block of `pfn`. Panics below the first zone and behind the last.
    #[inline(always)]
    pub fn number(&self, pfn: Pfn) -> u32 {
        self.number_if(pfn).unwrap_or_else(|| not_in_memory(pfn))
    }

    #[inline(always)]
    fn number_if(&self, pfn: Pfn) -> Option<u32> {
        let number = pfn.get().wrapping_sub(self.start.get()) >> self.order.get();
        (number < self.blocks.len() as u64).then_some(number as u32)
    }

    /// Gives the zone of the block of `pfn`; `None` if it has none.
    #[inline(always)]
    pub(super) fn zone_of(&self, pfn: Pfn) -> Option<usize> {
        self.zone(self.number_if(pfn)?)
    }

    /// Gives zone and migratetype of the block of `pfn`; `None` if it has no zone or is isolated.
    pub(super) fn zone_and_type(&self, pfn: Pfn) -> Option<(usize, Migratetype)> {
        let number = self.number_if(pfn)?;
        Some((self.zone(number)?, self.usable_type(number)?))
    }

    fn numbers(&self, range: FrameRange) -> core::ops::Range<u32> {
        // What lies outside of all blocks is left out.
        let end = Pfn::new(self.start.get() + ((self.blocks.len() as u64) << self.order.get()));
        let (first, behind) = (range.start.max(self.start), range.end().min(end));
        if first >= behind { 0..0 } else { self.number(first)..self.number(Pfn::new(behind.get() - 1)) + 1 }
    }

    /// Gives the frames of block `number`.
    pub fn range(&self, number: u32) -> FrameRange {
        FrameRange {
            start: Pfn::new(self.start.get() + (u64::from(number) << self.order.get())),
            frames: self.order.frames(),
        }
    }

    /// Reads the migratetype of block `number`.
    pub fn migratetype(&self, number: u32) -> Migratetype {
        // Relaxed, here and below: a hint, unless read under the zone's lock.
        Migratetype::from_word(self.block(number).migratetype.load(Ordering::Relaxed))
    }

    /// Reads the migratetype of block `number`; `None` if it's isolated.
    #[inline(always)]
    pub(super) fn usable_type(&self, number: u32) -> Option<Migratetype> {
        let word = self.block(number).migratetype.load(Ordering::Relaxed);
        (word & ISOLATED == 0).then(|| Migratetype::from_word(word))
    }

    /// Under the zone's lock.
    pub(super) fn set_migratetype(&self, number: u32, migratetype: Migratetype) {
        let word = self.block(number).migratetype.load(Ordering::Relaxed);
        self.block(number).migratetype.store(word & !TYPE | migratetype as u32, Ordering::Relaxed);
    }

    /// Tells whether block `number` is isolated. A thread that frees checks this inside its CPU's lists, and isolating
    /// drains these afterwards: so either the bit is seen, or the frame is drained.
    pub fn is_isolated(&self, number: u32) -> bool {
        self.block(number).migratetype.load(Ordering::Relaxed) & ISOLATED != 0
    }

    /// Under the zone's lock.
    pub(super) fn set_isolated(&self, number: u32, isolated: bool) {
        let word = self.block(number).migratetype.load(Ordering::Relaxed);
        let bit = if isolated { ISOLATED } else { 0 };
        self.block(number).migratetype.store(word & !ISOLATED | bit, Ordering::Relaxed);
    }

    /// Gives the zone of block `number`; `None` if it has none.
    pub fn zone(&self, number: u32) -> Option<usize> {
        // The word is the zone's number and 1, so that a block of a hole, all zero, has none.
        (self.block(number).zone.load(Ordering::Relaxed) as usize).checked_sub(1)
    }

    /// Moves `frames` frames of `pfn`'s block from one class to another.
    pub(crate) fn moved(&self, pfn: Pfn, from: Class, to: Class, frames: u32) {
        let number = self.number(pfn);
        let block = self.block(number);
        let (mut first, mut second) = (0u64, 0u64);
        for (class, sign) in [(from, u64::MAX), (to, 1)] {
            let (in_first, shift) = place(class);
            let delta = (u64::from(frames) << shift).wrapping_mul(sign);
            let word = if in_first { &mut first } else { &mut second };
            *word = word.wrapping_add(delta);
        }
        // Relaxed: counts are hints while memory changes, and exact at quiet points, which other accesses order.
        if second != 0 {
            block.second.fetch_add(second, Ordering::Relaxed);
        }
        let mut is_new = to == Class::SpaceTable;
        if first != 0 {
            let before = block.first.fetch_add(first, Ordering::Relaxed);
            is_new |= !self.is_candidate_by(before) && self.is_candidate_by(before.wrapping_add(first));
        }
        if is_new {
            // After the counts: Release pairs with the Acquire of `for_each_candidate`, which clears the bit before it
            // reads them.
            self.index[number as usize / 64].fetch_or(1 << (number % 64), Ordering::Release);
        }
    }

    /// Has movable pages or is partly free: it can be emptied or filled.
    fn is_candidate(&self, block: &Block) -> bool {
        let tables = |second| field(second, Class::SpaceTable as usize - IN_FIRST) > 0;
        self.is_candidate_by(block.first.load(Ordering::Relaxed)) || tables(block.second.load(Ordering::Relaxed))
    }

    /// The same by the classes in the first word only.
    fn is_candidate_by(&self, first: u64) -> bool {
        let free = u64::from(field(first, Class::Free as usize));
        let movable = [Class::Lru, Class::DriverUnmapped, Class::DriverMapped, Class::Pinned]
            .iter()
            .any(|&c| field(first, c as usize) > 0);
        movable || (free > 0 && free < self.whole())
    }

    /// Reads the summary of block `number`. Listed frames stay accounted under their list's usual class, until
    /// [`super::Physical::drain_cpu_lists`].
    pub fn summary(&self, number: u32) -> Summary {
        let block = self.block(number);
        let (first, second) = (block.first.load(Ordering::Relaxed), block.second.load(Ordering::Relaxed));
        let mut counts = [0; Class::ALL.len()];
        for (number, count) in counts.iter_mut().enumerate() {
            *count = if number < IN_FIRST { field(first, number) } else { field(second, number - IN_FIRST) };
        }
        Summary { counts }
    }

    /// Calls `see` with each block of `range` that can be emptied or filled, upwards. Any other block costs one bit.
    pub fn for_each_candidate(&self, range: FrameRange, mut see: impl FnMut(u32, Summary)) {
        let numbers = self.numbers(range);
        for word in numbers.start / 64..numbers.end.div_ceil(64) {
            let mut bits = self.index[word as usize].load(Ordering::Relaxed);
            while bits != 0 {
                let bit = bits.trailing_zeros();
                bits &= bits - 1;
                let number = word * 64 + bit;
                if !numbers.contains(&number) {
                    continue;
                }
                if !self.is_candidate(self.block(number)) {
                    // Bits are cleared only here. Clear first, then read again: a count that rises meanwhile is either
                    // seen now, by Acquire, or its thread sets the bit after our clearing.
                    self.index[word as usize].fetch_and(!(1 << bit), Ordering::Acquire);
                    if !self.is_candidate(self.block(number)) {
                        continue;
                    }
                    self.index[word as usize].fetch_or(1 << bit, Ordering::Relaxed);
                }
                see(number, self.summary(number));
            }
        }
    }

    /// Counts the entirely free blocks of `range`.
    pub fn free_blocks(&self, range: FrameRange) -> u32 {
        self.numbers(range).filter(|&number| self.summary(number).of(Class::Free) == self.order.frames()).count() as u32
    }
}
