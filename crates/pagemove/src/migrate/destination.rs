//! Where pages move to.

use alloc::{collections::VecDeque, vec::Vec};

use crate::{
    units::{Order, Pfn},
    zone::Physical,
};

/// Gives frames to move to. A frame given is set aside: neither free nor in use, until the move takes it or gives it back.
pub trait Destination {
    /// Gives a frame for a base page; `None` if there is none. It's one that [`AnyFree`] or [`TheseFrames`] gave, since only they can
    /// set a frame aside; a move panics at any other.
    fn take(&mut self) -> Option<Pfn>;

    /// Takes back a frame that was not used.
    fn give_back(&mut self, pfn: Pfn);

    /// Gives a destination of `order` above 0, under the same condition; `None` if this one takes base pages only.
    fn take_larger(&mut self, order: Order) -> Option<Pfn> {
        let _ = order;
        None
    }
}

/// Takes a frame that was set aside from `frames`; those of a pageblock that has been isolated since go back.
fn pop(physical: &Physical, frames: &mut Vec<Pfn>) -> Option<Pfn> {
    while let Some(pfn) = frames.pop() {
        if !physical.blocks().is_isolated(physical.blocks().number(pfn)) {
            return Some(pfn);
        }
        physical.return_destinations(core::iter::once(pfn));
    }
    None
}

/// Any free frame, as the allocator would give it.
pub struct AnyFree<'p> {
    physical: &'p Physical,
    frames: Vec<Pfn>,
    ahead: usize,
}

impl<'p> AnyFree<'p> {
    /// Fetches `ahead` frames at once.
    pub fn new(physical: &'p Physical, ahead: usize) -> Self {
        Self { physical, frames: Vec::with_capacity(ahead.max(1)), ahead: ahead.max(1) }
    }
}

impl Destination for AnyFree<'_> {
    fn take(&mut self) -> Option<Pfn> {
        let mut ahead = self.ahead;
        if self.physical.are_destinations_recalled() {
            self.physical.return_destinations(self.frames.drain(..));
            ahead = 1;
        }
        if let Some(pfn) = pop(self.physical, &mut self.frames) {
            return Some(pfn);
        }
        self.physical.set_aside(ahead, &mut self.frames);
        if self.frames.is_empty() {
            // The last free frames may lie on other processors' lists.
            self.physical.drain_cpu_lists();
            self.physical.set_aside(ahead, &mut self.frames);
        }
        pop(self.physical, &mut self.frames)
    }

    fn give_back(&mut self, pfn: Pfn) {
        self.frames.push(pfn);
    }

    fn take_larger(&mut self, order: Order) -> Option<Pfn> {
        self.physical.set_aside_folio(order).ok()
    }
}

impl Drop for AnyFree<'_> {
    fn drop(&mut self) {
        self.physical.return_destinations(self.frames.drain(..));
    }
}

/// The free frames of chosen pageblocks, in their order: the places that a plan fills.
pub struct TheseFrames<'p> {
    physical: &'p Physical,
    blocks: VecDeque<u32>,
    frames: Vec<Pfn>,
}

impl<'p> TheseFrames<'p> {
    /// Frames set aside at once: few, since who allocates meanwhile can't have them.
    const AHEAD: usize = 64;

    /// Fills the pageblocks `blocks`, the first one first.
    pub fn new(physical: &'p Physical, blocks: impl IntoIterator<Item = u32>) -> Self {
        Self { physical, blocks: blocks.into_iter().collect(), frames: Vec::with_capacity(Self::AHEAD) }
    }

    /// Returns what is set aside and not used; more can be taken afterwards.
    pub(crate) fn return_all(&mut self) {
        self.physical.return_destinations(self.frames.drain(..));
    }
}

impl Destination for TheseFrames<'_> {
    fn take(&mut self) -> Option<Pfn> {
        let mut ahead = Self::AHEAD;
        if self.physical.are_destinations_recalled() {
            self.return_all();
            ahead = 1;
        }
        loop {
            if let Some(pfn) = pop(self.physical, &mut self.frames) {
                return Some(pfn);
            }
            let &block = self.blocks.front()?;
            if self.physical.set_aside_from_block(block, ahead, |pfn| self.frames.push(pfn)) == 0 {
                self.blocks.pop_front();
            }
            // Upwards, so that the block fills without holes.
            self.frames.reverse();
        }
    }

    fn give_back(&mut self, pfn: Pfn) {
        self.frames.push(pfn);
    }
}

impl Drop for TheseFrames<'_> {
    fn drop(&mut self) {
        self.return_all();
    }
}
