//! An index of pages: what a page cache is, and what most drivers need. Gives each page a place, and moves it in place.
//!
//! # Protocol
//! A place holds one reference to its frame. The index's lock is below the frame's, and held only to read or change a
//! place. To take a page out its frame must be locked; so a page that moves stays in its place until the move is over,
//! and who looks it up meanwhile finds it frozen or locked, waits, and looks again.

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

/// Pages taken out with one flush.
const BATCH: usize = 64;

type Chunk = Box<[u32; CHUNK as usize]>;

/// Pages by index, each movable; with the reverse map of what maps them.
pub struct PageIndex {
    name: String,
    kind: Kind,
    physical: Arc<Physical>,
    rmaps: Arc<Registry<dyn ReverseMap>>,
    rmap: Arc<RangeMap>,
    read: Option<Box<ReadPage>>,
    pages: Mutex<Pages>,
}

/// What the index's lock guards.
struct Pages {
    chunks: BTreeMap<u32, Chunk>,
    new: NewPages,
}

/// What pages get that are inserted from now on.
#[derive(Clone, Copy)]
struct NewPages {
    /// The number that their keys name: of the processes' map, or of a device's that asks it as well.
    mapped_by: u32,
    owner: u32,
    below: Option<Pfn>,
}

impl NewPages {
    fn allow(self, folio: &FrozenFolio<'_>) -> bool {
        self.below.is_none_or(|below| folio.pfn() < below)
    }
}

/// Reads a page from its backing store: gets the page offset, and fills the page's words. Called with the page locked, so what
/// [`LockedFolio`] says holds.
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

    /// Names the registration whose callbacks move the pages that are inserted from now on; they are allocated within its bound.
    /// Panics if it's of another engine.
    pub fn set_owner(&self, registration: &Registration) {
        assert!(registration.is_of(&self.physical), "\"{}\" can't be owned by a driver of another engine", self.name);
        let new = &mut self.pages.lock().new;
        (new.owner, new.below) = (registration.number(), registration.below());
    }

    /// Names the reverse map in which the mappings of the pages are found that are inserted from now on, by its number in
    /// [`Engine::reverse_maps`](crate::Engine::reverse_maps): that of a device with page tables of its own. It must pass
    /// all its calls on to [`Self::reverse_map`] too, where processes' mappings are.
    pub fn set_reverse_map(&self, number: u32) {
        self.pages.lock().new.mapped_by = number;
    }

    /// Gives the reverse map of the processes that map the pages: the file's, for a driver's `f_mapping`.
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

    /// Tells whether no page is there.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tells the frame of the page at `index` right now; it may move at any time.
    pub fn peek(&self, index: u32) -> Option<Pfn> {
        let pages = self.pages.lock();
        let pfn = pages.chunks.get(&(index / CHUNK))?[(index % CHUNK) as usize];
        (pfn != EMPTY).then(|| Pfn::new(pfn))
    }

    /// Finds the page at `index` and locks it; waits for its move if one is under way.
    pub fn lock_page(&self, index: u32) -> Option<LockedFolio<'_>> {
        loop {
            let pfn = {
                let pages = self.pages.lock();
                let pfn = pages.chunks.get(&(index / CHUNK))?[(index % CHUNK) as usize];
                if pfn == EMPTY {
                    return None;
                }
                let pfn = Pfn::new(pfn);
                // Our place's own reference is there, unless a move has frozen it.
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
            // Moved or taken out while we waited for the lock.
        }
    }

    /// Finds the page at `index`, or puts a new one there, cleared or as its store has it; locked.
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

    /// Puts a page that the caller has allocated and filled at `index`; gives it back if there is a page already. Panics unless it's
    /// a base page of this index's kind and memory, within the owner's bound.
    pub fn insert<'p>(&'p self, index: u32, folio: FrozenFolio<'p>) -> Result<LockedFolio<'p>, FrozenFolio<'p>> {
        let state = self.physical.frame(folio.pfn()).state();
        let fits = Arc::ptr_eq(folio.physical(), &self.physical) && state.kind() == self.kind;
        let is_within = self.pages.lock().new.allow(&folio);
        let fits = fits && is_within && state.order() == Order::ZERO;
        assert!(fits, "folio {} can't be a page of \"{}\"", folio.pfn(), self.name);
        self.insert_frozen(index, folio)
    }

    /// Gives the folio back if there is a page already, or if the owner has changed and doesn't allow it.
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

    /// Takes the page at `index` out, removes every mapping of it, and frees it once the last reference is gone.
    /// Waits for its move. Gives false if there was none.
    pub fn remove(&self, index: u32) -> bool {
        let Some(page) = self.lock_page(index) else { return false };
        self.take_out(alloc::vec![(index, page)]);
        true
    }

    /// Takes out all pages of `range`, as [`Self::remove`] does; with one flush for up to 64 of them.
    pub fn truncate(&self, range: Range<u32>) {
        let mut from = range.start;
        while let Some(first) = self.next_index(from).filter(|index| range.contains(index)) {
            let mut pages = self.try_lock_pages(first..range.end);
            if pages.is_empty() {
                // Waited for while we hold no other page: its holder may want one of those.
                pages.extend(self.lock_page(first).map(|page| (first, page)));
            }
            let last = pages.last().map_or(first, |&(index, _)| index);
            self.take_out(pages);
            let Some(next) = last.checked_add(1) else { return };
            from = next;
        }
    }

    /// Locks the pages of `range` from its start on, up to the first that can't be had at once, or to a batch.
    fn try_lock_pages(&self, range: Range<u32>) -> Vec<(u32, LockedFolio<'_>)> {
        let pages = self.pages.lock();
        let places = pages.chunks.range(range.start / CHUNK..).flat_map(|(&number, chunk)| {
            (0..CHUNK).zip(chunk.iter()).map(move |(at, &pfn)| (number * CHUNK + at, pfn))
        });
        let present = places.filter(|&(index, pfn)| pfn != EMPTY && range.contains(&index));
        // With the index's lock: a page stays in its place, and its lock isn't waited for.
        let lock = |(index, pfn)| Some((index, self.physical.get(Pfn::new(pfn))?.try_lock().ok()?));
        present.take(BATCH).map_while(lock).collect()
    }

    /// Takes pages out that the caller has locked, and gives them up.
    fn take_out(&self, pages: Vec<(u32, LockedFolio<'_>)>) {
        // Unmapped first: a thread that finds the place empty may rely on nobody seeing the page any more. Nobody maps it again,
        // since that needs the lock that we hold.
        let mut debt = FlushDebt::new(&self.physical);
        let mut maps: Vec<(u32, Option<Arc<dyn ReverseMap>>)> = Vec::new();
        for (index, page) in &pages {
            // By the map that the page's key names, a device's perhaps. One that is gone has no mappings left; processes may.
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
        // After the pages' locks: the last hold of a device's map may free pages, and wait for their locks.
        drop(maps);
    }

    /// Takes out the pages of `range` that nobody has written to since they were read from their backing store, and that
    /// nobody uses; as dropping clean caches does. Gives their number.
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

    /// Finds the first index from `from` on that has a page.
    pub fn next_index(&self, from: u32) -> Option<u32> {
        let pages = self.pages.lock();
        pages.chunks.range(from / CHUNK..).find_map(|(&number, chunk)| {
            let base = number * CHUNK;
            let skip = from.saturating_sub(base);
            let at = chunk.iter().skip(skip as usize).position(|&pfn| pfn != EMPTY)?;
            Some(base + skip + at as u32)
        })
    }

    /// Points the places of moving pages to their destinations; for a driver's `migrate`. Passes over pages of other indexes that the
    /// same driver has.
    pub fn repoint(&self, run: &mut MigrationRun<'_>) {
        // Once for the run.
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

/// The plain case: the copy takes the page's place.
impl MovableOps for PageIndex {
    fn name(&self) -> &str {
        &self.name
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
