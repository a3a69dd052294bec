//! Destinations: the folios that moves fill.

use alloc::{collections::VecDeque, sync::Arc, vec::Vec};

use crate::{
    folio::FrozenFolio,
    frame::Kind,
    units::{MAX_ORDER, Order, Pfn},
    zone::{Physical, Request},
};

/// A supply of destinations. Both calls are made while the move holds its sources' locks: they must not lock folios.
pub trait Destination<'p> {
    /// Gives a folio of `order`, entirely below `below` if given; `None` if there is none. A folio of another order,
    /// memory or place is freed, and the source stays.
    fn take(&mut self, order: Order, below: Option<Pfn>) -> Option<FrozenFolio<'p>>;

    /// Takes back an unused folio. It is a destination, as [`AnyFree`] gives, even if it was allocated as another kind.
    fn give_back(&mut self, folio: FrozenFolio<'p>) {
        drop(folio);
    }
}

/// Base pages set aside ahead.
struct Ahead<'p> {
    physical: &'p Arc<Physical>,
    frames: Vec<Pfn>,
}

impl<'p> Ahead<'p> {
    fn new(physical: &'p Arc<Physical>, most: usize) -> Self {
        Self { physical, frames: Vec::with_capacity(most) }
    }

    /// Takes a frame; returns those whose pageblock has been isolated meanwhile to the allocator.
    fn pop(&mut self, below: Option<Pfn>) -> Option<FrozenFolio<'p>> {
        let blocks = self.physical.blocks();
        loop {
            let pfn = match below {
                None => self.frames.pop()?,
                Some(below) => self.frames.remove(self.frames.iter().rposition(|&pfn| pfn < below)?),
            };
            let folio = FrozenFolio::from_exclusive(self.physical, pfn);
            if !blocks.is_isolated(blocks.number(pfn)) {
                return Some(folio);
            }
        }
    }

    /// Keeps base pages for the next move; returns larger folios.
    fn push(&mut self, folio: FrozenFolio<'p>) {
        if folio.order() == Order::ZERO {
            self.frames.push(folio.into_raw());
        }
    }

    fn return_all(&mut self) {
        self.physical.return_destinations(self.frames.drain(..));
    }
}

impl Drop for Ahead<'_> {
    fn drop(&mut self) {
        self.return_all();
    }
}

/// Any free frames.
pub struct AnyFree<'p> {
    ahead: Ahead<'p>,
    most: usize,
}

impl<'p> AnyFree<'p> {
    /// Sets aside `most` base pages at once.
    pub fn new(physical: &'p Arc<Physical>, most: usize) -> Self {
        let most = most.max(1);
        Self { ahead: Ahead::new(physical, most), most }
    }
}

impl<'p> Destination<'p> for AnyFree<'p> {
    fn take(&mut self, order: Order, below: Option<Pfn>) -> Option<FrozenFolio<'p>> {
        let physical = self.ahead.physical;
        let mut most = self.most;
        if physical.are_destinations_recalled() {
            self.ahead.return_all();
            most = 1;
        }
        if order > Order::ZERO || below.is_some() {
            // From movable pageblocks.
            let request = Request::new(order, Kind::Anon);
            let request = below.map_or(request, |below| request.below(below));
            return Some(FrozenFolio::from_exclusive(physical, physical.set_aside_folio(&request).ok()?));
        }
        if let Some(folio) = self.ahead.pop(None) {
            return Some(folio);
        }
        physical.set_aside(most, &mut self.ahead.frames);
        if self.ahead.frames.is_empty() {
            // The last free frames may be on other CPUs' lists.
            physical.drain_cpu_lists();
            physical.set_aside(most, &mut self.ahead.frames);
        }
        self.ahead.pop(None)
    }

    fn give_back(&mut self, folio: FrozenFolio<'p>) {
        self.ahead.push(folio);
    }
}

/// The free frames of given pageblocks, in their order: those that a plan fills.
pub struct TheseFrames<'p> {
    ahead: Ahead<'p>,
    blocks: VecDeque<u32>,
    /// For each order the blocks from the front that have no free folio of it.
    without: [usize; MAX_ORDER.get() as usize + 1],
}

impl<'p> TheseFrames<'p> {
    /// Frames set aside at once: few, since allocations can't have them meanwhile.
    const MOST: usize = 64;

    /// Fills the pageblocks `blocks`, the first one first.
    pub fn new(physical: &'p Arc<Physical>, blocks: impl IntoIterator<Item = u32>) -> Self {
        Self {
            ahead: Ahead::new(physical, Self::MOST),
            blocks: blocks.into_iter().collect(),
            without: Default::default(),
        }
    }

    fn take_large(&mut self, order: Order, below: Option<Pfn>) -> Option<FrozenFolio<'p>> {
        let physical = self.ahead.physical;
        let without = &mut self.without[usize::from(order.get())];
        // A bound skips blocks that have such folios, so then all are looked at.
        let first = if below.is_some() { 0 } else { *without };
        for (at, &block) in self.blocks.iter().enumerate().skip(first) {
            if below.is_some_and(|below| physical.blocks().range(block).end() > below) {
                continue;
            }
            if let Some(pfn) = physical.set_aside_folio_from_block(block, order) {
                return Some(FrozenFolio::from_exclusive(physical, pfn));
            }
            if below.is_none() {
                *without = at + 1;
            }
        }
        None
    }

    /// Returns the unused frames that are set aside; more can be taken afterwards.
    pub(crate) fn return_all(&mut self) {
        self.ahead.return_all();
    }
}

impl<'p> Destination<'p> for TheseFrames<'p> {
    fn take(&mut self, order: Order, below: Option<Pfn>) -> Option<FrozenFolio<'p>> {
        let physical = self.ahead.physical;
        if order > Order::ZERO {
            return self.take_large(order, below);
        }
        let mut most = Self::MOST;
        if physical.are_destinations_recalled() {
            self.ahead.return_all();
            most = 1;
        }
        loop {
            if let Some(folio) = self.ahead.pop(below) {
                return Some(folio);
            }
            // The first block of the plan that has something below the bound.
            let first = |&block: &u32| below.is_none_or(|below| physical.blocks().range(block).start < below);
            let at = self.blocks.iter().position(first)?;
            let frames = &mut self.ahead.frames;
            let before = frames.len();
            // Now, since a kernel's heap takes a zone's lock to grow, which is held below.
            frames.reserve(most);
            if physical.set_aside_from_block(self.blocks[at], most, |pfn| frames.push(pfn)) == 0 {
                self.blocks.remove(at);
                self.without.iter_mut().filter(|without| **without > at).for_each(|without| *without -= 1);
            }
            // Taken from the end: ascending, so that the block fills without holes.
            frames[before..].reverse();
        }
    }

    fn give_back(&mut self, folio: FrozenFolio<'p>) {
        self.ahead.push(folio);
    }
}
