//! Allocation: frames for a request, from this CPU's lists, the zones' free lists, and all CPUs' lists.
//!
//! Below [`Effort::Compact`] the calls don't sleep, and may be made with any lock of the engine held except a zone's.

use super::{AllocError, Effort, Physical, Request, percpu::BATCH, physical::Zone, request::migratetype_of};
use crate::{
    frame::{Key, Kind, State},
    port::might_wait,
    units::{FrameRange, Order, Pfn},
};

impl Physical {
    /// Takes frames for a folio of `order` and makes them one of `kind`, without a reference.
    ///
    /// Fast path first: most allocations take a base page from this CPU's list. Zones are tried from the last one down,
    /// since low memory is scarcer. Panics if nothing can be allocated as `kind` (free, tail).
    #[inline]
    pub(crate) fn take(&self, order: Order, kind: Kind) -> Result<Pfn, AllocError> {
        assert!(kind.is_allocation(), "nothing is allocated as {kind:?}");
        might_wait(self.machine());
        if order == Order::ZERO
            && let Some(pfn) = self.take_own(kind)
        {
            return Ok(pfn);
        }
        self.take_frames(&Request::new(order, kind))
    }

    /// Takes frames that `request` allows, and makes them a folio of its kind, without a reference. Doesn't clear them.
    /// Panics as [`Self::take`].
    #[cold]
    pub(super) fn take_frames(&self, request: &Request) -> Result<Pfn, AllocError> {
        assert!(request.kind.is_allocation(), "nothing is allocated as {:?}", request.kind);
        let pfn = self.take_shared(request).ok_or_else(|| AllocError::from(request))?;
        self.prepare_allocation(pfn, request.order, request.kind);
        Ok(pfn)
    }

    /// The fast path: takes a base page from this CPU's list of the last zone.
    fn take_own(&self, kind: Kind) -> Option<Pfn> {
        let zone = self.zones.last()?;
        let pfn = self.with_own_lists(zone, |lists| lists?.list(migratetype_of(kind)).pop())?;
        self.prepare_allocation(pfn, Order::ZERO, kind);
        Some(pfn)
    }

    /// The slow path: refills this CPU's list, then tries other zones, then drains all CPUs' lists.
    fn take_shared(&self, request: &Request) -> Option<Pfn> {
        if let Some(pfn) = self.zones_of(request).find_map(|zone| self.take_from_zone(zone, request)) {
            return Some(pfn);
        }
        if request.effort < Effort::Drain {
            return None;
        }
        self.drain_cpu_lists();
        self.zones_of(request).find_map(|zone| self.take_from_buddies(zone, request))
    }

    /// Gives the zones that `request` allows, the last one first.
    fn zones_of(&self, request: &Request) -> impl Iterator<Item = &Zone> {
        let request = *request;
        let wanted = move |&(number, zone): &(usize, &Zone)| request.allows_zone(number, zone.node, zone.range.start);
        self.zones.iter().enumerate().rev().filter(wanted).map(|(_, zone)| zone)
    }

    fn take_from_zone(&self, zone: &Zone, request: &Request) -> Option<Pfn> {
        let is_whole = request.below.is_none_or(|below| zone.range.end() <= below);
        if request.order > Order::ZERO || !is_whole {
            return self.take_from_buddies(zone, request);
        }
        let migratetype = request.migratetype();
        self.with_own_lists(zone, |lists| match lists.map(|lists| lists.list(migratetype)) {
            Some(list) => {
                if list.is_empty() {
                    self.refill(zone, migratetype, list, BATCH);
                }
                list.pop()
            }
            None => self.take_from_buddies(zone, request),
        })
    }

    fn take_from_buddies(&self, zone: &Zone, request: &Request) -> Option<Pfn> {
        let below = request.below.filter(|&below| zone.range.end() > below);
        zone.buddy.lock().take(self.tables(), request.order, request.migratetype(), below)
    }

    /// Takes exactly the frame `pfn` for `kind`, if it's free and its pageblock isn't isolated.
    pub(crate) fn take_exactly(&self, pfn: Pfn, kind: Kind) -> bool {
        might_wait(self.machine());
        assert!(kind.is_allocation(), "nothing is allocated as {kind:?}");
        let Some(zone) = self.zone_of(pfn) else { return false };
        let take = || {
            let mut buddy = zone.buddy.lock();
            !self.blocks.is_isolated(self.blocks.number(pfn)) && buddy.take_exactly(self.tables(), pfn)
        };
        let mut taken = take();
        if !taken && self.frames[pfn].state().kind() == Kind::PerCpu {
            self.drain_cpu_lists();
            taken = take();
        }
        if taken {
            self.prepare_allocation(pfn, Order::ZERO, kind);
        }
        taken
    }

    /// Makes a folio of `kind` of frames that only the caller can use.
    #[inline(always)]
    pub(super) fn prepare_allocation(&self, pfn: Pfn, order: Order, kind: Kind) {
        let class = kind.first_class();
        if order > Order::ZERO {
            for tail in (FrameRange { start: pfn, frames: order.frames() }).iter().skip(1) {
                // Its head is found by the order.
                self.frames[tail].set_state(State::new(Kind::Tail, class, order));
                self.frames.clear_tail(tail);
            }
        }
        let frame = &self.frames[pfn];
        let counted = frame.state().class();
        frame.set_owner(0, Key::default());
        frame.set_state(State::new(kind, class, order));
        self.count(pfn, order, counted, class);
    }
}
