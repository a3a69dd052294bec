//! Freeing: back to a CPU's list, or to the zone's free lists.
//!
//! May be called in an interrupt, and with any lock of the engine held except a zone's; doesn't sleep.

use super::{
    Physical,
    buddy::{Buddy, Tables},
    pageblock::ClassRun,
    percpu::{CpuLists, listed_class},
    physical::Zone,
};
use crate::{
    frame::{Class, Frame, Kind, Put, State},
    units::{FrameRange, Order, Pfn},
};

const PER_CPU: State = State::new(Kind::PerCpu, Class::Free, Order::ZERO);
const FREE: State = State::new(Kind::Free, Class::Free, Order::ZERO);

impl Physical {
    /// Gives a reference back; the last one frees the folio.
    pub(crate) fn put(&self, pfn: Pfn) {
        let frame = &self.frames[pfn];
        if frame.put() == Put::Last {
            self.release(pfn, frame);
        }
    }

    /// Gives `references` references to the folio at `head` back; the last one frees it.
    pub(crate) fn put_many(&self, head: Pfn, references: u32) {
        let frame = &self.frames[head];
        if frame.put_many(references) == Put::Last {
            self.release(head, frame);
        }
    }

    /// Releases a folio's lock and gives a reference back, in one change.
    pub(crate) fn unlock_and_put(&self, pfn: Pfn) {
        if self.frames.unlock_and_put(pfn) == Put::Last {
            self.release(pfn, &self.frames[pfn]);
        }
    }

    /// Frees a folio without references. Panics if it has references or mappings, or is free already.
    pub(crate) fn free_frozen(&self, pfn: Pfn) {
        let frame = &self.frames[pfn];
        if frame.is_unused() && frame.state().kind().is_allocation() {
            self.release(pfn, frame);
        } else {
            self.free_destination(pfn);
        }
    }

    // Cold and out of line, to keep it off the hot path.
    #[cold]
    fn free_destination(&self, pfn: Pfn) {
        let frame = &self.frames[pfn];
        if !frame.is_unused() || frame.state().kind() != Kind::Destination {
            freed_in_use(pfn, frame);
        }
        self.return_destinations(core::iter::once(pfn));
    }

    #[inline(always)]
    fn release(&self, pfn: Pfn, frame: &Frame) {
        if !self.free_own(pfn, frame) {
            self.free(pfn);
        }
    }

    /// The fast path: puts a base page on this CPU's list, if it has the list's class and the list has space.
    #[inline(always)]
    fn free_own(&self, pfn: Pfn, frame: &Frame) -> bool {
        let Some((zone, migratetype)) = self.blocks.zone_and_type(pfn) else { return false };
        let class = listed_class(migratetype);
        if !frame.state().is_base_page_of(class) {
            return false;
        }
        if cfg!(debug_assertions) {
            check_freed(pfn, frame);
        }
        self.with_own_lists(&self.zones[zone], |lists| {
            // Isolation is checked again inside the lists: see `is_isolated`.
            let lists = lists.filter(|_| self.blocks.zone_and_type(pfn).is_some());
            lists.and_then(|lists| lists.list_with_space(migratetype)).is_some_and(|list| {
                frame.set_state(PER_CPU.with_class(class));
                list.push(pfn);
                true
            })
        })
    }

    /// Frees a folio that only the caller can use: no references, no mappings, no pins.
    pub(crate) fn free(&self, pfn: Pfn) {
        let order = self.frames[pfn].state().order();
        if order == Order::ZERO {
            if let Some(zone) = self.zone_of(pfn) {
                let mut run = ClassRun::default();
                self.with_own_lists(zone, |lists| self.free_base(zone, lists, pfn, &mut run));
                run.finish(&self.blocks);
            }
            return;
        }
        self.free_with(pfn, order, Buddy::give);
    }

    /// Frees a folio to the buddy lists, by `give`.
    pub(super) fn free_with(&self, pfn: Pfn, order: Order, give: fn(&mut Buddy, Tables<'_>, Pfn, Order)) {
        let class = check_freed(pfn, &self.frames[pfn]);
        self.unmark_partly_mapped(pfn);
        for pfn in (FrameRange { start: pfn, frames: order.frames() }).iter() {
            self.frames[pfn].set_state(FREE);
        }
        self.count(pfn, order, class, Class::Free);
        if let Some(zone) = self.zone_of(pfn) {
            // One pageblock at a time, since some may be isolated; the others merge.
            let part = order.min(self.blocks.order());
            let mut buddy = zone.buddy.lock();
            (0..order.frames())
                .step_by(part.frames() as usize)
                .for_each(|at| give(&mut buddy, self.tables(), pfn.up(at), part));
        }
    }

    /// Frees base pages as [`Self::free`] does, entering the CPU's lists once for each run of pages of one zone.
    pub(crate) fn free_all(&self, pfns: impl Iterator<Item = Pfn>) {
        let mut pfns = pfns.peekable();
        let mut run = ClassRun::default();
        while let Some(&first) = pfns.peek() {
            let Some(zone) = self.zone_of(first) else { return };
            self.with_own_lists(zone, |mut lists| {
                while let Some(pfn) = pfns.next_if(|&pfn| zone.range.contains(pfn)) {
                    self.free_base(zone, lists.as_deref_mut(), pfn, &mut run);
                }
            });
        }
        run.finish(&self.blocks);
    }

    /// Puts a base page on a CPU's list; without lists, or from an isolated block, on the buddy lists.
    #[inline(always)]
    fn free_base(&self, zone: &Zone, lists: Option<&mut CpuLists>, pfn: Pfn, run: &mut ClassRun) {
        let frame = &self.frames[pfn];
        let class = check_freed(pfn, frame);
        let high = lists.as_ref().map_or(0, |lists| lists.high());
        if let (Some(lists), Some((_, migratetype))) = (lists, self.blocks.zone_and_type(pfn)) {
            let list = lists.list(migratetype);
            let listed = listed_class(migratetype);
            frame.set_state(PER_CPU.with_class(listed));
            run.add(&self.blocks, pfn, class, listed);
            list.push(pfn);
            if list.len() > high {
                // The oldest go, since the newest are still in the CPU's cache.
                let mut buddy = zone.buddy.lock();
                list.drain(..high / 2).for_each(|pfn| self.give_base(&mut buddy, pfn, run));
            }
        } else {
            run.add(&self.blocks, pfn, class, Class::Free);
            frame.set_state(FREE);
            zone.buddy.lock().give(self.tables(), pfn, Order::ZERO);
        }
    }

    /// Returns a frame from a CPU's list, or set aside, to the buddy lists.
    pub(super) fn give_base(&self, buddy: &mut Buddy, pfn: Pfn, run: &mut ClassRun) {
        let frame = &self.frames[pfn];
        run.add(&self.blocks, pfn, frame.state().class(), Class::Free);
        frame.set_state(FREE);
        buddy.give(self.tables(), pfn, Order::ZERO);
    }
}

// Cold and out of line, to keep formatting off the hot path.
#[cold]
fn freed_in_use(pfn: Pfn, frame: &Frame) -> ! {
    panic!("frame {pfn} is freed in use: {frame:?}")
}

/// Checks that nobody else uses a folio; gives its class.
#[inline(always)]
fn check_freed(pfn: Pfn, frame: &Frame) -> Class {
    let state = frame.state();
    if cfg!(debug_assertions) && !(frame.is_unused() && frame.pins() == 0) {
        freed_in_use(pfn, frame);
    }
    debug_assert!(state.kind().is_allocation(), "frame {pfn} is freed twice");
    state.class()
}
