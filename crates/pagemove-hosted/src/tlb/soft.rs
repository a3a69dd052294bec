//! The soft TLB: each virtual processor remembers its translations until they are flushed, and forgets none before.

use pagemove::{
    paging::{Translation, Walk},
    port::{FlushRange, SpaceId},
    space::{Access, AddressSpace, FaultError},
    sync::Mutex,
    units::{HUGE_ORDER, Pfn, VirtAddr},
};
use rustc_hash::FxHashMap;

/// Pages beyond which a flush forgets the whole address space, as Linux does on x86 (`tlb_single_page_flush_ceiling`).
const CEILING: u32 = 33;

#[derive(Default)]
struct Cpu {
    // By address space, then by virtual page number of the page's start; 4 KiB and 2 MiB pages apart.
    spaces: FxHashMap<SpaceId, Pages>,
}

#[derive(Default)]
struct Pages {
    base: FxHashMap<u64, Translation>,
    huge: FxHashMap<u64, Translation>,
}

/// The TLBs of all virtual processors.
pub(crate) struct SoftTlb {
    cpus: Box<[Mutex<Cpu>]>,
}

impl SoftTlb {
    pub(crate) fn new(cpus: usize) -> Self {
        Self { cpus: (0..cpus).map(|_| Mutex::default()).collect() }
    }

    /// Makes an access on virtual processor `cpu`: `act` gets the frame and the word's number in it.
    pub(crate) fn access<R>(
        &self,
        cpu: usize,
        space: &AddressSpace,
        address: VirtAddr,
        store: bool,
        act: impl Fn(Pfn, usize) -> R,
    ) -> Result<R, FaultError> {
        let word = (address.get() / 8 % 512) as usize;
        loop {
            {
                // Held over the access, so that a flush waits for its end, and over walk and fill, so that it comes
                // before or after both.
                let mut cpu = self.cpus[cpu].lock();
                let pages = cpu.spaces.entry(space.id()).or_default();
                let hit = pages.get(address).filter(|hit| !store || hit.storable);
                let walk = if store { Walk::Store } else { Walk::Load };
                let fill = |pages: &mut Pages| Some(pages.fill(address, space.table().translate(address, walk)?));
                if let Some(hit) = hit.or_else(|| fill(pages)) {
                    let within = address.vpn() as u32 & (hit.order.frames() - 1);
                    return Ok(act(hit.first.up(within), word));
                }
            }
            space.fault(address, if store { Access::Write } else { Access::Read })?;
        }
    }

    /// Forgets what `ranges` name on all processors, and waits for accesses in progress.
    pub(crate) fn flush(&self, ranges: &[FlushRange]) {
        for cpu in &self.cpus {
            let mut cpu = cpu.lock();
            for of_space in ranges.chunk_by(|one, next| one.space == next.space) {
                let Some(pages) = cpu.spaces.get_mut(&of_space[0].space) else { continue };
                if of_space.iter().map(|range| range.pages).sum::<u32>() > CEILING {
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

    /// Forgets an address space that is gone.
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

    /// Remembers what a walk found. For a store it may be another frame than a stale translation for loads had.
    fn fill(&mut self, address: VirtAddr, found: Translation) -> Translation {
        if found.order == HUGE_ORDER {
            self.huge.insert(address.align_down_huge().vpn(), found);
        } else {
            self.base.insert(address.vpn(), found);
        }
        found
    }
}
