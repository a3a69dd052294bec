//! Physical memory: boot, allocation, freeing, and the moves of frames between classes.

#[cfg(feature = "loom")]
extern crate std;

use alloc::{boxed::Box, sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicU32, Ordering};

use super::{
    buddy::{Buddy, Tables},
    pageblock::{ClassRun, Migratetype, Pageblocks},
    percpu::{BATCH, CpuLists, CpuLocal, Inside, listed_class},
};
use crate::{
    frame::{Class, Frame, FrameTable, Key, Kind, Marks, Pins, Put, State},
    port::{CpuClaim, Machine, Ram},
    report::{Counters, Ring},
    sync::{AtomicU64, Mutex},
    units::{FrameRange, Order, Pfn},
};

/// How memory is laid out at boot.
#[derive(Debug, Clone)]
pub struct Config {
    /// Zones, rising, each a whole number of pageblocks; what lies in none is reserved.
    pub zones: Vec<FrameRange>,
    /// Order of a pageblock, 1 to 10; 9 is 2 MiB.
    pub pageblock_order: Order,
}

/// Why memory can't be managed as configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BootError {
    /// The pageblock's order is 0.
    #[error("boot: the order of a pageblock must be 1 to 10, not {}", .0.get())]
    PageblockOrder(Order),
    /// There is no zone, or one without frames.
    #[error("boot: there is no zone, or zone {0} is empty")]
    Empty(usize),
    /// A zone isn't a whole number of pageblocks.
    #[error("boot: zone {0} does not start and end on a pageblock's border")]
    Misaligned(usize),
    /// A zone overlaps the one before it, or comes before it.
    #[error("boot: zone {0} overlaps the one before it, or lies before it")]
    Overlap(usize),
    /// A zone ends behind RAM.
    #[error("boot: zone {0} ends behind the machine's RAM")]
    BeyondRam(usize),
    /// The machine lends no memory for metadata.
    #[error("boot: the machine lends no memory for the metadata of {0} frames")]
    NoMetadata(u32),
}

/// No frame of the order is free in any zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no block of {} free page(s) in a row", .order.frames())]
pub struct AllocError {
    /// The order asked for.
    pub order: Order,
}

struct Zone {
    range: FrameRange,
    buddy: Mutex<Buddy>,
    cpus: Box<[CpuLocal]>,
}

/// The physical memory of a machine.
pub struct Physical {
    machine: Arc<dyn Machine>,
    cpu_claim: CpuClaim,
    ram: Ram,
    frames: FrameTable,
    blocks: Pageblocks,
    zones: Vec<Zone>,
    pins: Pins,
    counters: Counters,
    events: Ring,
    // Frames that are set aside as destinations; allocations that are about to fail. Hints: not those of `sync`.
    set_aside: AtomicU32,
    starving: AtomicU32,
    #[cfg(feature = "loom")]
    words: Vec<std::sync::OnceLock<Box<[AtomicU64; 512]>>>,
}

impl Physical {
    /// Takes over the machine's RAM: all frames of the zones are free.
    pub fn boot(machine: Arc<dyn Machine>, config: &Config) -> Result<Self, BootError> {
        let ram = machine.ram();
        check(config, ram.frames())?;
        let no_metadata = BootError::NoMetadata(ram.frames());
        let frames = FrameTable::new(machine.clone(), ram.frames()).ok_or(no_metadata)?;
        let blocks = Pageblocks::new(&*machine, ram.frames(), config.pageblock_order).ok_or(no_metadata)?;
        let cpus = machine.cpus().max(1);
        let zones = config
            .zones
            .iter()
            .enumerate()
            .map(|(number, &range)| {
                blocks.give_to_zone(range, number as u32);
                Zone {
                    range,
                    buddy: Mutex::new(Buddy::new(Tables { frames: &frames, blocks: &blocks }, range)),
                    cpus: (0..cpus).map(|_| CpuLocal::new(range.frames, cpus)).collect(),
                }
            })
            .collect();
        let (pins, counters, events) = Default::default();
        let cpu_claim = machine.cpu_claim();
        Ok(Self {
            machine,
            cpu_claim,
            ram,
            frames,
            blocks,
            zones,
            pins,
            counters,
            events,
            set_aside: AtomicU32::new(0),
            starving: AtomicU32::new(0),
            #[cfg(feature = "loom")]
            words: (0..ram.frames()).map(|_| Default::default()).collect(),
        })
    }

    /// Gives the machine.
    pub fn machine(&self) -> &dyn Machine {
        &*self.machine
    }

    /// Gives the direct map.
    pub fn ram(&self) -> Ram {
        self.ram
    }

    /// Views a frame's contents as words: a page table's entries, or data that the caller keeps from moving meanwhile.
    #[cfg(not(feature = "loom"))]
    pub fn ram_words(&self, pfn: Pfn) -> &[AtomicU64; 512] {
        // Bound to `self`, which keeps the machine.
        self.ram.words(pfn)
    }

    /// As above; loom's atomics are more than their bits, and can't be in RAM.
    #[cfg(feature = "loom")]
    pub fn ram_words(&self, pfn: Pfn) -> &[AtomicU64; 512] {
        self.words[pfn.index()].get_or_init(|| Box::new(core::array::from_fn(|_| AtomicU64::new(0))))
    }

    /// Gives the frame table.
    pub fn frames(&self) -> &FrameTable {
        &self.frames
    }

    /// Gives one frame's entry. Panics beyond RAM: frame numbers come from this memory.
    pub fn frame(&self, pfn: Pfn) -> &Frame {
        &self.frames[pfn]
    }

    /// Gives the pageblocks.
    pub fn blocks(&self) -> &Pageblocks {
        &self.blocks
    }

    /// Gives who pins which frame.
    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    /// Gives the counters.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Gives the last events.
    pub fn events(&self) -> &Ring {
        &self.events
    }

    /// Gives the ranges of the zones.
    pub fn zones(&self) -> impl ExactSizeIterator<Item = FrameRange> + '_ {
        self.zones.iter().map(|zone| zone.range)
    }

    pub(super) fn tables(&self) -> Tables<'_> {
        Tables { frames: &self.frames, blocks: &self.blocks }
    }

    pub(super) fn with_buddies<R>(&self, mut see: impl FnMut(FrameRange, &Buddy) -> R) -> Vec<R> {
        self.zones.iter().map(|zone| see(zone.range, &zone.buddy.lock())).collect()
    }

    fn zone_of(&self, pfn: Pfn) -> Option<&Zone> {
        self.frames.get(pfn)?;
        self.zones.get(self.blocks.zone(self.blocks.number(pfn))?)
    }

    /// Tells whether the frame belongs to a zone.
    pub fn is_managed(&self, pfn: Pfn) -> bool {
        self.zone_of(pfn).is_some()
    }

    /// Allocates `order.frames()` frames for `kind`, with one reference; contents are what they were.
    ///
    /// Zones are tried from the last one down, as low memory is the scarcer. Panics if `kind` is none that memory is allocated
    /// for (free, a tail).
    #[inline]
    pub fn alloc(&self, order: Order, kind: Kind) -> Result<Pfn, AllocError> {
        self.allocate(order, kind, 1)
    }

    /// Allocates as [`Self::alloc`] does, but without a reference, so that nobody else can get one: the frames are the
    /// caller's alone until [`Self::free_frozen`]. For what never moves, is never mapped and has one owner (page tables, a
    /// slab, a kernel's own data) counting is work for nothing; Linux has `alloc_frozen_pages` for it since 6.14. Panics if
    /// `kind` is one that can move: a move takes a reference first.
    #[inline]
    pub fn alloc_frozen(&self, order: Order, kind: Kind) -> Result<Pfn, AllocError> {
        assert!(!kind.is_movable(), "{kind:?} pages can move, so they must be counted: use `alloc`");
        self.allocate(order, kind, 0)
    }

    #[inline]
    fn allocate(&self, order: Order, kind: Kind, references: u32) -> Result<Pfn, AllocError> {
        assert!(kind.is_allocation(), "nothing is allocated as {kind:?}");
        if order == Order::ZERO
            && let Some(pfn) = self.alloc_own(kind, references)
        {
            return Ok(pfn);
        }
        self.alloc_shared(order, kind, references)
    }

    /// The short way: a base page from this processor's list, if there is one.
    fn alloc_own(&self, kind: Kind, references: u32) -> Option<Pfn> {
        let zone = self.zones.last()?;
        let pfn = self.with_own_lists(zone, |lists| lists?.list(migratetype_of(kind)).pop())?;
        self.dress(pfn, Order::ZERO, kind, references);
        Some(pfn)
    }

    /// The long way: refills the list, looks in other zones, and on other processors' lists.
    #[cold]
    fn alloc_shared(&self, order: Order, kind: Kind, references: u32) -> Result<Pfn, AllocError> {
        let migratetype = migratetype_of(kind);
        for zone in self.zones.iter().rev() {
            let pfn = if order == Order::ZERO {
                self.take_cached(zone, migratetype)
            } else {
                zone.buddy.lock().take(self.tables(), order, migratetype)
            };
            if let Some(pfn) = pfn {
                self.dress(pfn, order, kind, references);
                return Ok(pfn);
            }
        }
        // What is missing may lie on the processors' lists.
        self.drain_cpu_lists();
        let mut zones = self.zones.iter().rev();
        let found = zones.find_map(|zone| zone.buddy.lock().take(self.tables(), order, migratetype));
        let pfn = found.ok_or(AllocError { order })?;
        self.dress(pfn, order, kind, references);
        Ok(pfn)
    }

    /// Has movers return base frames that they have set aside as destinations, for an allocation that failed. Tells whether it's
    /// worth another try. Waits, so the caller holds no lock that a mover may want.
    pub(crate) fn recall_destinations(&self) -> bool {
        let before = self.set_aside.load(Ordering::Relaxed);
        if before == 0 {
            return false;
        }
        self.starving.fetch_add(1, Ordering::Relaxed);
        for _ in 0..LOOKS {
            self.machine.pause();
            if self.set_aside.load(Ordering::Relaxed) < before {
                break;
            }
        }
        self.starving.fetch_sub(1, Ordering::Relaxed);
        true
    }

    /// Calls `act` with this processor's own lists of `zone`, if they can be had without waiting.
    #[inline(always)]
    fn with_own_lists<R>(&self, zone: &Zone, act: impl FnOnce(Option<&mut CpuLists>) -> R) -> R {
        let cpu = zone.cpus.get((self.cpu_claim.claim)());
        #[allow(unsafe_code)]
        // SAFETY: claimed until `release`, by when `lists` is dropped.
        let mut lists: Option<Inside<'_>> = cpu.and_then(|cpu| unsafe { cpu.enter() });
        let result = act(lists.as_deref_mut());
        drop(lists);
        if let Some(release) = self.cpu_claim.release {
            release();
        }
        result
    }

    fn take_cached(&self, zone: &Zone, migratetype: Migratetype) -> Option<Pfn> {
        self.with_own_lists(zone, |lists| match lists.map(|lists| lists.list(migratetype)) {
            Some(list) => {
                if list.is_empty() {
                    self.refill(zone, migratetype, list, BATCH);
                }
                list.pop()
            }
            None => zone.buddy.lock().take(self.tables(), Order::ZERO, migratetype),
        })
    }

    /// Takes frames from the buddy lists until `list` has `most`, or there are none; they count as listed.
    fn refill(&self, zone: &Zone, migratetype: Migratetype, list: &mut Vec<Pfn>, most: usize) {
        let class = listed_class(migratetype);
        let mut run = ClassRun::default();
        let mut buddy = zone.buddy.lock();
        while list.len() < most
            && let Some(pfn) = buddy.take(self.tables(), Order::ZERO, migratetype)
        {
            self.frames[pfn].set_state(PER_CPU.with_class(class));
            run.add(&self.blocks, pfn, Class::Free, class);
            list.push(pfn);
        }
        run.finish(&self.blocks);
    }

    /// Makes free frames, which are the caller's alone (set aside, or just taken), an allocation of `kind`.
    #[inline(always)]
    fn dress(&self, pfn: Pfn, order: Order, kind: Kind, references: u32) {
        let class = kind.first_class();
        if order > Order::ZERO {
            for tail in (FrameRange { start: pfn, frames: order.frames() }).iter().skip(1) {
                self.frames[tail].set_state(State::new(Kind::Tail, class, Order::ZERO));
            }
        }
        let frame = &self.frames[pfn];
        let counted = frame.state().class();
        frame.set_owner(0, Key::default());
        frame.set_state(State::new(kind, class, order));
        if references > 0 {
            frame.publish();
        }
        self.count(pfn, order, counted, class);
    }

    /// Counts an allocation of `order` out of one class and into another, in every pageblock that it covers.
    #[inline]
    pub(crate) fn count(&self, pfn: Pfn, order: Order, from: Class, to: Class) {
        if from == to {
            return;
        }
        let block = self.blocks.order();
        if order <= block {
            self.blocks.moved(pfn, from, to, order.frames());
        } else {
            for part in 0..order.frames() / block.frames() {
                self.blocks.moved(pfn.up(part * block.frames()), from, to, block.frames());
            }
        }
    }

    /// Gives a reference back; the last one frees the frame.
    pub fn put(&self, pfn: Pfn) {
        let frame = &self.frames[pfn];
        if frame.put() == Put::Last {
            self.release(pfn, frame);
        }
    }

    /// Releases a frame's lock and gives a reference back, in one change.
    pub(crate) fn unlock_and_put(&self, pfn: Pfn) {
        if self.frames.unlock_and_put(pfn) == Put::Last {
            self.release(pfn, &self.frames[pfn]);
        }
    }

    /// Frees what [`Self::alloc_frozen`] gave. Panics if somebody has a reference or maps it, or it's free already.
    pub fn free_frozen(&self, pfn: Pfn) {
        let frame = &self.frames[pfn];
        if !frame.is_unused() || !frame.state().kind().is_allocation() {
            freed_in_use(pfn, frame);
        }
        self.release(pfn, frame);
    }

    #[inline(always)]
    fn release(&self, pfn: Pfn, frame: &Frame) {
        if !self.free_own(pfn, frame) {
            self.free(pfn);
        }
    }

    /// The short way of freeing: a base page whose class is that of this processor's list goes there, if there is room.
    #[inline(always)]
    fn free_own(&self, pfn: Pfn, frame: &Frame) -> bool {
        let Some((zone, migratetype)) = self.blocks.home(pfn) else { return false };
        let class = listed_class(migratetype);
        if !frame.state().is_base_page_of(class) {
            return false;
        }
        if cfg!(debug_assertions) {
            check_freed(pfn, frame);
        }
        self.with_own_lists(&self.zones[zone], |lists| {
            // Looked at again while the lists are ours: see `is_isolated`.
            let room = lists.filter(|_| self.blocks.home(pfn).is_some()).and_then(|lists| lists.room(migratetype));
            room.is_some_and(|list| {
                frame.set_state(PER_CPU.with_class(class));
                list.push(pfn);
                true
            })
        })
    }

    /// Frees an allocation that is the caller's alone: no references, no mappings, no pins.
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
        let class = check_freed(pfn, &self.frames[pfn]);
        for pfn in (FrameRange { start: pfn, frames: order.frames() }).iter() {
            self.frames[pfn].set_state(FREE);
        }
        self.count(pfn, order, class, Class::Free);
        if let Some(zone) = self.zone_of(pfn) {
            // A pageblock at a time, since some of them may be isolated; the others merge.
            let part = order.min(self.blocks.order());
            let mut buddy = zone.buddy.lock();
            (0..order.frames())
                .step_by(part.frames() as usize)
                .for_each(|at| buddy.give(self.tables(), pfn.up(at), part));
        }
    }

    /// Frees base pages as [`Self::free`] does, with one visit to the processor's lists for all that share a zone.
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

    /// Puts a base page on a processor's list; without one, or from an isolated block, on the buddy lists.
    #[inline(always)]
    fn free_base(&self, zone: &Zone, lists: Option<&mut CpuLists>, pfn: Pfn, run: &mut ClassRun) {
        let class = check_freed(pfn, &self.frames[pfn]);
        let home = self.blocks.home(pfn);
        let high = lists.as_ref().map_or(0, |lists| lists.high());
        if let (Some(lists), Some((_, migratetype))) = (lists, home) {
            let list = lists.list(migratetype);
            let listed = listed_class(migratetype);
            self.frames[pfn].set_state(PER_CPU.with_class(listed));
            run.add(&self.blocks, pfn, class, listed);
            list.push(pfn);
            if list.len() > high {
                // The oldest go: the newest are still in the processor's cache.
                let mut buddy = zone.buddy.lock();
                list.drain(..high / 2).for_each(|pfn| self.unlist(&mut buddy, pfn, run));
            }
        } else {
            self.frames[pfn].set_state(FREE);
            run.add(&self.blocks, pfn, class, Class::Free);
            zone.buddy.lock().give(self.tables(), pfn, Order::ZERO);
        }
    }

    /// Gives a frame that was listed or set aside back to the buddy lists.
    fn unlist(&self, buddy: &mut Buddy, pfn: Pfn, run: &mut ClassRun) {
        run.add(&self.blocks, pfn, self.frames[pfn].state().class(), Class::Free);
        self.frames[pfn].set_state(FREE);
        buddy.give(self.tables(), pfn, Order::ZERO);
    }

    /// Sets a base page, which is the caller's alone, aside again.
    pub(crate) fn reset_to_reserved(&self, pfn: Pfn) {
        let frame = &self.frames[pfn];
        frame.set_state(DESTINATION.with_class(frame.state().class()));
    }

    /// Gives all frames on the processors' lists back to the buddy lists; afterwards the summaries are exact.
    pub fn drain_cpu_lists(&self) {
        self.drain_zones(&self.zones);
    }

    /// One barrier for all lists: each is closed to its processor before it, and looked at behind it. Allocates nothing.
    fn drain_zones(&self, zones: &[Zone]) {
        let mut run = ClassRun::default();
        let cpus = || zones.iter().flat_map(|zone| zone.cpus.iter().map(move |cpu| (zone, cpu)));
        cpus().for_each(|(_, cpu)| cpu.begin_revoking(&*self.machine));
        self.machine.barrier();
        for (zone, cpu) in cpus() {
            #[allow(unsafe_code)]
            // SAFETY: begun above for the same lists, and the barrier passed since.
            let mut lists = unsafe { cpu.finish_revoking(&*self.machine) };
            if lists.len() > 0 {
                let mut buddy = zone.buddy.lock();
                lists.drain(|pfn| self.unlist(&mut buddy, pfn, &mut run));
            }
        }
        run.finish(&self.blocks);
    }

    /// Allocates just the frame `pfn` for `kind`, if it's free and its pageblock isn't isolated; for rebuilding a layout and for contiguous ranges.
    pub fn alloc_exactly(&self, pfn: Pfn, kind: Kind) -> bool {
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
            self.dress(pfn, Order::ZERO, kind, 1);
        }
        taken
    }

    /// Sets aside up to `most` free frames of pageblock `number` as destinations; calls `out` with each. Of a block that is being
    /// emptied: none.
    pub(crate) fn reserve_from_block(&self, number: u32, most: usize, mut out: impl FnMut(Pfn)) -> usize {
        let Some(zone) = self.zone_of(self.blocks.range(number).start) else { return 0 };
        let mut buddy = zone.buddy.lock();
        if self.blocks.is_isolated(number) {
            return 0;
        }
        let taken = buddy.take_from(self.tables(), number, most, |pfn| {
            self.frames[pfn].set_state(DESTINATION);
            out(pfn);
        });
        self.set_aside.fetch_add(taken as u32, Ordering::Relaxed);
        taken
    }

    /// Tells whether an allocation is about to fail: who has frames set aside as destinations is to return them, and to take them
    /// one by one meanwhile.
    pub(crate) fn is_starving(&self) -> bool {
        // Relaxed, as `set_aside`: hints.
        self.starving.load(Ordering::Relaxed) > 0
    }

    /// Counts destinations that are set aside no longer, since pages have moved there.
    pub(crate) fn destinations_used(&self, frames: u32) {
        self.set_aside.fetch_sub(frames, Ordering::Relaxed);
    }

    /// Sets aside up to `most` free frames of any block as destinations, from this processor's list first.
    pub(crate) fn reserve(&self, most: usize, out: &mut Vec<Pfn>) {
        let before = out.len();
        for zone in self.zones.iter().rev() {
            self.with_own_lists(zone, |lists| {
                if let Some(list) = lists.map(|lists| lists.list(Migratetype::Movable)) {
                    let from = list.len() - (most - out.len()).min(list.len());
                    out.extend(list.drain(from..));
                }
            });
            self.refill(zone, Migratetype::Movable, out, most);
        }
        for &pfn in &out[before..] {
            self.frames[pfn].set_state(DESTINATION.with_class(self.frames[pfn].state().class()));
        }
        self.set_aside.fetch_add((out.len() - before) as u32, Ordering::Relaxed);
    }

    /// Gives back frames that were set aside and not used.
    pub(crate) fn unreserve(&self, pfns: impl Iterator<Item = Pfn>) {
        let mut run = ClassRun::default();
        for pfn in pfns {
            if let Some(zone) = self.zone_of(pfn) {
                self.unlist(&mut zone.buddy.lock(), pfn, &mut run);
                self.set_aside.fetch_sub(1, Ordering::Relaxed);
            }
        }
        run.finish(&self.blocks);
    }

    /// Isolates pageblock `number`: from the return on nothing of it is handed out, by allocation or as a destination, until
    /// what is given is dropped. `None` if somebody else has isolated it.
    pub(crate) fn isolate_block(&self, number: u32) -> Option<IsolatedBlock<'_>> {
        let at = self.blocks.zone(number)?;
        {
            let mut buddy = self.zones[at].buddy.lock();
            if self.blocks.is_isolated(number) {
                return None;
            }
            buddy.set_isolated(self.tables(), number, true);
        }
        let isolated = IsolatedBlock { physical: self, number };
        // What processors have of it on their lists goes back; and nobody puts anything there any more.
        self.drain_zones(&self.zones[at..=at]);
        Some(isolated)
    }

    /// Tells whether all frames of pageblock `number` are free in the buddy lists (and not on a processor's list).
    pub(crate) fn is_block_free(&self, number: u32) -> bool {
        let start = self.blocks.range(number).start;
        let state = self.frames[start].state();
        state.is_free_head() && state.order() >= self.blocks.order()
    }

    /// Brings the class that a frame counts as up to date with its kind, mappings and pins. The caller has a reference.
    pub(crate) fn update_class(&self, pfn: Pfn) {
        let frame = &self.frames[pfn];
        loop {
            let want = self.class_of(frame);
            let before = frame.swap_class(want);
            if before != want {
                self.count(pfn, frame.state().order(), before, want);
            }
            // Somebody may have mapped or unmapped, looked before us and swapped after us; so whoever is last looks again.
            if self.class_of(frame) == want {
                return;
            }
        }
    }

    /// Does what [`Self::update_class`] does, without a change where there is none to make. The caller has locked the frame,
    /// so that nobody adds a mapping; who removes one settles by himself.
    pub(crate) fn update_class_if_changed(&self, pfn: Pfn) {
        let frame = &self.frames[pfn];
        if frame.state().class() != self.class_of(frame) {
            self.update_class(pfn);
        }
    }

    pub(super) fn class_of(&self, frame: &Frame) -> Class {
        match frame.state().kind() {
            kind if kind.is_movable() && (frame.pins() > 0 || frame.state().marks().contains(Marks::TRUNCATED)) => {
                Class::Pinned
            }
            Kind::Driver if frame.maps() > 0 => Class::DriverMapped,
            kind => kind.first_class(),
        }
    }

    /// Gives the bytes of all that is kept about frames, processors' lists and this structure included.
    pub fn metadata_bytes(&self) -> usize {
        let cpus = |zone: &Zone| zone.cpus.iter().map(|cpu| cpu.bytes(&*self.machine)).sum::<usize>();
        FrameTable::bytes(self.frames.len())
            + Pageblocks::bytes(self.frames.len(), self.blocks.order())
            + size_of::<Self>()
            + self.zones.iter().map(|zone| size_of::<Zone>() + cpus(zone)).sum::<usize>()
    }

    /// Counts the free frames of all zones; exact at a quiet point.
    pub fn free_frames(&self) -> u32 {
        let on_lists = |zone: &Zone| zone.cpus.iter().map(|cpu| cpu.revoke(&*self.machine).len() as u32).sum::<u32>();
        self.zones.iter().map(|zone| on_lists(zone) + zone.buddy.lock().free_frames()).sum()
    }
}

/// So often a look is taken whether movers have returned frames: who has some set aside may not be moving right now.
const LOOKS: u32 = 64;
/// A pageblock that is isolated until this is dropped.
pub(crate) struct IsolatedBlock<'p> {
    physical: &'p Physical,
    number: u32,
}

impl Drop for IsolatedBlock<'_> {
    fn drop(&mut self) {
        let physical = self.physical;
        if let Some(zone) = physical.zone_of(physical.blocks.range(self.number).start) {
            zone.buddy.lock().set_isolated(physical.tables(), self.number, false);
        }
    }
}

const PER_CPU: State = State::new(Kind::PerCpu, Class::Free, Order::ZERO);
const DESTINATION: State = State::new(Kind::Destination, Class::Free, Order::ZERO);
const FREE: State = State::new(Kind::Free, Class::Free, Order::ZERO);

// Apart, so that what it prints isn't kept in memory on the way that it isn't on.
#[cold]
fn freed_in_use(pfn: Pfn, frame: &Frame) -> ! {
    panic!("frame {pfn} is freed in use: {frame:?}")
}

/// Checks that an allocation is the caller's alone; gives the class that it counts as.
#[inline(always)]
fn check_freed(pfn: Pfn, frame: &Frame) -> Class {
    let state = frame.state();
    if cfg!(debug_assertions) && !(frame.is_unused() && frame.pins() == 0) {
        freed_in_use(pfn, frame);
    }
    debug_assert!(
        !matches!(state.kind(), Kind::Free | Kind::PerCpu | Kind::Destination | Kind::Tail),
        "frame {pfn} is freed twice"
    );
    state.class()
}

fn migratetype_of(kind: Kind) -> Migratetype {
    match kind {
        kind if kind.is_movable() => Migratetype::Movable,
        Kind::Slab => Migratetype::Reclaimable,
        _ => Migratetype::Unmovable,
    }
}

fn check(config: &Config, frames: u32) -> Result<(), BootError> {
    if config.pageblock_order == Order::ZERO {
        return Err(BootError::PageblockOrder(config.pageblock_order));
    }
    if config.zones.is_empty() {
        return Err(BootError::Empty(0));
    }
    let mut last = 0;
    for (number, zone) in config.zones.iter().enumerate() {
        let (start, end) = (u64::from(zone.start.get()), u64::from(zone.start.get()) + u64::from(zone.frames));
        let block = u64::from(config.pageblock_order.frames());
        if zone.frames == 0 {
            return Err(BootError::Empty(number));
        }
        if start % block != 0 || end % block != 0 {
            return Err(BootError::Misaligned(number));
        }
        if start < last {
            return Err(BootError::Overlap(number));
        }
        if end > u64::from(frames) {
            return Err(BootError::BeyondRam(number));
        }
        last = end;
    }
    Ok(())
}
