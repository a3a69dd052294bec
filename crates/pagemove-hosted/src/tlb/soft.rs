//! The soft TLB: each virtual CPU keeps all its translations until they are flushed. It also caches the lowest-level
//! table of an address, until a flush says that tables have changed.
#![allow(unsafe_code, reason = "a walk reads tables by their frames, as a CPU's does")]

use pagemove::{
    paging::{Translation, Walk, translate_in},
    port::{FlushRange, Ram, SpaceId},
    space::{Access, AddressSpace, FaultError},
    sync::Mutex,
    units::{HUGE_ORDER, Pfn, VirtAddr},
};
use rustc_hash::FxHashMap;

/// A flush of more pages flushes the whole address space, as Linux does on x86 (`tlb_single_page_flush_ceiling`).
const CEILING: u64 = 33;

/// Pages of a lowest-level table.
const TABLE_PAGES: u64 = HUGE_ORDER.frames() as u64;

#[derive(Default)]
struct Cpu {
    // By address space, then by virtual page number of the page's start; 4 KiB and 2 MiB pages separately.
    spaces: FxHashMap<SpaceId, Pages>,
}

#[derive(Default)]
struct Pages {
    base: FxHashMap<u64, Translation>,
    huge: FxHashMap<u64, Translation>,
    // The frames of lowest-level tables, by virtual page number of their first page.
    tables: FxHashMap<u64, Pfn>,
}

/// The TLBs of all virtual CPUs.
pub(crate) struct SoftTlb {
    cpus: Box<[Mutex<Cpu>]>,
}

impl SoftTlb {
    pub(crate) fn new(cpus: usize) -> Self {
        Self { cpus: (0..cpus).map(|_| Mutex::default()).collect() }
    }

    /// Makes an access on virtual CPU `cpu`: calls `f` with the frame and the word's number in it.
    pub(crate) fn access<R>(
        &self,
        cpu: usize,
        ram: Ram,
        space: &AddressSpace,
        address: VirtAddr,
        store: bool,
        f: impl Fn(Pfn, usize) -> R,
    ) -> Result<R, FaultError> {
        let word = (address.get() / 8 % 512) as usize;
        loop {
            {
                // Held over the access, so that a flush waits for its end; and over walk and fill, so that a flush
                // comes before or after both.
                let mut cpu = self.cpus[cpu].lock();
                let pages = cpu.spaces.entry(space.id()).or_default();
                let hit = pages.get(address).filter(|hit| !store || hit.storable);
                let walk = if store { Walk::Store } else { Walk::Load };
                let fill = |pages: &mut Pages| {
                    let found = pages.walk(ram, space, address, walk)?;
                    Some(pages.fill(address, found))
                };
                if let Some(hit) = hit.or_else(|| fill(pages)) {
                    let within = address.vpn() as u32 & (hit.order.frames() - 1);
                    return Ok(f(hit.first.up(within), word));
                }
            }
            space.fault(address, if store { Access::Write } else { Access::Read })?;
        }
    }

    /// Removes `ranges` on all CPUs, and waits for accesses in progress.
    pub(crate) fn flush(&self, ranges: &[FlushRange]) {
        for cpu in &self.cpus {
            let mut cpu = cpu.lock();
            for of_space in ranges.chunk_by(|one, next| one.space.id == next.space.id) {
                let Some(pages) = cpu.spaces.get_mut(&of_space[0].space.id) else { continue };
                for range in of_space.iter().filter(|range| range.tables_changed) {
                    let (first, behind) = (range.start.vpn(), range.start.vpn() + u64::from(range.pages));
                    pages.tables.retain(|&vpn, _| vpn + TABLE_PAGES <= first || behind <= vpn);
                }
                if of_space.iter().map(|range| u64::from(range.pages)).sum::<u64>() > CEILING {
                    pages.base.clear();
                    pages.huge.clear();
                    continue;
                }
                for range in of_space {
                    for page in 0..range.pages {
                        let address = range.start.up(page);
                        pages.base.remove(&address.vpn());
                        pages.huge.remove(&address.align_down_huge().vpn());
                    }
                }
            }
        }
    }

    /// Removes an address space that has ended.
    pub(crate) fn forget(&self, space: SpaceId) {
        for cpu in &self.cpus {
            cpu.lock().spaces.remove(&space);
        }
    }
}

impl Pages {
    fn get(&self, address: VirtAddr) -> Option<Translation> {
        let base = self.base.get(&address.vpn());
        base.or_else(|| self.huge.get(&address.align_down_huge().vpn())).copied()
    }

    /// Walks by the cached table, or else from the root.
    fn walk(&mut self, ram: Ram, space: &AddressSpace, address: VirtAddr, walk: Walk) -> Option<Translation> {
        let first = address.align_down_huge().vpn();
        let table = self.tables.get(&first).copied().or_else(|| space.table().leaf_table(address));
        let Some(table) = table else {
            // SAFETY: a CPU's walk; a flush waits for the CPU's lock, which our caller holds.
            return unsafe { space.table().translate(address, walk) };
        };
        self.tables.insert(first, table);
        // SAFETY: the machine keeps its RAM during an access. A stale cached table may be a reused frame by now, as on
        // a real machine.
        translate_in(unsafe { ram.words(table) }, address, walk)
    }

    /// Stores a walk's result. A store may find another frame than a stale translation for loads has.
    fn fill(&mut self, address: VirtAddr, found: Translation) -> Translation {
        if found.order == HUGE_ORDER {
            self.huge.insert(address.align_down_huge().vpn(), found);
        } else {
            self.base.insert(address.vpn(), found);
        }
        found
    }
}
