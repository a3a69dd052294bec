//! The physical memory of a machine: boot, frame table, pageblocks and zones. The other files of this module add their
//! operations, each in an `impl Physical`.

#[cfg(feature = "loom")]
extern crate std;

use alloc::{boxed::Box, sync::Arc, vec::Vec};

use super::{
    buddy::{Buddy, Tables},
    config::{BootError, Config, check},
    pageblock::Pageblocks,
    percpu::CpuLocal,
    pressure::Pressure,
};
use crate::{
    frame::{Class, Frame, FrameTable, Kind, Pins, State},
    port::{CpuClaim, Machine, MaskedMutex, Ram},
    report::{Counters, Ring},
    sync::{AtomicU64, set_preemption},
    units::{FrameRange, Order, Pfn},
};

pub(super) struct Zone {
    pub(super) range: FrameRange,
    pub(super) node: u32,
    pub(super) buddy: MaskedMutex<Buddy>,
    pub(super) cpus: Box<[CpuLocal]>,
}

/// Marks the reserved frames of a zone; gives the free ranges, ascending.
fn reserve(tables: Tables<'_>, zone: FrameRange, reserved: &[FrameRange]) -> Vec<FrameRange> {
    let mut within: Vec<FrameRange> = reserved.iter().filter_map(|range| range.common(zone)).collect();
    within.sort_by_key(|range| range.start);
    let mut free = Vec::new();
    let mut at = zone.start;
    for range in within {
        if range.start > at {
            free.push(FrameRange { start: at, frames: range.start.offset_from(at) });
        }
        for pfn in range.iter().filter(|&pfn| pfn >= at) {
            tables.frames[pfn].set_state(State::new(Kind::Reserved, Class::Reserved, Order::ZERO));
            tables.blocks.moved(pfn, Class::Free, Class::Reserved, 1);
        }
        at = at.max(range.end());
    }
    if at < zone.end() {
        free.push(FrameRange { start: at, frames: zone.end().offset_from(at) });
    }
    free
}

impl Zone {
    fn bytes(&self) -> usize {
        size_of::<Self>() + self.cpus.len() * CpuLocal::bytes(self.range.frames, self.cpus.len())
    }
}

/// Gives the next memory's number, from 1 on, by which tokens of another memory are recognized; `None` after 2^24 - 1, as many as
/// a token tells apart.
fn next_id() -> Option<u32> {
    // Not of `sync`: it orders nothing.
    use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
    static NEXT: AtomicU32 = AtomicU32::new(1);
    NEXT.fetch_update(Relaxed, Relaxed, |id| (id < 1 << 24).then_some(id + 1)).ok()
}

/// A machine whose RAM is taken until this is dropped.
struct Taken {
    machine: Arc<dyn Machine>,
    ram: Ram,
}

impl Taken {
    fn new(machine: Arc<dyn Machine>) -> Option<Self> {
        let ram = machine.take_ram()?;
        Some(Self { machine, ram })
    }
}

impl Drop for Taken {
    #[allow(unsafe_code, reason = "a call that only the engine makes")]
    fn drop(&mut self) {
        // SAFETY: taken by `new`, and nobody uses it any more.
        unsafe { self.machine.return_ram() };
    }
}

/// The physical memory of a machine.
pub struct Physical {
    id: u32,
    pub(super) cpu_claim: CpuClaim,
    pub(super) frames: FrameTable,
    pub(super) blocks: Pageblocks,
    pub(super) zones: Vec<Zone>,
    pins: Pins,
    counters: Counters,
    events: Ring,
    pub(super) pressure: Pressure,
    #[cfg(feature = "loom")]
    words: Vec<std::sync::OnceLock<Box<[AtomicU64; 512]>>>,
    /// Last, so that nothing is left when the RAM is given back.
    taken: Taken,
}

impl Physical {
    /// Takes over the machine's RAM: all frames of the zones are free, except reserved ones.
    pub fn boot(machine: Arc<dyn Machine>, config: &Config) -> Result<Self, BootError> {
        let taken = Taken::new(machine).ok_or(BootError::TakenOver)?;
        let (machine, ram) = (&taken.machine, taken.ram);
        set_preemption(machine.preemption());
        let spans = check(config, &ram.frames())?;
        let id = next_id().ok_or(BootError::TooMany)?;
        let no_metadata = BootError::NoMetadata(spans.frames());
        let frames = FrameTable::new(machine.clone(), spans.clone()).ok_or(no_metadata)?;
        let blocks = Pageblocks::new(&**machine, &spans, config.pageblock_order).ok_or(no_metadata)?;
        let cpus = machine.cpus().max(1);
        let mask = machine.interrupt_mask();
        let zones = config
            .zones
            .iter()
            .enumerate()
            .map(|(number, &range)| {
                blocks.give_to_zone(range, number as u32);
                let tables = Tables { frames: &frames, blocks: &blocks };
                Zone {
                    range,
                    node: config.nodes.get(number).copied().unwrap_or(0),
                    buddy: MaskedMutex::new(mask, Buddy::new(tables, range, &reserve(tables, range, &config.reserved))),
                    cpus: (0..cpus).map(|_| CpuLocal::new(range.frames, cpus)).collect(),
                }
            })
            .collect();
        #[cfg(feature = "loom")]
        let words = (0..frames.len()).map(|_| Default::default()).collect();
        let (counters, events, pressure) = Default::default();
        let cpu_claim = machine.cpu_claim();
        Ok(Self {
            id,
            taken,
            cpu_claim,
            frames,
            blocks,
            zones,
            pins: Pins::new(mask),
            counters,
            events,
            pressure,
            #[cfg(feature = "loom")]
            words,
        })
    }

    /// Gives the number of this memory, unique in the program.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// Gives the machine.
    pub fn machine(&self) -> &dyn Machine {
        &*self.taken.machine
    }

    /// Gives the direct map.
    pub fn ram(&self) -> Ram {
        self.taken.ram
    }

    /// Views a frame's contents as words. The caller keeps the frame allocated, by a reference or as its owner.
    #[cfg(not(feature = "loom"))]
    pub(crate) fn ram_words(&self, pfn: Pfn) -> &[AtomicU64; 512] {
        #[allow(unsafe_code)]
        // SAFETY: the lifetime is bound to `self`, which keeps the machine.
        unsafe {
            self.taken.ram.words(pfn)
        }
    }

    /// As above; loom's atomics are more than their bits, and can't be in RAM.
    #[cfg(feature = "loom")]
    pub(crate) fn ram_words(&self, pfn: Pfn) -> &[AtomicU64; 512] {
        self.words[self.frames.number(pfn) as usize]
            .get_or_init(|| Box::new(core::array::from_fn(|_| AtomicU64::new(0))))
    }

    /// Views the contents of frame number `frame` of the folio at `head`. Panics if it has no such frame.
    pub(crate) fn folio_words(&self, head: Pfn, frame: u32) -> &[AtomicU64; 512] {
        let frames = self.frames[head].state().order().frames();
        assert!(frame < frames, "folio {head} has {frames} frame(s); there is no frame {frame}");
        self.ram_words(head.up(frame))
    }

    /// Gives the frame table.
    pub fn frames(&self) -> &FrameTable {
        &self.frames
    }

    /// Gives one frame's entry. Panics if the frame table doesn't have it: it must be of this memory.
    pub fn frame(&self, pfn: Pfn) -> &Frame {
        &self.frames[pfn]
    }

    /// Gives the pageblocks.
    pub fn blocks(&self) -> &Pageblocks {
        &self.blocks
    }

    /// Gives the pins of all frames.
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

    /// Gives the node of zone number `zone`; `None` if there is no such zone.
    pub fn node_of_zone(&self, zone: usize) -> Option<u32> {
        Some(self.zones.get(zone)?.node)
    }

    /// Gives the node of the frame; `None` if it belongs to no zone.
    pub fn node_of(&self, pfn: Pfn) -> Option<u32> {
        Some(self.zone_of(pfn)?.node)
    }

    /// Gives the ranges of the zones.
    pub fn zones(&self) -> impl ExactSizeIterator<Item = FrameRange> + '_ {
        self.zones.iter().map(|zone| zone.range)
    }

    pub(super) fn tables(&self) -> Tables<'_> {
        Tables { frames: &self.frames, blocks: &self.blocks }
    }

    pub(super) fn zone_of(&self, pfn: Pfn) -> Option<&Zone> {
        self.zones.get(self.blocks.zone_of(pfn)?)
    }

    /// Tells whether the frame belongs to a zone.
    pub fn is_managed(&self, pfn: Pfn) -> bool {
        self.zone_of(pfn).is_some()
    }

    /// Gives the bytes of all metadata, including the CPUs' lists and this structure.
    pub fn metadata_bytes(&self) -> usize {
        let spans = self.frames.spans();
        FrameTable::bytes(spans)
            + Pageblocks::bytes(spans, self.blocks.order())
            + size_of::<Self>()
            + self.events.bytes()
            + self.zones.iter().map(Zone::bytes).sum::<usize>()
    }

    /// Gives the number of frames on the free lists of all zones. Those on CPUs' lists aren't counted: [`Self::drain_cpu_lists`]
    /// returns them first, where an exact number is wanted (Linux: `NR_FREE_PAGES` doesn't count them either).
    pub fn free_frames(&self) -> u32 {
        self.zones.iter().map(|zone| zone.buddy.lock().free_frames()).sum()
    }
}
