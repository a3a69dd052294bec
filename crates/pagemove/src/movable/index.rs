//! An index of pages by page offset, in folios of one or more, for page caches and most drivers (Linux: `struct
//! address_space`).
//!
//! # Protocol
//! Each place has the frame of its page; the places of a folio hold one reference together. The index's lock nests
//! inside the folios' locks, and is held only to read or change places. Taking a page out needs its folio's lock, so a
//! moving page stays in its place until the move is over. A look-up meanwhile finds it frozen or locked, waits, and
//! looks again. A split of a folio changes no place: each page has its frame, and then its reference.

mod collapse;

pub use collapse::NotCollapsed;

use alloc::{boxed::Box, collections::BTreeMap, string::String, sync::Arc, vec::Vec};
use core::ops::{Range, RangeInclusive};

use super::{FolioToken, MigrationRun, MovableOps, Registration};
use crate::{
    folio::{FolioRef, FrozenFolio, LockedFolio},
    frame::{Key, Kind, Marks},
    paging::FlushDebt,
    report::Reason,
    rmap::{RangeMap, Registry, ReverseMap, split_folio},
    sync::{Mutex, Ordering},
    units::{HUGE_ORDER, Order, Orders, Pfn},
    zone::{AllocError, Effort, Physical, Request},
};

const CHUNK: u32 = 512;
const EMPTY: u32 = u32::MAX;

/// How often a split for a truncation is tried while somebody has another reference. Those of look-ups go soon.
const MAX_TRIES: u32 = 100_000;

/// Most pages that one flush takes out.
const BATCH: usize = 64;

type Chunk = Box<[u32; CHUNK as usize]>;

/// Reverse maps by their numbers, if they still exist, the current one last. Kept until the folios' locks are released:
/// dropping the last `Arc` of a device's map may free pages, and wait for their locks.
type KnownMaps = Vec<(u32, Option<Arc<dyn ReverseMap>>)>;

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
    orders: Orders,
    /// No folio of an order above 0 reaches beyond this page.
    end: u32,
}

impl NewPages {
    fn allow(self, folio: &FrozenFolio<'_>) -> bool {
        self.below.is_none_or(|below| folio.pfn().up(folio.order().frames() - 1) < below)
    }
}

impl Pages {
    /// Gives the largest order of a folio for the page at `index`: whose places are empty, and that ends before `end`.
    fn largest_at(&self, index: u32) -> Order {
        let is_empty = |order: &Order| {
            let first = index & !(order.frames() - 1);
            let chunk = self.chunks.get(&(first / CHUNK));
            let is_free = |chunk: &Chunk| chunk[places_of(first, *order)].iter().all(|&place| place == EMPTY);
            first.checked_add(order.frames()).is_some_and(|end| end <= self.new.end) && chunk.is_none_or(is_free)
        };
        self.new.orders.downwards().find(is_empty).unwrap_or(Order::ZERO)
    }
}

/// Gives the places of a folio in its chunk.
fn places_of(first: u32, order: Order) -> Range<usize> {
    let at = (first % CHUNK) as usize;
    at..at + order.frames() as usize
}

/// Puts the frames of a folio into its places, by their numbers, which are consecutive.
fn set_places(places: &mut [u32], head: u32) {
    places.iter_mut().zip(head..).for_each(|(place, number)| *place = number);
}

/// Reads the page at an offset from its backing store into the words. Called with the page locked: the rules of
/// [`LockedFolio`] apply.
pub type ReadPage = dyn Fn(u32, &[crate::sync::AtomicU64; 512]) + Send + Sync;

/// Why a page can't be had at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LookUpError {
    /// It is locked, by a move for example, or is to be read from the backing store.
    #[error("the page is locked, or not read yet")]
    NotReady,
    /// Out of memory.
    #[error(transparent)]
    OutOfMemory(#[from] AllocError),
}

/// The result of a look-up that doesn't wait.
enum Found<'p> {
    Nothing,
    Locked(LockedFolio<'p>),
    /// The folio of this frame is locked.
    Busy(Pfn),
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
            rmaps: rmaps.clone(),
            pages: Mutex::new(Pages {
                chunks: BTreeMap::new(),
                new: NewPages { mapped_by: rmap.id(), owner: 0, below: None, orders: Orders::BASE, end: 0 },
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

    /// Sets the orders of folios that look-ups insert from now on, where one fits before page `end` and is free. An owner
    /// whose folios may be split says so ([`MovableOps::splits`]).
    pub fn set_orders(&self, orders: Orders, end: u32) {
        let new = &mut self.pages.lock().new;
        (new.orders, new.end) = (orders, end);
    }

    /// Gives the orders of the folios that look-ups insert.
    pub fn orders(&self) -> Orders {
        self.pages.lock().new.orders
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
        self.pages.lock().chunks.values().flat_map(|chunk| chunk.iter()).filter(|&&place| place != EMPTY).count()
    }

    /// Tells whether there is no page.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Gives the current frame of the page at `index`; the page may move at any time.
    pub fn peek(&self, index: u32) -> Option<Pfn> {
        let pages = self.pages.lock();
        let place = pages.chunks.get(&(index / CHUNK))?[(index % CHUNK) as usize];
        (place != EMPTY).then(|| self.physical.frames().pfn(place))
    }

    /// Finds and locks the folio of the page at `index`; waits for a move of it.
    pub fn lock_page(&self, index: u32) -> Option<LockedFolio<'_>> {
        loop {
            match self.look_up(index) {
                Found::Nothing => return None,
                Found::Locked(folio) => return Some(folio),
                Found::Busy(pfn) => drop(self.physical.frames().wait_unlocked(pfn)),
            }
        }
    }

    fn look_up(&self, index: u32) -> Found<'_> {
        loop {
            let (pfn, folio) = {
                let pages = self.pages.lock();
                let Some(chunk) = pages.chunks.get(&(index / CHUNK)) else { return Found::Nothing };
                let place = chunk[(index % CHUNK) as usize];
                if place == EMPTY {
                    return Found::Nothing;
                }
                let pfn = self.physical.frames().pfn(place);
                // The place holds a reference, so this fails only if a move has frozen the folio.
                (pfn, self.physical.get(pfn))
            };
            let Some(Ok(folio)) = folio.map(FolioRef::try_lock) else { return Found::Busy(pfn) };
            if self.peek(index) == Some(pfn) {
                return Found::Locked(folio);
            }
            // It was moved or taken out before it was locked.
        }
    }

    /// Finds and locks the folio of the page at `index`. If there is none, inserts a new one, cleared or read from the
    /// backing store. Waits for a move of it.
    pub fn lock_or_insert(&self, index: u32) -> Result<LockedFolio<'_>, AllocError> {
        loop {
            if let Some(folio) = self.lock_page(index) {
                return Ok(folio);
            }
            if let Some(folio) = self.insert_new(index)? {
                if let Some(read) = &self.read {
                    let first = folio.key().index;
                    (0..folio.order().frames()).for_each(|page| read(first + page, folio.words(page)));
                }
                return Ok(folio);
            }
        }
    }

    /// As [`Self::lock_or_insert`], but doesn't sleep: it fails if the page is locked, or is to be read from the backing store.
    pub fn try_lock_or_insert(&self, index: u32) -> Result<LockedFolio<'_>, LookUpError> {
        loop {
            match self.look_up(index) {
                Found::Locked(folio) => return Ok(folio),
                Found::Nothing if self.read.is_none() => {}
                Found::Nothing | Found::Busy(_) => return Err(LookUpError::NotReady),
            }
            if let Some(folio) = self.insert_new(index)? {
                return Ok(folio);
            }
        }
    }

    /// Inserts a new folio, cleared, for the page at `index`. `None` if somebody else has inserted one.
    fn insert_new(&self, index: u32) -> Result<Option<LockedFolio<'_>>, AllocError> {
        let (first, mut folio) = self.new_folio(index)?;
        folio.zero();
        Ok(self.insert_frozen(first, folio).ok().map(LockedFolio::fresh))
    }

    /// Allocates a folio for the page at `index`; gives the index of its first page.
    fn new_folio(&self, index: u32) -> Result<(u32, FrozenFolio<'_>), AllocError> {
        let (new, largest) = {
            let pages = self.pages.lock();
            (pages.new, pages.largest_at(index))
        };
        let request = |order| {
            let request = Request::new(order, self.kind);
            new.below.map_or(request, |below| request.below(below))
        };
        for order in new.orders.downwards().filter(|&order| order <= largest && order > Order::ZERO) {
            if let Ok(folio) = self.physical.alloc_with(&request(order).with_effort(Effort::Lists)) {
                return Ok((index & !(order.frames() - 1), folio));
            }
        }
        match new.below {
            None => Ok((index, self.physical.alloc(Order::ZERO, self.kind)?)),
            Some(_) => Ok((index, self.physical.alloc_with(&request(Order::ZERO))?)),
        }
    }

    /// Inserts a folio that the caller has allocated and filled, from `index` on; returns it if a page is there already.
    /// Panics unless it's of this index's kind and memory, within the owner's bound, of at most 2 MiB, and `index` is
    /// aligned to its size.
    pub fn insert<'p>(&'p self, index: u32, folio: FrozenFolio<'p>) -> Result<LockedFolio<'p>, FrozenFolio<'p>> {
        let state = self.physical.frame(folio.pfn()).state();
        let fits = Arc::ptr_eq(folio.physical(), &self.physical) && state.kind() == self.kind;
        let is_within = self.pages.lock().new.allow(&folio);
        let is_aligned = state.order() <= HUGE_ORDER && index.is_multiple_of(state.order().frames());
        let fits = fits && is_within && is_aligned;
        assert!(fits, "folio {} can't be a page of \"{}\"", folio.pfn(), self.name);
        self.insert_frozen(index, folio)
    }

    /// Returns the folio if there is a page already, or if the owner has changed and its bound excludes it.
    fn insert_frozen<'p>(&'p self, index: u32, folio: FrozenFolio<'p>) -> Result<LockedFolio<'p>, FrozenFolio<'p>> {
        let mut pages = self.pages.lock();
        let new = pages.new;
        let chunk = pages.chunks.entry(index / CHUNK).or_insert_with(|| Box::new([EMPTY; CHUNK as usize]));
        let places = &mut chunk[places_of(index, folio.order())];
        if places.iter().any(|&place| place != EMPTY) || !new.allow(&folio) {
            return Err(folio);
        }
        set_places(places, self.physical.frames().number(folio.pfn()));
        Ok(folio.publish_owned(new.owner, Key { rmap: new.mapped_by, index }))
    }

    /// Takes the page at `index` out and removes all its mappings; the last reference frees it. Waits for a move of it.
    /// False if there was no page.
    pub fn remove(&self, index: u32) -> bool {
        let Some(folio) = self.lock_page(index) else { return false };
        let mut maps = KnownMaps::new();
        let (parts, _) = self.cut(folio, &(index..=index), &mut maps);
        self.take_out(parts, maps);
        true
    }

    /// Gives the folios with the pages of `range` that `folio` has, and the page behind them; splits it if it has others.
    ///
    /// If it can't be split, since a device has pinned it, say, the pages stay in their places, unmapped, and as if they
    /// were new (Linux: `truncate_inode_partial_folio`).
    fn cut<'p>(
        &'p self,
        mut folio: LockedFolio<'p>,
        range: &RangeInclusive<u32>,
        maps: &mut KnownMaps,
    ) -> (Vec<LockedFolio<'p>>, Option<u32>) {
        let mut tries = 0;
        loop {
            let first = folio.key().index;
            let last = first + (folio.order().frames() - 1);
            let behind = last.checked_add(1);
            if range.contains(&first) && range.contains(&last) {
                return (alloc::vec![folio], behind);
            }
            let map = self.map_of(&folio, maps);
            // Each place has its page's frame already.
            match split_folio(folio, Some(map), true, || ()) {
                Ok(mut parts) => {
                    parts.retain(|part| range.contains(&part.key().index));
                    return (parts, behind);
                }
                Err((held, reason)) if reason == Reason::Pinned || tries == MAX_TRIES => {
                    self.clear(&held, range, maps);
                    return (Vec::new(), behind);
                }
                // Whoever waits for the lock has the reference that is in our way.
                Err((held, _)) => drop(held),
            }
            tries += 1;
            self.physical.machine().pause();
            match self.lock_page(first.max(*range.start())) {
                Some(again) => folio = again,
                None => return (Vec::new(), first.max(*range.start()).checked_add(1)),
            }
        }
    }

    /// Unmaps a locked folio, and clears its pages of `range`, or reads them from the backing store.
    fn clear(&self, folio: &LockedFolio<'_>, range: &RangeInclusive<u32>, maps: &mut KnownMaps) {
        let mut debt = FlushDebt::new(&self.physical);
        self.map_of(folio, maps).unmap(folio, &mut debt);
        debt.pay();
        let first = folio.key().index;
        for page in (0..folio.order().frames()).filter(|page| range.contains(&(first + page))) {
            let words = folio.words(page);
            // A device may write it at the same time. Relaxed: the folio's lock orders.
            words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
            if let Some(read) = &self.read {
                read(first + page, words);
            }
        }
    }

    /// Takes out all pages of `range`, as [`Self::remove`] does, with one flush for up to 64 folios.
    pub fn truncate(&self, range: Range<u32>) {
        if !range.is_empty() {
            self.take_out_all(range.start..=range.end - 1);
        }
    }

    fn take_out_all(&self, range: RangeInclusive<u32>) {
        let mut from = *range.start();
        while let Some(first) = self.next_index(from).filter(|index| range.contains(index)) {
            let left = first..=*range.end();
            let mut folios = self.try_lock_folios(&left);
            let end_of = |folio: &LockedFolio<'_>| folio.key().index.checked_add(folio.order().frames());
            let mut next = folios.last().map_or(Some(first), end_of);
            let mut maps = KnownMaps::new();
            if folios.is_empty() {
                // Wait, or split, only while we hold no other page, since its holder may need one of those.
                let Some(folio) = self.lock_page(first) else { continue };
                (folios, next) = self.cut(folio, &left, &mut maps);
            }
            self.take_out(folios, maps);
            let Some(next) = next else { return };
            from = next;
        }
    }

    /// Locks folios of `range` from its start, until one would have to be waited for or split, or a batch is full.
    fn try_lock_folios(&self, range: &RangeInclusive<u32>) -> Vec<LockedFolio<'_>> {
        let pages = self.pages.lock();
        let places = pages.chunks.range(range.start() / CHUNK..).flat_map(|(&number, chunk)| {
            (0..CHUNK).zip(chunk.iter()).map(move |(at, &pfn)| (number * CHUNK + at, pfn))
        });
        let mut behind = *range.start();
        let mut folios = Vec::new();
        for (index, place) in places.filter(|&(index, place)| place != EMPTY && range.contains(&index)) {
            if index < behind {
                continue;
            }
            // Under the index's lock, so each page stays in its place; so its own lock must not be waited for.
            let folio = self.physical.get(self.physical.frames().pfn(place));
            let Some(Ok(folio)) = folio.map(FolioRef::try_lock) else { break };
            let last = folio.key().index + (folio.order().frames() - 1);
            if folio.key().index != index || !range.contains(&last) || folios.len() == BATCH {
                break;
            }
            folios.push(folio);
            let Some(next) = last.checked_add(1) else { break };
            behind = next;
        }
        folios
    }

    /// Takes out folios that the caller has locked, and drops the index's references. `maps` are those that the caller has
    /// looked up.
    fn take_out(&self, folios: Vec<LockedFolio<'_>>, mut maps: KnownMaps) {
        // Unmapped first: a thread that finds the place empty may rely on the page being unmapped. We hold the lock
        // that mapping it needs.
        let mut debt = FlushDebt::new(&self.physical);
        for folio in &folios {
            self.map_of(folio, &mut maps).unmap(folio, &mut debt);
        }
        debt.pay();
        let mut index = self.pages.lock();
        let chunk_of = |folio: &LockedFolio<'_>| folio.key().index / CHUNK;
        for of_chunk in folios.chunk_by(|one, next| chunk_of(one) == chunk_of(next)) {
            let number = chunk_of(&of_chunk[0]);
            let Some(chunk) = index.chunks.get_mut(&number) else { continue };
            for folio in of_chunk {
                chunk[places_of(folio.key().index, folio.order())].fill(EMPTY);
            }
            if chunk.iter().all(|&place| place == EMPTY) {
                index.chunks.remove(&number);
            }
        }
        drop(index);
        folios.iter().for_each(LockedFolio::give_up);
        drop(folios);
        drop(maps);
    }

    /// Gives the reverse map that a locked folio's key names, which may be a device's. If that is gone, only processes'
    /// mappings can be left.
    fn map_of<'m>(&'m self, folio: &LockedFolio<'_>, known: &'m mut KnownMaps) -> &'m dyn ReverseMap {
        let number = folio.key().rmap;
        if known.last().is_none_or(|(last, _)| *last != number) {
            known.push((number, self.rmaps.get(number)));
        }
        match known.last() {
            Some((_, Some(map))) => &**map,
            _ => &*self.rmap,
        }
    }

    /// Takes out the clean and unused pages of `range`, and gives their number (Linux: `invalidate_mapping_pages`).
    pub fn drop_clean(&self, range: Range<u32>) -> u32 {
        let (mut from, mut dropped) = (range.start, 0);
        while let Some(index) = self.next_index(from).filter(|index| range.contains(index)) {
            let mut last = index;
            if let Some(folio) = self.lock_page(index) {
                let (frame, pages) = (self.physical.frame(folio.pfn()), folio.order().frames());
                last = folio.key().index + (pages - 1);
                let is_within = range.contains(&folio.key().index) && range.contains(&last);
                // Read once, and before the mark: a munmap marks, uncounts, and then gives its reference back.
                let counts = frame.counts();
                let is_unused = counts.maps() == 0 && counts.refs() == 2;
                if is_within && is_unused && !frame.state().marks().contains(Marks::DIRTY) {
                    self.take_out(alloc::vec![folio], KnownMaps::new());
                    dropped += pages;
                }
            }
            let Some(next) = last.checked_add(1) else { break };
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
            let at = chunk.iter().skip(skip as usize).position(|&place| place != EMPTY)?;
            Some(base + skip + at as u32)
        })
    }

    /// Points the places of moving pages to their destinations; for a driver's `migrate`. Skips pages of the driver's
    /// other indexes.
    pub fn repoint(&self, run: &mut MigrationRun<'_>) {
        // Locked once for the run.
        let mut pages = self.pages.lock();
        run.for_each(|folio| {
            let is_placed = folio.order() <= HUGE_ORDER && folio.index().is_multiple_of(folio.order().frames());
            let chunk = pages.chunks.get_mut(&(folio.index() / CHUNK)).filter(|_| is_placed);
            let Some(chunk) = chunk else { return Ok(()) };
            let places = &mut chunk[places_of(folio.index(), folio.order())];
            if places[0] == EMPTY {
                return Ok(());
            }
            let frames = self.physical.frames();
            let mut token = FolioToken::new(&self.physical, frames.pfn(places[0]));
            if folio.exchange(&mut token).is_ok() {
                set_places(places, frames.number(token.pfn()));
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
        self.take_out_all(0..=u32::MAX);
    }
}
