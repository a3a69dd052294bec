//! An index of pages: what a page cache is, and what most drivers need. Gives each page a place, and moves it in place.
//!
//! # Protocol
//! A place holds one reference to its frame. The index's lock is below the frame's, and held only to read or change a
//! place. To take a page out its frame must be locked; so a page that moves stays in its place until the move is over,
//! and who looks it up meanwhile finds it frozen or locked, waits, and looks again.

use alloc::{boxed::Box, collections::BTreeMap, string::String, sync::Arc};
use core::ops::Range;

use super::{MovableOps, OwnedMove, Refusal};
use crate::{
    frame::{Key, Kind, Marks},
    paging::FlushDebt,
    rmap::{RangeMap, Registry, ReverseMap},
    sync::{AtomicU32, Mutex, Ordering},
    units::{Order, Pfn},
    zone::{AllocError, Physical, PinnedPage},
};

const CHUNK: u32 = 512;
const EMPTY: u32 = u32::MAX;

type Chunk = Box<[u32; CHUNK as usize]>;

/// Pages by index, each movable; with the reverse map of what maps them.
pub struct PageIndex {
    name: String,
    kind: Kind,
    physical: Arc<Physical>,
    rmaps: Arc<Registry<dyn ReverseMap>>,
    rmap: Arc<RangeMap>,
    // The number that its pages' keys name: of `rmap`, or of a device's map that asks `rmap` as well.
    mapped_by: AtomicU32,
    owner: AtomicU32,
    read: Option<Box<ReadPage>>,
    chunks: Mutex<BTreeMap<u32, Chunk>>,
}

/// Reads a page from its backing store: gets the page offset, and fills the page's words. Called with the page locked, so what
/// [`LockedPage`] says holds.
pub type ReadPage = dyn Fn(u32, &[crate::sync::AtomicU64; 512]) + Send + Sync;

/// A page held by reference and lock: it can't move, be freed or be truncated until this is dropped.
///
/// Whoever holds it must not access user memory that may map the page: a fault there waits for the lock (also copy-on-write of a
/// private mapping).
pub struct LockedPage<'a> {
    physical: &'a Arc<Physical>,
    pfn: Pfn,
    fresh: bool,
}

impl LockedPage<'_> {
    /// Names the frame.
    pub fn pfn(&self) -> Pfn {
        self.pfn
    }

    /// Tells whether the look-up that gave the page has just allocated and cleared it.
    pub fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// Views the contents, which others may write at the same time.
    pub fn words(&self) -> &[crate::sync::AtomicU64; 512] {
        self.physical.ram_words(self.pfn)
    }

    /// Marks the page as written to.
    pub fn mark_dirty(&self) {
        self.physical.frame(self.pfn).mark(Marks::DIRTY);
    }

    /// Pins the page for `who`, a device of the driver's that reads and writes it: it stays where it is until the pin is
    /// dropped, though it be freed meanwhile.
    pub fn pin(&self, who: &str) -> PinnedPage {
        self.keep_reference();
        PinnedPage::new(self.physical, self.pfn, true, who)
    }

    /// Takes one more reference, which outlives this hold.
    pub(crate) fn keep_reference(&self) {
        self.physical.frame(self.pfn).get();
    }
}

impl Drop for LockedPage<'_> {
    fn drop(&mut self) {
        self.physical.unlock_and_put(self.pfn);
    }
}

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
            mapped_by: AtomicU32::new(rmap.id()),
            rmaps: rmaps.clone(),
            rmap,
            owner: AtomicU32::new(0),
            read,
            chunks: Mutex::new(BTreeMap::new()),
        })
    }

    /// Names the registration whose callbacks move the pages that are inserted from now on.
    pub fn set_owner(&self, registration: &super::Registration) {
        self.owner.store(registration.number(), Ordering::Relaxed);
    }

    /// Names the reverse map in which the mappings of the pages are found that are inserted from now on, by its number in
    /// [`Engine::reverse_maps`](crate::Engine::reverse_maps): that of a device with page tables of its own. It must pass
    /// all its calls on to [`Self::reverse_map`] too, where processes' mappings are.
    pub fn set_reverse_map(&self, number: u32) {
        self.mapped_by.store(number, Ordering::Relaxed);
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
        self.chunks.lock().values().flat_map(|chunk| chunk.iter()).filter(|&&pfn| pfn != EMPTY).count()
    }

    /// Tells whether no page is there.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tells the frame of the page at `index` right now; it may move at any time.
    pub fn peek(&self, index: u32) -> Option<Pfn> {
        let chunks = self.chunks.lock();
        let pfn = chunks.get(&(index / CHUNK))?[(index % CHUNK) as usize];
        (pfn != EMPTY).then(|| Pfn::new(pfn))
    }

    /// Finds the page at `index` and locks it; waits for its move if one is under way.
    pub fn lock_page(&self, index: u32) -> Option<LockedPage<'_>> {
        loop {
            let pfn = {
                let chunks = self.chunks.lock();
                let pfn = chunks.get(&(index / CHUNK))?[(index % CHUNK) as usize];
                if pfn == EMPTY {
                    return None;
                }
                let pfn = Pfn::new(pfn);
                // Our place's own reference is there, unless a move has frozen it.
                if !self.physical.frame(pfn).try_get() {
                    drop(chunks);
                    self.physical.frames().wait_unlocked(pfn);
                    continue;
                }
                pfn
            };
            self.physical.frames().lock_raw(pfn);
            let page = LockedPage { physical: &self.physical, pfn, fresh: false };
            if self.peek(index) == Some(pfn) {
                return Some(page);
            }
            // Moved or taken out while we waited for the lock.
        }
    }

    /// Finds the page at `index`, or puts a new one there, cleared or as its store has it; locked.
    pub fn lock_or_insert(&self, index: u32) -> Result<LockedPage<'_>, AllocError> {
        loop {
            if let Some(page) = self.lock_page(index) {
                return Ok(page);
            }
            let pfn = self.physical.alloc(Order::ZERO, self.kind)?;
            self.physical.ram().zero(pfn, Order::ZERO);
            if let Some(mut page) = self.insert(index, pfn) {
                page.fresh = true;
                if let Some(read) = &self.read {
                    read(index, page.words());
                }
                return Ok(page);
            }
            self.physical.put(pfn);
        }
    }

    /// Puts a frame, allocated as this index's kind and the caller's alone, at `index`; `None` if there is a page already.
    pub fn insert(&self, index: u32, pfn: Pfn) -> Option<LockedPage<'_>> {
        let frame = self.physical.frame(pfn);
        // Nobody else holds it; locked before it's visible, so that no move sees it half made.
        self.physical.frames().lock_raw(pfn);
        let mut chunks = self.chunks.lock();
        let chunk = chunks.entry(index / CHUNK).or_insert_with(|| Box::new([EMPTY; CHUNK as usize]));
        let place = &mut chunk[(index % CHUNK) as usize];
        if *place != EMPTY {
            drop(chunks);
            self.physical.frames().unlock_raw(pfn);
            return None;
        }
        // Relaxed: numbers only; what they name is found under the registries' locks.
        frame
            .set_owner(self.owner.load(Ordering::Relaxed), Key { rmap: self.mapped_by.load(Ordering::Relaxed), index });
        // One for the place, one for the hold that is returned.
        frame.get();
        *place = pfn.get();
        Some(LockedPage { physical: &self.physical, pfn, fresh: false })
    }

    /// Takes the page at `index` out, removes every mapping of it, and frees it once the last reference is gone.
    /// Waits for its move. Gives false if there was none.
    pub fn remove(&self, index: u32) -> bool {
        // Dropped after the page's lock: the last hold of a device's map may free pages, and wait for their locks.
        let _map;
        let Some(page) = self.lock_page(index) else { return false };
        _map = self.take_out(index, &page);
        true
    }

    /// Gives the reverse map that it asked, to be dropped without a frame's lock.
    fn take_out(&self, index: u32, page: &LockedPage<'_>) -> Option<Arc<dyn ReverseMap>> {
        // Unmapped first: who finds the place empty may rely on nobody seeing the page any more. Nobody maps it again, for
        // that needs the lock that we hold.
        let mut debt = FlushDebt::new(&self.physical);
        // By the map that the page's key names, a device's perhaps. One that is gone has no mappings left; processes may.
        let map = self.rmaps.get(self.physical.frame(page.pfn).key().rmap);
        match &map {
            Some(map) => map.unmap(&self.physical, index, page.pfn, &mut debt),
            None => self.rmap.unmap(&self.physical, index, page.pfn, &mut debt),
        }
        debt.pay();
        {
            let mut chunks = self.chunks.lock();
            if let Some(chunk) = chunks.get_mut(&(index / CHUNK)) {
                chunk[(index % CHUNK) as usize] = EMPTY;
                if chunk.iter().all(|&pfn| pfn == EMPTY) {
                    chunks.remove(&(index / CHUNK));
                }
            }
        }
        // Whoever still holds it holds a frame that belongs to nobody: it stays where it is until they let go.
        let frame = self.physical.frame(page.pfn);
        frame.set_owner(0, Key::default());
        if frame.refs() > 2 {
            frame.mark(Marks::TRUNCATED);
            self.physical.update_class(page.pfn);
        }
        self.physical.put(page.pfn);
        map
    }

    /// Takes out all pages of `range`; each as [`Self::remove`] does.
    pub fn truncate(&self, range: Range<u32>) {
        let mut from = range.start;
        while let Some(index) = self.next_index(from).filter(|index| range.contains(index)) {
            self.remove(index);
            let Some(next) = index.checked_add(1) else { return };
            from = next;
        }
    }

    /// Takes out the pages of `range` that nobody has written to since they were read from their backing store, and that
    /// nobody uses; as dropping clean caches does. Gives their number.
    pub fn drop_clean(&self, range: Range<u32>) -> u32 {
        let (mut from, mut dropped) = (range.start, 0);
        while let Some(index) = self.next_index(from).filter(|index| range.contains(index)) {
            let _map;
            if let Some(page) = self.lock_page(index) {
                let frame = self.physical.frame(page.pfn);
                if frame.maps() == 0 && frame.refs() == 2 && !frame.state().marks().contains(Marks::DIRTY) {
                    _map = self.take_out(index, &page);
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
        let chunks = self.chunks.lock();
        chunks.range(from / CHUNK..).find_map(|(&number, chunk)| {
            let base = number * CHUNK;
            let skip = from.saturating_sub(base);
            let at = chunk.iter().skip(skip as usize).position(|&pfn| pfn != EMPTY)?;
            Some(base + skip + at as u32)
        })
    }

    /// Points the place of a moving page to its new frame; for a driver's `migrate`.
    pub fn repoint(&self, page: &OwnedMove<'_>) -> Result<(), Refusal> {
        let mut chunks = self.chunks.lock();
        let place = chunks.get_mut(&(page.index / CHUNK)).map(|chunk| &mut chunk[(page.index % CHUNK) as usize]);
        match place {
            Some(place) if *place == page.from.get() => {
                *place = page.to.get();
                Ok(())
            }
            _ => Err(Refusal::No),
        }
    }
}

/// The plain case: the copy takes the page's place.
impl MovableOps for PageIndex {
    fn name(&self) -> &str {
        &self.name
    }

    fn migrate(&self, page: &OwnedMove<'_>) -> Result<(), Refusal> {
        self.repoint(page)
    }
}

impl Drop for PageIndex {
    fn drop(&mut self) {
        self.truncate(0..u32::MAX);
        self.remove(u32::MAX);
    }
}
