//! The soft TLB: each virtual CPU keeps all its translations until they are flushed. It also keeps the root that it has
//! loaded, and every table that it has walked through, until a flush says that tables have changed.
#![allow(unsafe_code, reason = "a walk reads tables by their frames, as a CPU's does")]

use pagemove::{
    paging::{Found, PageTable, Translation, Walk, table_number, walk_table},
    port::{FlushRange, Ram, SpaceId},
    space::{Access, FaultError},
    sync::Mutex,
    units::{HUGE_ORDER, Order, Pfn, VirtAddr},
};
use rustc_hash::FxHashMap;

use crate::format::{Space, TableFormat};

/// Level of the top-level table.
const TOP: u32 = PageTable::<TableFormat>::TOP;

/// A flush of more pages flushes the whole address space, as Linux does on x86 (`tlb_single_page_flush_ceiling`).
const CEILING: u64 = 33;

#[derive(Default)]
struct Cpu {
    // By address space, then by virtual page number of the page's start; 4 KiB and 2 MiB pages separately.
    spaces: FxHashMap<SpaceId, Pages>,
}

#[derive(Default)]
struct Pages {
    base: FxHashMap<u64, Translation>,
    huge: FxHashMap<u64, Translation>,
    // The loaded root.
    root: Option<Pfn>,
    // For each level below the root's the frames of tables, by the number of the range that they serve.
    tables: [FxHashMap<u64, Pfn>; TOP as usize],
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
        space: &Space,
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
                    pages.forget_tables(range.start, range.start.up(range.pages - 1));
                }
                if of_space.iter().map(|range| u64::from(range.pages)).sum::<u64>() > CEILING {
                    pages.base.clear();
                    pages.huge.clear();
                    continue;
                }
                for range in of_space {
                    for page in (0..range.pages).step_by(range.order.frames() as usize) {
                        let address = range.start.up(page);
                        // No more than was asked for, as a machine may do that gives its hardware the order.
                        if range.order == Order::ZERO || range.tables_changed {
                            pages.base.remove(&address.vpn());
                        }
                        if range.order == HUGE_ORDER || range.tables_changed {
                            pages.huge.remove(&address.align_down_huge().vpn());
                        }
                    }
                }
            }
        }
    }

    /// Makes every CPU that has the root of an address space loaded load the one at `to`; waits for accesses in progress.
    pub(crate) fn load_root(&self, space: SpaceId, to: Pfn) {
        for cpu in &self.cpus {
            let mut cpu = cpu.lock();
            if let Some(root) = cpu.spaces.get_mut(&space).and_then(|pages| pages.root.as_mut()) {
                *root = to;
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

    /// Forgets all tables that serve addresses from `first` to `last`. A fault does so too (Intel SDM volume 3, section
    /// 5.10.4.1), and so an access ends, whatever a stale table says.
    fn forget_tables(&mut self, first: VirtAddr, last: VirtAddr) {
        for (level, tables) in (0..).zip(&mut self.tables) {
            let (first, last) = (table_number(first, level), table_number(last, level));
            if last - first < tables.len() as u64 {
                (first..=last).for_each(|number| {
                    tables.remove(&number);
                });
            } else {
                tables.retain(|number, _| !(first..=last).contains(number));
            }
        }
    }

    /// Walks from the lowest table that is kept for the address.
    fn walk(&mut self, ram: Ram, space: &Space, address: VirtAddr, walk: Walk) -> Option<Translation> {
        let root = *self.root.get_or_insert_with(|| space.table().root());
        let kept = (0..)
            .zip(&self.tables)
            .find_map(|(level, tables)| Some((level, *tables.get(&table_number(address, level))?)));
        let (mut level, mut table) = kept.unwrap_or((TOP, root));
        loop {
            // SAFETY: the machine keeps its RAM during an access; a flush waits for the CPU's lock, which our caller
            // holds. A stale table may be a reused frame by now, as on a real machine.
            match walk_table::<TableFormat>(unsafe { ram.words(table) }, level, address, walk) {
                None => {
                    self.forget_tables(address, address);
                    return None;
                }
                Some(Found::Page(page)) => return Some(page),
                Some(Found::Table(lower)) => {
                    (level, table) = (level - 1, lower);
                    self.tables[level as usize].insert(table_number(address, level), lower);
                }
            }
        }
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
