//! A balloon: pages given to the hypervisor, which the guest doesn't use meanwhile (virtio-balloon). They move like any other page.
//!
//! # Protocol
//! The host is told of a page before anybody else can find it, and told that it's taken back before it is freed. In a move it is told of the destination
//! first, and then of the source (Virtual I/O Device 1.2, 5.5.6); what was in the page is the host's, so nothing is copied. Inflating, deflating and
//! reporting hold no lock while the host is told, or while memory is allocated: inflating may compact memory, also by moving the balloon's own pages. A move
//! has its pages locked meanwhile.

mod host;
mod reporting;
mod stats;

use alloc::{sync::Arc, vec::Vec};

use arrayvec::ArrayVec;
use pagemove::{
    Engine,
    folio::{FolioRef, FrozenFolio},
    frame::{Key, Kind},
    movable::{IsolationRun, MigrationRun, Mode, MovableOps, Refusal, Registration, TokenCell},
    sync::{AtomicU64, Mutex, Ordering},
    units::{Order, Pfn},
    zone::{AllocError, Effort, Physical, Request},
};

use host::Nobody;
pub use host::{BATCH, BalloonHost, BalloonPages, HostRefused};
pub use stats::BalloonStats;

use crate::chunks::{Chunks, NoRoom};

/// Pages that are taken back where memory runs out (Linux: `VIRTIO_BALLOON_OOM_NR_PAGES`).
const RELIEF: u32 = 256;

/// Why a balloon didn't become larger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InflateError {
    /// The guest has too few pages.
    #[error("balloon: {0}")]
    OutOfMemory(#[from] AllocError),
    /// The host refused.
    #[error("balloon: {0}")]
    Refused(#[from] HostRefused),
    /// No memory for the balloon's table.
    #[error("balloon: no memory for its table")]
    NoTables,
}

/// A balloon.
pub struct Balloon {
    pages: Arc<Pages>,
    registration: Registration,
    numbers: Mutex<Numbers>,
    effort: Effort,
}

/// The owner of its pages.
struct Pages {
    cells: Chunks<TokenCell, 64>,
    physical: Arc<Physical>,
    host: Arc<dyn BalloonHost>,
    moved: AtomicU64,
}

/// Numbers of cells.
#[derive(Default)]
struct Numbers {
    /// Those with a page.
    full: Vec<u32>,
    empty: Vec<u32>,
    /// Also those that a call has.
    all: usize,
}

type Batch<T> = ArrayVec<T, BATCH>;

impl MovableOps for Pages {
    fn name(&self) -> &str {
        "balloon"
    }

    fn isolate(&self, run: &mut IsolationRun<'_>) {
        let waits = run.mode() == Mode::Async && self.host.sleeps();
        run.decide(|_| if waits { Err(Refusal::Retry) } else { Ok(()) });
    }

    /// What is in them is the host's.
    fn copy(&self, _: &mut MigrationRun<'_>) {}

    fn migrate(&self, run: &mut MigrationRun<'_>) {
        loop {
            // Each time those that haven't moved yet: the batch is larger than what the host takes at once.
            let (mut src, mut dst) = (Batch::<Pfn>::new(), Batch::<Pfn>::new());
            run.for_each(|page| {
                let is_next = !src.is_full() && self.holds(page.index(), page.src());
                if is_next {
                    src.push(page.src());
                    dst.push(page.dst());
                }
                Ok(())
            });
            if src.is_empty() {
                return;
            }
            let is_taken = self.host.inflate(self.batch(&dst)).is_ok();
            run.for_each(|page| {
                let is_this = src.contains(&page.src());
                match (is_this, is_taken) {
                    (false, _) => Ok(()),
                    (true, false) => Err(Refusal::Retry),
                    (true, true) => page.exchange_in(self.cells.get(page.index()).ok_or(Refusal::No)?),
                }
            });
            if is_taken {
                self.host.deflate(self.batch(&src));
                self.moved.fetch_add(src.len() as u64, Ordering::Relaxed);
            }
        }
    }
}

impl Pages {
    fn batch<'p>(&'p self, frames: &'p [Pfn]) -> BalloonPages<'p> {
        BalloonPages::new(&self.physical, frames, Order::ZERO)
    }

    /// Tells whether a cell has the token of this page. The page is locked.
    fn holds(&self, cell: u32, page: Pfn) -> bool {
        self.cells.get(cell).and_then(TokenCell::pfn) == Some(page)
    }
}

impl Balloon {
    /// Makes an empty balloon of which no host is told.
    pub fn new(engine: &Engine) -> Self {
        Self::with_host(engine, Arc::new(Nobody))
    }

    /// Makes an empty balloon.
    pub fn with_host(engine: &Engine, host: Arc<dyn BalloonHost>) -> Self {
        let physical = engine.physical().clone();
        let pages = Arc::new(Pages { cells: Chunks::new(), physical, host, moved: AtomicU64::new(0) });
        let registration = engine.owners().register(pages.clone());
        Self { pages, registration, numbers: Mutex::default(), effort: Effort::Drain }
    }

    /// Sets what may be done to get a page; [`Effort::Compact`] sleeps.
    pub fn with_effort(mut self, effort: Effort) -> Self {
        self.effort = effort;
        self
    }

    /// Gives `pages` pages to the host, in batches of at most [`BATCH`]; if there are too few, takes those back that it gave.
    pub fn inflate(&self, pages: u32) -> Result<(), InflateError> {
        let mut given = 0;
        while given < pages {
            let batch = (pages - given).min(BATCH as u32);
            if let Err(error) = self.inflate_batch(batch) {
                self.deflate(given);
                return Err(error);
            }
            given += batch;
        }
        Ok(())
    }

    fn inflate_batch(&self, count: u32) -> Result<(), InflateError> {
        let physical = self.registration.physical();
        let request = Request::new(Order::ZERO, Kind::Driver).with_effort(self.effort);
        let mut pages = Batch::<FrozenFolio<'_>>::new();
        for _ in 0..count {
            pages.push(physical.alloc_with(&request)?);
        }
        self.insert(pages)
    }

    /// Gives a page to the host, to rebuild a layout. False, and the page is freed, if that fails, or if it isn't a base page of this memory,
    /// allocated as [`Kind::Driver`].
    pub fn adopt(&self, page: FrozenFolio<'_>) -> bool {
        let is_ours = Arc::ptr_eq(page.physical(), self.registration.physical());
        let state = page.physical().frame(page.pfn()).state();
        let fits = is_ours && state.kind() == Kind::Driver && state.order() == Order::ZERO;
        fits && self.insert(core::iter::once(page).collect()).is_ok()
    }

    /// Tells the host, and then makes the pages, all of them base pages of this memory, movable.
    fn insert(&self, mut pages: Batch<FrozenFolio<'_>>) -> Result<(), InflateError> {
        // The host is told of neighbours at once.
        pages.sort_unstable_by_key(|page| page.pfn());
        let mut cells = Batch::<u32>::new();
        let has_cells = {
            let mut numbers = self.numbers.lock();
            (0..pages.len()).try_for_each(|_| numbers.take(&self.pages.cells).map(|cell| cells.push(cell)))
        };
        let frames: Batch<Pfn> = pages.iter().map(|page| page.pfn()).collect();
        let given = has_cells
            .map_err(|NoRoom| InflateError::NoTables)
            .and_then(|()| Ok(self.pages.host.inflate(self.pages.batch(&frames))?));
        if let Err(error) = given {
            self.numbers.lock().empty.extend(cells);
            return Err(error);
        }
        for (&cell, page) in cells.iter().zip(pages) {
            let (token, page) = self.registration.own(page, Key { rmap: 0, index: cell });
            match self.pages.cells.get(cell) {
                Some(cell) => cell.put(token),
                None => self.registration.release(token, &page),
            }
        }
        self.numbers.lock().full.extend(cells);
        Ok(())
    }

    /// Takes up to `pages` pages back, waiting for moves of them; gives their number.
    pub fn deflate(&self, pages: u32) -> u32 {
        let mut freed = 0;
        loop {
            let cells: Batch<u32> = {
                let mut numbers = self.numbers.lock();
                let left = numbers.full.len() - numbers.full.len().min((pages - freed) as usize).min(BATCH);
                numbers.full.drain(left..).collect()
            };
            if cells.is_empty() {
                return freed;
            }
            // They don't move any more, and the references keep them until the host has been told; it may take long, so without locks.
            let mut pages: Batch<FolioRef<'_>> = cells.iter().filter_map(|&cell| self.take_out(cell)).collect();
            pages.sort_unstable_by_key(|page| page.pfn());
            let frames: Batch<Pfn> = pages.iter().map(|page| page.pfn()).collect();
            self.pages.host.deflate(self.pages.batch(&frames));
            drop(pages);
            freed += cells.len() as u32;
            self.numbers.lock().empty.extend(cells);
        }
    }

    /// Ends the ownership of a cell's page, and keeps a reference to it.
    fn take_out(&self, cell: u32) -> Option<FolioRef<'_>> {
        let cell = self.pages.cells.get(cell)?;
        let page = self.registration.lock_in(cell)?;
        self.registration.release_in(cell, &page);
        Some(page.unlock())
    }

    /// Gives memory back where it is about to run out; gives the number of pages (Linux: `VIRTIO_BALLOON_F_DEFLATE_ON_OOM`).
    pub fn relieve(&self) -> u32 {
        self.deflate(RELIEF)
    }

    /// Gives the number of pages in the balloon.
    pub fn pages(&self) -> usize {
        self.numbers.lock().full.len()
    }

    /// Gives how often pages of it have moved (Linux: `balloon_migrate`).
    pub fn moves(&self) -> u64 {
        self.pages.moved.load(Ordering::Relaxed)
    }
}

impl Numbers {
    /// Takes a cell without a page; makes one if there is none.
    fn take(&mut self, cells: &Chunks<TokenCell, 64>) -> Result<u32, NoRoom> {
        if let Some(cell) = self.empty.pop() {
            return Ok(cell);
        }
        // Room for all in both lists: neither inflating nor deflating needs more memory.
        let all = self.all + 1;
        for list in [&mut self.full, &mut self.empty] {
            list.try_reserve(all - list.len()).map_err(|_| NoRoom)?;
        }
        let cell = cells.add(TokenCell::new)?;
        self.all = all;
        Ok(cell)
    }
}

impl Drop for Balloon {
    fn drop(&mut self) {
        self.deflate(u32::MAX);
    }
}
