//! The buddy allocator of one zone: free lists by order and migratetype, linked through the free frames themselves. A link
//! is a frame's offset in its zone, so that two fit into a frame's key.
//!
//! All calls need the zone's lock. The list of a free block depends on its head's pageblock: that of its migratetype,
//! or if isolated, a list that no allocation takes from. Blocks whose memory the host has back are on lists of their own,
//! of each order and migratetype taken from last; parts of such a block stay reported, and so does what two of them merge to.

use super::pageblock::{Migratetype, Pageblocks};
use crate::{
    frame::{Class, FrameTable, Kind, Marks, State},
    units::{FrameRange, MAX_ORDER, Order, Pfn},
};

const NIL: u32 = u32::MAX;
const ORDERS: usize = MAX_ORDER.get() as usize + 1;

/// One group for each migratetype, and one for isolated pageblocks.
const GROUPS: usize = Migratetype::ALL.len() + 1;

#[derive(Debug, Clone, Copy)]
struct List {
    head: u32,
    blocks: u32,
}

/// The list of blocks that the host has memory for, and that of [reported](Marks::REPORTED) ones.
type Group = [List; 2];

/// Free lists of a zone.
pub(super) struct Buddy {
    range: FrameRange,
    lists: [[Group; GROUPS]; ORDERS],
    free_frames: u32,
}

/// The tables that the lists need.
#[derive(Clone, Copy)]
pub(super) struct Tables<'a> {
    pub(super) frames: &'a FrameTable,
    pub(super) blocks: &'a Pageblocks,
}

impl Buddy {
    /// Makes the lists of a zone in which the ranges `free` are free, of the largest blocks that fit; writes only their
    /// heads.
    pub(super) fn new(tables: Tables<'_>, range: FrameRange, free: &[FrameRange]) -> Self {
        let empty = List { head: NIL, blocks: 0 };
        let mut buddy = Self { range, lists: [[[empty; _]; _]; _], free_frames: 0 };
        free.iter().for_each(|&free| buddy.add(tables, free));
        buddy
    }

    fn add(&mut self, tables: Tables<'_>, range: FrameRange) {
        let mut at = range.start;
        while at < range.end() {
            let order = MAX_ORDER
                .up_to()
                .rev()
                .find(|&order| at.is_aligned(order) && order.frames() <= range.end().offset_from(at))
                .unwrap_or(Order::ZERO);
            self.push(tables, at, order, false);
            at = at.up(order.frames());
        }
    }

    pub(super) fn free_frames(&self) -> u32 {
        self.free_frames
    }

    /// Counts the frames on the lists of reported blocks.
    pub(super) fn reported_frames(&self) -> u32 {
        let of =
            |order: Order| self.lists[order.get() as usize].iter().map(|[_, reported]| reported.blocks).sum::<u32>();
        MAX_ORDER.up_to().map(|order| of(order) * order.frames()).sum()
    }

    fn link_to(&self, pfn: Pfn) -> u32 {
        pfn.offset_from(self.range.start)
    }

    fn linked(&self, link: u32) -> Option<Pfn> {
        (link != NIL).then(|| self.range.start.up(link))
    }

    fn push(&mut self, tables: Tables<'_>, pfn: Pfn, order: Order, is_reported: bool) {
        let link = self.link_to(pfn);
        let list = &mut self.lists[order.get() as usize][group_of(tables, pfn)][usize::from(is_reported)];
        let next = list.head;
        list.head = link;
        list.blocks += 1;
        let head = &tables.frames[pfn];
        head.set_links(NIL, next);
        let marks = if is_reported { Marks::HEAD | Marks::REPORTED } else { Marks::HEAD };
        head.set_state(State::new(Kind::Free, Class::Free, order).with(marks));
        if let Some(next) = self.linked(next) {
            let next = &tables.frames[next];
            let (_, behind) = next.links();
            next.set_links(link, behind);
        }
        self.free_frames += order.frames();
    }

    /// Takes a block off its list; tells whether it was reported.
    fn unlink(&mut self, tables: Tables<'_>, pfn: Pfn, order: Order) -> bool {
        self.unlink_from(group_of(tables, pfn), tables, pfn, order)
    }

    fn unlink_from(&mut self, group: usize, tables: Tables<'_>, pfn: Pfn, order: Order) -> bool {
        let head = &tables.frames[pfn];
        let is_reported = head.state().is_reported();
        let (previous, next) = head.links();
        let before = self.linked(previous);
        let list = &mut self.lists[order.get() as usize][group][usize::from(is_reported)];
        list.blocks -= 1;
        if let Some(before) = before {
            let before = &tables.frames[before];
            before.set_links(before.links().0, next);
        } else {
            list.head = next;
        }
        if let Some(behind) = self.linked(next) {
            let behind = &tables.frames[behind];
            behind.set_links(previous, behind.links().1);
        }
        head.set_state(State::new(Kind::Free, Class::Free, Order::ZERO));
        self.free_frames -= order.frames();
        is_reported
    }

    /// Takes a block of `order`, of `migratetype` or one of its fallbacks, entirely below `below` if given.
    pub(super) fn take(
        &mut self,
        tables: Tables<'_>,
        order: Order,
        migratetype: Migratetype,
        below: Option<Pfn>,
    ) -> Option<Pfn> {
        for larger in (order.get()..=MAX_ORDER.get()).filter_map(Order::new) {
            if let Some(head) = self.first(tables, larger, migratetype, order, below) {
                return self.take_part(tables, head, larger, head, order);
            }
        }
        // From fallbacks the largest block first, so that few pageblocks mix types (Linux: `__rmqueue_fallback`).
        for larger in (order.get()..=MAX_ORDER.get()).rev().filter_map(Order::new) {
            for &other in migratetype.fallbacks() {
                if let Some(head) = self.first(tables, larger, other, order, below) {
                    self.convert(tables, head, migratetype);
                    return self.take_part(tables, head, larger, head, order);
                }
            }
        }
        None
    }

    /// Finds the first block of `larger` whose lowest part of `order` is below `below`. A bound makes it walk the lists,
    /// so callers pass `None` for zones that are entirely below.
    fn first(
        &self,
        tables: Tables<'_>,
        larger: Order,
        migratetype: Migratetype,
        order: Order,
        below: Option<Pfn>,
    ) -> Option<Pfn> {
        let is_below = |head: &Pfn| below.is_none_or(|below| head.up(order.frames() - 1) < below);
        self.lists[larger.get() as usize][migratetype as usize].iter().find_map(|list| {
            let mut next = self.linked(list.head);
            while let Some(head) = next.filter(|head| !is_below(head)) {
                next = self.linked(tables.frames[head].links().1);
            }
            next
        })
    }

    /// Takes a block of exactly `order` that isn't reported, nor in an isolated pageblock.
    pub(super) fn take_unreported(&mut self, tables: Tables<'_>, order: Order) -> Option<Pfn> {
        let usable = &self.lists[order.get() as usize][..Migratetype::ALL.len()];
        let head = usable.iter().find_map(|[unreported, _]| self.linked(unreported.head))?;
        self.unlink(tables, head, order);
        Some(head)
    }

    /// Changes the pageblocks of a free block to `migratetype`, if at least half of the first one is free.
    fn convert(&mut self, tables: Tables<'_>, head: Pfn, migratetype: Migratetype) {
        let order = tables.frames[head].state().order();
        let number = tables.blocks.number(head);
        if order >= tables.blocks.order() {
            self.retype(tables, FrameRange { start: head, frames: order.frames() }, migratetype);
        } else if tables.blocks.summary(number).of(Class::Free) >= tables.blocks.order().frames() / 2 {
            self.retype(tables, tables.blocks.range(number), migratetype);
        }
    }

    /// Sets the migratetype of whole pageblocks, and moves their free blocks to its lists.
    fn retype(&mut self, tables: Tables<'_>, range: FrameRange, migratetype: Migratetype) {
        self.relist(tables, range, |number| tables.blocks.set_migratetype(number, migratetype));
    }

    /// Calls `change` for whole pageblocks, all on the same lists, and moves their free blocks to the new lists.
    fn relist(&mut self, tables: Tables<'_>, range: FrameRange, change: impl Fn(u32)) {
        let old = group_of(tables, range.start);
        let last = tables.blocks.number(Pfn::new(range.end().get() - 1));
        (tables.blocks.number(range.start)..=last).for_each(change);
        let mut heads = FreeHeads::new(range);
        while let Some((pfn, order)) = heads.next(tables) {
            let is_reported = self.unlink_from(old, tables, pfn, order);
            self.push(tables, pfn, order, is_reported);
        }
    }

    /// Takes the aligned part of `order` at `want` out of the free block of `of` at `head`; the rest stays free.
    fn take_part(&mut self, tables: Tables<'_>, head: Pfn, of: Order, want: Pfn, order: Order) -> Option<Pfn> {
        let is_reported = self.unlink(tables, head, of);
        let (mut head, mut at) = (head, of);
        while at > order {
            at = Order::new(at.get() - 1)?;
            let upper = head.up(at.frames());
            if want >= upper {
                self.push(tables, head, at, is_reported);
                head = upper;
            } else {
                self.push(tables, upper, at, is_reported);
            }
        }
        Some(head)
    }

    /// Takes exactly the frame `pfn`, if it's free in the buddy lists.
    pub(super) fn take_exactly(&mut self, tables: Tables<'_>, pfn: Pfn) -> bool {
        match self.free_block_of(tables, pfn) {
            Some((head, order)) => self.take_part(tables, head, order, pfn, Order::ZERO).is_some(),
            None => false,
        }
    }

    fn free_block_of(&self, tables: Tables<'_>, pfn: Pfn) -> Option<(Pfn, Order)> {
        MAX_ORDER.up_to().find_map(|order| {
            let head = pfn.align_down(order);
            let state = tables.frames.get(head)?.state();
            (head >= self.range.start && state.is_free_head() && state.order() >= order
                // A smaller block at the same start does not reach `pfn`.
                && pfn < head.up(state.order().frames()))
            .then(|| (head, state.order()))
        })
    }

    /// Frees a block of `order`, and merges it with its free buddies.
    pub(super) fn give(&mut self, tables: Tables<'_>, pfn: Pfn, order: Order) {
        self.merge(tables, pfn, order, false);
    }

    /// As [`Self::give`], for a block that the host has been told of.
    pub(super) fn give_reported(&mut self, tables: Tables<'_>, pfn: Pfn, order: Order) {
        self.merge(tables, pfn, order, true);
    }

    fn merge(&mut self, tables: Tables<'_>, pfn: Pfn, order: Order, is_reported: bool) {
        let (mut pfn, mut order, mut is_reported) = (pfn, order, is_reported);
        let blocks = tables.blocks;
        while order < MAX_ORDER {
            let buddy = pfn.buddy(order);
            let whole = FrameRange { start: pfn.min(buddy), frames: order.frames() * 2 };
            if whole.start < self.range.start || whole.end() > self.range.end() {
                break;
            }
            let state = tables.frames[buddy].state();
            if !state.is_free_head() || state.order() != order {
                break;
            }
            if order >= blocks.order() {
                // Isolated blocks don't merge, not even with each other: each is isolated and released by itself.
                if [pfn, buddy].iter().any(|&pfn| blocks.is_isolated(blocks.number(pfn))) {
                    break;
                }
                let [mine, other] = [pfn, buddy].map(|pfn| blocks.migratetype(blocks.number(pfn)));
                if mine != other {
                    self.retype(tables, FrameRange { start: buddy, frames: order.frames() }, mine);
                }
            }
            is_reported &= self.unlink(tables, buddy, order);
            pfn = whole.start;
            let Some(larger) = Order::new(order.get() + 1) else { break };
            order = larger;
        }
        self.push(tables, pfn, order, is_reported);
    }

    /// Takes up to `most` free frames of a pageblock; calls `out` with each.
    pub(super) fn take_from(
        &mut self,
        tables: Tables<'_>,
        number: u32,
        most: usize,
        mut out: impl FnMut(Pfn),
    ) -> usize {
        let range = tables.blocks.range(number);
        self.split_to_pageblock(tables, range.start);
        let mut heads = FreeHeads::new(range);
        let mut taken = 0;
        while let Some((head, order)) = heads.next(tables).filter(|_| taken < most) {
            // The part of the block that is still wanted; the walk continues after it.
            let wanted = (most - taken).ilog2().min(u32::from(order.get()));
            let Some(part) = Order::new(wanted as u8) else { break };
            if self.take_part(tables, head, order, head, part).is_none() {
                break;
            }
            (FrameRange { start: head, frames: part.frames() }).iter().for_each(&mut out);
            taken += part.frames() as usize;
            heads.at = head.up(part.frames());
        }
        taken
    }

    /// Takes a free block of `order`, at most a pageblock's, from pageblock `number`.
    pub(super) fn take_block_from(&mut self, tables: Tables<'_>, number: u32, order: Order) -> Option<Pfn> {
        let range = tables.blocks.range(number);
        self.split_to_pageblock(tables, range.start);
        let mut heads = FreeHeads::new(range);
        while let Some((head, of)) = heads.next(tables) {
            if of >= order {
                return self.take_part(tables, head, of, head, order);
            }
        }
        None
    }

    /// Splits a free block that is larger than a pageblock, so that the pageblock at `start` is a block by itself.
    fn split_to_pageblock(&mut self, tables: Tables<'_>, start: Pfn) {
        if let Some((head, order)) = self.free_block_of(tables, start)
            && order > tables.blocks.order()
        {
            let is_reported = tables.frames[head].state().is_reported();
            if let Some(alone) = self.take_part(tables, head, order, start, tables.blocks.order()) {
                self.push(tables, alone, tables.blocks.order(), is_reported);
            }
        }
    }

    /// Isolates pageblock `number`, or ends that. Its free blocks are meanwhile on the list that no allocation takes
    /// from.
    pub(super) fn set_isolated(&mut self, tables: Tables<'_>, number: u32, isolated: bool) {
        let range = tables.blocks.range(number);
        self.split_to_pageblock(tables, range.start);
        self.relist(tables, range, |number| tables.blocks.set_isolated(number, isolated));
        // Merge a free block that isolation kept apart.
        let state = tables.frames[range.start].state();
        if !isolated && state.is_free_head() && state.order() == tables.blocks.order() {
            let is_reported = self.unlink(tables, range.start, state.order());
            self.merge(tables, range.start, tables.blocks.order(), is_reported);
        }
    }

    /// Checks that lists, links and states agree, and that free buddies are merged. Gives the number of free frames.
    pub(super) fn validate(&self, tables: Tables<'_>) -> Result<u32, (Pfn, &'static str)> {
        let mut total = 0;
        for (order, by_type) in self.lists.iter().enumerate() {
            for (number, list) in by_type.as_flattened().iter().enumerate() {
                let (mut link, mut previous, mut seen) = (list.head, NIL, 0);
                while let Some(pfn) = self.linked(link) {
                    let state = tables.frames[pfn].state();
                    let (back, next) = tables.frames[pfn].links();
                    if !state.is_free_head() || state.order().get() as usize != order {
                        return Err((
                            pfn,
                            "is on a free list, but its state is not that of a free block of this order",
                        ));
                    }
                    if back != previous {
                        return Err((pfn, "has a wrong link to the block before it on its free list"));
                    }
                    if group_of(tables, pfn) * 2 + usize::from(state.is_reported()) != number {
                        return Err((pfn, "is on another free list than its pageblock is to be on"));
                    }
                    self.check_unmerged(tables, pfn, state.order())?;
                    seen += 1;
                    total += state.order().frames();
                    (previous, link) = (link, next);
                }
                if seen != list.blocks {
                    return Err((self.range.start, "a free list's count differs from its length"));
                }
            }
        }
        if total != self.free_frames {
            return Err((self.range.start, "the zone's count of free frames differs from its lists"));
        }
        Ok(total)
    }

    fn check_unmerged(&self, tables: Tables<'_>, pfn: Pfn, order: Order) -> Result<(), (Pfn, &'static str)> {
        let buddy = pfn.buddy(order);
        if order == MAX_ORDER || buddy < self.range.start || buddy.up(order.frames()) > self.range.end() {
            return Ok(());
        }
        let state = tables.frames[buddy].state();
        let is_isolated = |pfn| tables.blocks.is_isolated(tables.blocks.number(pfn));
        let stands_alone = order >= tables.blocks.order() && (is_isolated(pfn) || is_isolated(buddy));
        if state.is_free_head() && state.order() == order && !stands_alone {
            return Err((pfn, "and its buddy are both free, but not merged"));
        }
        Ok(())
    }
}

/// Gives the number of the group of free blocks in `pfn`'s pageblock.
fn group_of(tables: Tables<'_>, pfn: Pfn) -> usize {
    tables.blocks.usable_type(tables.blocks.number(pfn)).map_or(GROUPS - 1, |migratetype| migratetype as usize)
}

/// Walks the heads of the free blocks of a range; blocks already passed may change.
struct FreeHeads {
    at: Pfn,
    end: Pfn,
}

impl FreeHeads {
    fn new(range: FrameRange) -> Self {
        Self { at: range.start, end: range.end() }
    }

    fn next(&mut self, tables: Tables<'_>) -> Option<(Pfn, Order)> {
        while self.at < self.end {
            let pfn = self.at;
            let state = tables.frames[pfn].state();
            if state.is_free_head() {
                self.at = pfn.up(state.order().frames());
                return Some((pfn, state.order()));
            }
            self.at = pfn.up(1);
        }
        None
    }
}
