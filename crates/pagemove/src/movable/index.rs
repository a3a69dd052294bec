//! An index of pages by page offset, for page caches and most drivers (Linux: `struct address_space`).
//!
//! # Protocol
//! Each place holds one reference to its frame. The index's lock nests inside the frame's lock, and is held only to
//! read or change places. Taking a page out needs its frame's lock, so a moving page stays in its place until the move
//! is over. A look-up meanwhile finds it frozen or locked, waits, and looks again.

use alloc::{boxed::Box, collections::BTreeMap, string::String, sync::Arc, vec::Vec};
use core::ops::Range;

use super::{FolioToken, MigrationRun, MovableOps, Registration};
use crate::{
    folio::{FolioRef, FrozenFolio, LockedFolio},
    frame::{Key, Kind, Marks},
    paging::FlushDebt,
    rmap::{RangeMap, Registry, ReverseMap},
    sync::Mutex,
    units::{Order, Pfn},
    zone::{AllocError, Physical, Request},
};

const CHUNK: u32 = 512;
const EMPTY: u32 = u32::MAX;

/// Most pages that one flush takes out.
const BATCH: usize = 64;

type Chunk = Box<[u32; CHUNK as usize]>;

/// Movable pages by page offset, with their reverse map.
pub struct PageIndex {
    name: String,
    kind: Kind,
    physical: Arc<Physical>,
    rmaps: Arc<Registry<dyn ReverseMap>>,
    rmap: Arc<RangeMap>,
    read: Option<Box<ReadPage>>,
    pages: Mutex<Pages>,
}

/// The fields under the index's lock.
struct Pages {
    chunks: BTreeMap<u32, Chunk>,
    new: NewPages,
}

/// The settings for pages inserted from now on.
#[derive(Clone, Copy)]
struct NewPages {
    /// The reverse map in their keys: the processes', or a device's that calls it too.
    mapped_by: u32,
    owner: u32,
    below: Option<Pfn>,
}

impl NewPages {
    fn allow(self, folio: &FrozenFolio<'_>) -> bool {
        self.below.is_none_or(|below| folio.pfn() < below)
    }
}

/// Reads the page at an offset from its backing store into the words. Called with the page locked: the rules of
/// [`LockedFolio`] apply.
pub type ReadPage = dyn Fn(u32, &[crate::sync::AtomicU64; 512]) + Send + Sync;

impl PageIndex {
    /// Makes an empty index; see [`crate::Engine::new_index`].
    pub(crate) fn new(
        physical: &Arc<Physical>,
        rmaps: &Arc<Registry<dyn ReverseMap>>,
        kind: Kind,
        name: String,
        read: Option<Box<ReadPage>>,
    ) -> Arc<Self> {
        let rmap = RangeMap::new(rmaps);
        Arc::new(Self {
            name,
            kind,
            physical: physical.clone(),
            rmaps: rmaps.clone(),
            pages: Mutex::new(Pages {
                chunks: BTreeMap::new(),
                new: NewPages { mapped_by: rmap.id(), owner: 0, below: None },
            }),
            rmap,
            read,
        })
    }

    /// Sets the owner of pages inserted from now on: its callbacks move them, and they are allocated within its bound.
    /// Panics if it's of another engine.
    pub fn set_owner(&self, registration: &Registration) {
        assert!(registration.is_of(&self.physical), "\"{}\" can't be owned by a driver of another engine", self.name);
        let new = &mut self.pages.lock().new;
        (new.owner, new.below) = (registration.number(), registration.below());
    }

    /// Sets the reverse map of pages inserted from now on, by its number in
    /// [`Engine::reverse_maps`](crate::Engine::reverse_maps): that of a device with its own page tables. It must pass
    /// all calls on to [`Self::reverse_map`], which has the processes' mappings.
    pub fn set_reverse_map(&self, number: u32) {
        self.pages.lock().new.mapped_by = number;
    }

    /// Gives the reverse map of the processes' mappings (Linux: `f_mapping->i_mmap`).
    pub fn reverse_map(&self) -> &Arc<RangeMap> {
        &self.rmap
    }

    /// Gives the memory that the pages come from.
    pub fn physical(&self) -> &Physical {
        &self.physical
    }

    /// Gives the number of pages.
    pub fn len(&self) -> usize {
        self.pages.lock().chunks.values().flat_map(|chunk| chunk.iter()).filter(|&&pfn| pfn != EMPTY).count()
    }

    /// Tells whether there is no page.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Gives the current frame of the page at `index`; the page may move at any time.
    pub fn peek(&self, index: u32) -> Option<Pfn> {
        let pages = self.pages.lock();
        let pfn = pages.chunks.get(&(index / CHUNK))?[(index % CHUNK) as usize];
        (pfn != EMPTY).then(|| Pfn::new(pfn))
    }

    /// Finds and locks the page at `index`; waits for a move of it.
    pub fn lock_page(&self, index: u32) -> Option<LockedFolio<'_>> {
        loop {
            let pfn = {
                let pages = self.pages.lock();
                let pfn = pages.chunks.get(&(index / CHUNK))?[(index % CHUNK) as usize];
                if pfn == EMPTY {
                    return None;
                }
                let pfn = Pfn::new(pfn);
                // The place holds a reference, so this fails only if a move has frozen the frame.
                if !self.physical.frame(pfn).try_get() {
                    drop(pages);
                    self.physical.frames().wait_unlocked(pfn);
                    continue;
                }
                pfn
            };
            let page = FolioRef::from_counted(&self.physical, pfn).lock();
            if self.peek(index) == Some(pfn) {
                return Some(page);
            }
            // It was moved or taken out while we waited for the lock.
        }
    }

    /// Finds and locks the page at `index`. If there is none, inserts a new one, cleared or read from the backing
    /// store.
    pub fn lock_or_insert(&self, index: u32) -> Result<LockedFolio<'_>, AllocError> {
        loop {
            if let Some(page) = self.lock_page(index) {
                return Ok(page);
            }
            let mut folio = self.new_folio()?;
            folio.zero();
            if let Ok(page) = self.insert_frozen(index, folio) {
                let page = page.fresh();
                if let Some(read) = &self.read {
                    read(index, page.words(0));
                }
                return Ok(page);
            }
        }
    }

    fn new_folio(&self) -> Result<FrozenFolio<'_>, AllocError> {
        let below = self.pages.lock().new.below;
        match below {
            None => self.physical.alloc(Order::ZERO, self.kind),
            Some(below) => self.physical.alloc_with(&Request::new(Order::ZERO, self.kind).below(below)),
        }
    }

    /// Inserts a page that the caller has allocated and filled; returns it if `index` has one already. Panics unless
    /// it's a base page of this index's kind and memory, within the owner's bound.
    pub fn insert<'p>(&'p self, index: u32, folio: FrozenFolio<'p>) -> Result<LockedFolio<'p>, FrozenFolio<'p>> {
        let state = self.physical.frame(folio.pfn()).state();
        let fits = Arc::ptr_eq(folio.physical(), &self.physical) && state.kind() == self.kind;
        let is_within = self.pages.lock().new.allow(&folio);
        let fits = fits && is_within && state.order() == Order::ZERO;
        assert!(fits, "folio {} can't be a page of \"{}\"", folio.pfn(), self.name);
        self.insert_frozen(index, folio)
    }

    /// Returns the folio if there is a page already, or if the owner has changed and its bound excludes it.
    fn insert_frozen<'p>(&'p self, index: u32, folio: FrozenFolio<'p>) -> Result<LockedFolio<'p>, FrozenFolio<'p>> {
        let mut pages = self.pages.lock();
        let new = pages.new;
        let chunk = pages.chunks.entry(index / CHUNK).or_insert_with(|| Box::new([EMPTY; CHUNK as usize]));
        let place = &mut chunk[(index % CHUNK) as usize];
        if *place != EMPTY || !new.allow(&folio) {
            return Err(folio);
        }
        *place = folio.pfn().get();
        Ok(folio.publish_owned(new.owner, Key { rmap: new.mapped_by, index }))
    }

    /// Takes the page at `index` out and removes all its mappings; the last reference frees it. Waits for a move of it.
    /// False if there was no page.
    pub fn remove(&self, index: u32) -> bool {
        let Some(page) = self.lock_page(index) else { return false };
        self.take_out(alloc::vec![(index, page)]);
        true
    }

    /// Takes out all pages of `range`, as [`Self::remove`] does, with one flush for up to 64 pages.
    pub fn truncate(&self, range: Range<u32>) {
        let mut from = range.start;
        while let Some(first) = self.next_index(from).filter(|index| range.contains(index)) {
            let mut pages = self.try_lock_pages(first..range.end);
            if pages.is_empty() {
                // Wait only while we hold no other page, since its holder may need one of those.
                pages.extend(self.lock_page(first).map(|page| (first, page)));
            }
            let last = pages.last().map_or(first, |&(index, _)| index);
            self.take_out(pages);
            let Some(next) = last.checked_add(1) else { return };
            from = next;
        }
    }

    /// Locks pages of `range` from its start, until one would have to be waited for, or a batch is full.
    fn try_lock_pages(&self, range: Range<u32>) -> Vec<(u32, LockedFolio<'_>)> {
        let pages = self.pages.lock();
        let places = pages.chunks.range(range.start / CHUNK..).flat_map(|(&number, chunk)| {
            (0..CHUNK).zip(chunk.iter()).map(move |(at, &pfn)| (number * CHUNK + at, pfn))
        });
        let present = places.filter(|&(index, pfn)| pfn != EMPTY && range.contains(&index));
        // Under the index's lock, so each page stays in its place; so its own lock must not be waited for.
        let lock = |(index, pfn)| Some((index, self.physical.get(Pfn::new(pfn))?.try_lock().ok()?));
        present.take(BATCH).map_while(lock).collect()
    }

    /// Takes out pages that the caller has locked, and drops the index's references.
    fn take_out(&self, pages: Vec<(u32, LockedFolio<'_>)>) {
        // Unmapped first: a thread that finds the place empty may rely on the page being unmapped. We hold the lock
        // that mapping it needs.
        let mut debt = FlushDebt::new(&self.physical);
        let mut maps: Vec<(u32, Option<Arc<dyn ReverseMap>>)> = Vec::new();
        for (index, page) in &pages {
            // By the map in the page's key, which may be a device's. If that is gone, only processes' mappings can be
            // left.
            let number = self.physical.frame(page.pfn()).key().rmap;
            if maps.last().is_none_or(|(known, _)| *known != number) {
                maps.push((number, self.rmaps.get(number)));
            }
            match maps.last() {
                Some((_, Some(map))) => map.unmap(*index, page, &mut debt),
                _ => self.rmap.unmap(*index, page, &mut debt),
            }
        }
        debt.pay();
        let mut index = self.pages.lock();
        for of_chunk in pages.chunk_by(|(one, _), (next, _)| one / CHUNK == next / CHUNK) {
            let number = of_chunk[0].0 / CHUNK;
            let Some(chunk) = index.chunks.get_mut(&number) else { continue };
            of_chunk.iter().for_each(|(index, _)| chunk[(index % CHUNK) as usize] = EMPTY);
            if chunk.iter().all(|&pfn| pfn == EMPTY) {
                index.chunks.remove(&number);
            }
        }
        drop(index);
        pages.iter().for_each(|(_, page)| page.give_up());
        drop(pages);
        // After the pages' locks, since dropping the last `Arc` of a device's map may free pages, and wait for their
        // locks.
        drop(maps);
    }

    /// Takes out the clean and unused pages of `range`, and gives their number (Linux: `invalidate_mapping_pages`).
    pub fn drop_clean(&self, range: Range<u32>) -> u32 {
        let (mut from, mut dropped) = (range.start, 0);
        while let Some(index) = self.next_index(from).filter(|index| range.contains(index)) {
            if let Some(page) = self.lock_page(index) {
                let frame = self.physical.frame(page.pfn());
                if frame.maps() == 0 && frame.refs() == 2 && !frame.state().marks().contains(Marks::DIRTY) {
                    self.take_out(alloc::vec![(index, page)]);
                    dropped += 1;
                }
            }
            let Some(next) = index.checked_add(1) else { break };
            from = next;
        }
        dropped
    }

    /// Finds the first index at or after `from` that has a page.
    pub fn next_index(&self, from: u32) -> Option<u32> {
        let pages = self.pages.lock();
        pages.chunks.range(from / CHUNK..).find_map(|(&number, chunk)| {
            let base = number * CHUNK;
            let skip = from.saturating_sub(base);
            let at = chunk.iter().skip(skip as usize).position(|&pfn| pfn != EMPTY)?;
            Some(base + skip + at as u32)
        })
    }

    /// Points the places of moving pages to their destinations; for a driver's `migrate`. Skips pages of the driver's
    /// other indexes.
    pub fn repoint(&self, run: &mut MigrationRun<'_>) {
        // Locked once for the run.
        let mut pages = self.pages.lock();
        run.for_each(|folio| {
            let chunk = pages.chunks.get_mut(&(folio.index() / CHUNK));
            let Some(place) = chunk.map(|chunk| &mut chunk[(folio.index() % CHUNK) as usize]) else { return Ok(()) };
            let mut token = FolioToken::new(&self.physical, Pfn::new(*place));
            if folio.exchange(&mut token).is_ok() {
                *place = token.pfn().get();
            }
            Ok(())
        });
    }
}

/// An owner with nothing but the index.
impl MovableOps for PageIndex {
    fn name(&self) -> &str {
        &self.name
    }

    fn splits(&self) -> bool {
        true
    }

    fn migrate(&self, run: &mut MigrationRun<'_>) {
        self.repoint(run);
    }
}

impl Drop for PageIndex {
    fn drop(&mut self) {
        self.truncate(0..u32::MAX);
        self.remove(u32::MAX);
    }
}
