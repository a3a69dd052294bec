//! Memory of the kernel's for the engines of histories, and the kernel's machine on it.

use alloc::{
    boxed::Box,
    string::{String, ToString},
    sync::Arc,
    vec::Vec,
};
use core::{
    ptr::NonNull,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use pagemove::{
    compact::alloc_compacting,
    folio::FrozenFolio,
    frame::Kind,
    migrate::Options,
    movable::Mode,
    port::{FlushRange, LentMemory, Machine, Ram, SpaceId},
    units::{HUGE_ORDER, MAX_ORDER, Order, PAGE_SIZE, Pfn},
    zone::Request,
};
use pagemove_x86::X86Machine;

use crate::{
    agent,
    platform::{self, Kernel},
};

/// The most pageblocks of a history.
const BLOCKS: usize = 12;
/// An entry for a table that programs may use: present, writable, theirs.
const TABLE: u64 = 7;

type Folio = FrozenFolio<'static>;

/// Memory for the engines of all histories, one after the other.
pub(super) struct Memory {
    /// Pageblocks, by address.
    pub(super) blocks: Vec<Folio>,
    metadata: Folio,
    /// Table, table, table, and the agents' code.
    tables: [Folio; 4],
}

fn take(order: Order) -> Result<Folio, String> {
    let request = Request::new(order, Kind::Kernel);
    let mut folio =
        alloc_compacting(platform::engine(), &request, Options::new(Mode::Sync)).map_err(|error| error.to_string())?;
    folio.zero();
    Ok(folio)
}

impl Memory {
    pub(super) fn take() -> Result<Self, String> {
        let mut blocks = Vec::new();
        for _ in 0..BLOCKS {
            blocks.push(take(HUGE_ORDER)?);
        }
        blocks.sort_by_key(|block| block.pfn());
        let tables = [take(Order::ZERO)?, take(Order::ZERO)?, take(Order::ZERO)?, take(Order::ZERO)?];
        for pair in tables.windows(2) {
            pair[0].words(0)[0].store(pair[1].pfn().get() << 12 | TABLE, Ordering::Relaxed);
        }
        for (word, bytes) in tables[3].words(0).iter().zip(agent::code().chunks(8)) {
            let mut value = [0; 8];
            value[..bytes.len()].copy_from_slice(bytes);
            word.store(u64::from_le_bytes(value), Ordering::Relaxed);
        }
        Ok(Self { blocks, metadata: take(MAX_ORDER)?, tables })
    }
}

/// As long as histories run.
pub(super) static MEMORY: spin::Mutex<Option<Arc<Memory>>> = spin::Mutex::new(None);

/// The kernel's machine, on this memory.
pub(super) struct OnMemory {
    inner: &'static X86Machine<Kernel>,
    memory: Arc<Memory>,
    lent: AtomicUsize,
    skips_flushes: AtomicBool,
}

impl OnMemory {
    pub(super) fn new(memory: Arc<Memory>) -> Arc<Self> {
        Arc::new(Self {
            inner: platform::machine(),
            memory,
            lent: AtomicUsize::new(0),
            skips_flushes: AtomicBool::new(false),
        })
    }

    pub(super) fn skip_flushes(&self, skip: bool) {
        self.skips_flushes.store(skip, Ordering::Relaxed);
    }
}

// SAFETY: the kernel's machine keeps the contract; the memory is nobody else's, as one history runs at a time. A skipped flush breaks the
// engine's guarantees to the history's processes, on purpose.
unsafe impl Machine for OnMemory {
    pagemove::pass_on!(inner: move_root root_freed cpus cpu_claim interrupt_mask preemption barrier wait wake might_wait pause now_ns);

    fn take_ram(&self) -> Option<Ram> {
        Some(platform::ram())
    }

    fn lend(&self, bytes: usize) -> Option<LentMemory> {
        let bytes = bytes.next_multiple_of(PAGE_SIZE);
        let at = self.lent.fetch_add(bytes, Ordering::Relaxed);
        let metadata = &self.memory.metadata;
        if at + bytes > metadata.order().frames() as usize * PAGE_SIZE {
            return None;
        }
        let frames = (at / PAGE_SIZE) as u32..((at + bytes) / PAGE_SIZE) as u32;
        let start = NonNull::from(metadata.words(frames.start)).cast();
        for frame in frames {
            metadata.words(frame).iter().for_each(|word| word.store(0, Ordering::Relaxed));
        }
        // SAFETY: cleared, and lent until the history is over.
        Some(unsafe { LentMemory::new(start, bytes, Box::new(self.memory.clone())) })
    }

    unsafe fn root_made(&self, id: SpaceId, root: Pfn) -> u64 {
        // SAFETY: the engine's call, passed on.
        let word = unsafe { self.inner.root_made(id, root) };
        // SAFETY: a new root; this entry is outside of the bounds of all processes of histories.
        let words = unsafe { platform::ram().words(root) };
        words[agent::ROOT_ENTRY].store(self.memory.tables[0].pfn().get() << 12 | TABLE, Ordering::Relaxed);
        word
    }

    fn flush(&self, ranges: &[FlushRange]) {
        if !self.skips_flushes.load(Ordering::Relaxed) {
            self.inner.flush(ranges);
        }
    }
}
