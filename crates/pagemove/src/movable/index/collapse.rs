//! Collapse of a file's pages into a folio of 2 MiB (Linux: `collapse_file` of `mm/khugepaged.c`).
//!
//! A move of all folios of an aligned 2 MiB at once, into the parts of one destination: block, flush, freeze, copy, exchange of the
//! index's places, rebind. Entries keep their rights and marks, and map single pages of the new folio. If it fails at any step
//! all is as before.

use alloc::vec::Vec;

use super::{CHUNK, EMPTY, NewPages, PageIndex, places_of, set_places};
use crate::{
    folio::{FolioRef, FrozenFolio, LockedFolio, Migration},
    frame::{Key, Kind, Marks},
    paging::FlushDebt,
    port::might_wait,
    report::{Counter, Reason},
    rmap::ReverseMap,
    units::{HUGE_ORDER, Order},
    zone::{AllocError, Effort, Request},
};

/// Why 2 MiB of a file were not collapsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotCollapsed {
    /// No 2 MiB page is free.
    #[error(transparent)]
    OutOfMemory(#[from] AllocError),
    /// A page is moving, locked, pinned, being written back, or otherwise held.
    #[error("a page is held or moving; try again")]
    Again,
    /// There is no page, or the pages are a driver's, or a device maps them: it would not be told.
    #[error("the pages are a driver's or a device's, or there are none")]
    Unsuitable,
}

impl PageIndex {
    /// Makes the pages of the aligned 2 MiB around page `index` one folio; pages that are missing are cleared, or read from the
    /// backing store. The owner calls it, so its callbacks aren't called. Sleeps, and compacts if that is set up ([`crate::compact::compact_for_allocations`]).
    pub fn collapse(&self, index: u32) -> Result<(), NotCollapsed> {
        might_wait(self.physical.machine());
        let first = index - index % CHUNK;
        let settings = self.pages.lock().new;
        if self.kind != Kind::File || settings.mapped_by != self.rmap.id() || self.is_chunk_empty(first) {
            return Err(NotCollapsed::Unsuitable);
        }
        // Before the locks, since it may compact.
        let request = Request::new(HUGE_ORDER, self.kind).with_effort(Effort::Compact);
        let new = self.physical.alloc_with(&settings.below.map_or(request, |below| request.below(below)))?;
        let old = self.lock_chunk(first)?;
        match &old[..] {
            [] => Err(NotCollapsed::Unsuitable),
            [whole] if whole.order() == HUGE_ORDER => Ok(()),
            folios if folios.iter().any(|folio| folio.key().rmap != self.rmap.id()) => Err(NotCollapsed::Unsuitable),
            _ => self.collapse_locked(first, old, new, settings),
        }
    }

    fn is_chunk_empty(&self, first: u32) -> bool {
        !self.pages.lock().chunks.contains_key(&(first / CHUNK))
    }

    /// Locks all folios of a chunk, without waiting.
    fn lock_chunk(&self, first: u32) -> Result<Vec<LockedFolio<'_>>, NotCollapsed> {
        let mut folios: Vec<LockedFolio<'_>> = Vec::new();
        let mut behind = first;
        let all = {
            let pages = self.pages.lock();
            let places = pages.chunks.get(&(first / CHUNK)).into_iter().flat_map(|chunk| chunk.iter());
            (first..).zip(places).filter(|&(_, &place)| place != EMPTY).all(|(index, &place)| {
                if index < behind {
                    return true;
                }
                let locked = self.physical.get(self.physical.frames().pfn(place)).map(FolioRef::try_lock);
                let Some(Ok(folio)) = locked else { return false };
                behind = index.saturating_add(folio.order().frames());
                folios.push(folio);
                true
            })
        };
        // The locks are dropped after the index's.
        if all { Ok(folios) } else { Err(NotCollapsed::Again) }
    }

    fn collapse_locked(
        &self,
        first: u32,
        old: Vec<LockedFolio<'_>>,
        new: FrozenFolio<'_>,
        settings: NewPages,
    ) -> Result<(), NotCollapsed> {
        let physical = &self.physical;
        // First, since it may take long, while the pages that exist can still be used.
        self.fill_holes(first, &old, &new);
        let part_of = |folio: &LockedFolio<'_>| new.pfn().up(folio.key().index - first);
        let mut moves: Vec<Migration> =
            old.iter().map(|folio| Migration::new(folio.pfn(), part_of(folio), folio.key(), folio.order())).collect();
        let mut debt = FlushDebt::new(physical);
        self.rmap.block(physical, &mut moves, true, &mut debt);
        debt.pay();
        let frozen = moves.iter().take_while(|folio| self.try_freeze(folio)).count();
        if frozen < moves.len() {
            return Err(self.undo(&mut moves, frozen));
        }
        for folio in &moves {
            physical.ram().copy_streaming(folio.src, folio.dst, folio.order.frames());
        }
        physical.ram().order_copies();
        let is_dirty = old.iter().any(|folio| physical.frame(folio.pfn()).state().marks().contains(Marks::DIRTY));
        let whole = match self.exchange(first, &old, new, settings) {
            Ok(whole) => whole,
            Err(unused) => {
                let failed = self.undo(&mut moves, frozen);
                drop(unused);
                return Err(failed);
            }
        };
        if is_dirty {
            whole.mark_dirty();
        }
        self.rmap.rebind(physical, &moves);
        physical.update_class(whole.pfn());
        physical.counters().add(Counter::ThpCollapseAlloc, 1);
        drop(whole);
        for folio in old {
            let pfn = folio.into_raw();
            // Still frozen, so there are no references. Waiters re-read the entry or the index.
            physical.frames().unlock_raw(pfn);
            physical.unmark_partly_mapped(pfn);
            physical.free(pfn);
        }
        Ok(())
    }

    /// Freezes a folio with no other users than the index and us.
    fn try_freeze(&self, folio: &Migration) -> bool {
        let frame = self.physical.frame(folio.src);
        let is_written_back = frame.state().marks().contains(Marks::WRITEBACK);
        !folio.stays() && !is_written_back && frame.freeze(2)
    }

    /// Ends the freeze of the first folios, and rebinds all in their old places.
    fn undo(&self, moves: &mut [Migration], frozen: usize) -> NotCollapsed {
        for folio in &moves[..frozen] {
            self.physical.frame(folio.src).thaw(2, 0);
        }
        moves.iter_mut().for_each(|folio| folio.stay(Reason::Referenced));
        self.rmap.rebind(&self.physical, moves);
        NotCollapsed::Again
    }

    /// Clears the pages that no folio has, or reads them.
    fn fill_holes(&self, first: u32, old: &[LockedFolio<'_>], new: &FrozenFolio<'_>) {
        let mut next = 0;
        let folios = old.iter().map(|folio| (folio.key().index - first, folio.order().frames())).chain([(CHUNK, 0)]);
        for (number, frames) in folios {
            for hole in next..number {
                self.physical.ram().zero(new.pfn().up(hole), Order::ZERO);
                if let Some(read) = &self.read {
                    read(first + hole, new.words(hole));
                }
            }
            next = number + frames;
        }
    }

    /// Puts the new folio into the places of the old ones; gives it back if a page was inserted beside them meanwhile, or the owner
    /// has changed.
    fn exchange<'p>(
        &self,
        first: u32,
        old: &[LockedFolio<'_>],
        new: FrozenFolio<'p>,
        settings: NewPages,
    ) -> Result<LockedFolio<'p>, FrozenFolio<'p>> {
        let mut pages = self.pages.lock();
        let now = pages.new;
        let Some(chunk) = pages.chunks.get_mut(&(first / CHUNK)) else { return Err(new) };
        // The places of locked folios can't change.
        let known: u32 = old.iter().map(|folio| folio.order().frames()).sum();
        let is_same = chunk.iter().filter(|&&pfn| pfn != EMPTY).count() as u32 == known;
        if !is_same || now.mapped_by != settings.mapped_by || !now.allow(&new) {
            return Err(new);
        }
        set_places(&mut chunk[places_of(first, HUGE_ORDER)], self.physical.frames().number(new.pfn()));
        Ok(new.publish_owned(now.owner, Key { rmap: now.mapped_by, index: first }))
    }
}
