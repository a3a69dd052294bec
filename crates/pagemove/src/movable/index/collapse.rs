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
    movable::Registration,
    paging::FlushDebt,
    port::might_wait,
    report::{Counter, Reason},
    rmap::ReverseMap,
    units::HUGE_ORDER,
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
    /// There is no page, or the file ends within the 2 MiB, or the pages are somebody else's, or a device maps them: it would
    /// not be told.
    #[error("the pages are a driver's or a device's, or there are none, or not enough")]
    Unsuitable,
}

/// More mappings than that of all pages together aren't moved to one folio, whose word counts up to 2^30.
const MOST_MAPPINGS: u64 = 1 << 28;

impl PageIndex {
    /// Makes the pages of the aligned 2 MiB around page `index` one folio, of a file with `end` pages. Brings pages that are
    /// missing, as [`Self::lock_or_insert`] does. Called by the owner of all these pages, so its callbacks aren't called.
    /// Sleeps, and compacts if that is set up ([`crate::compact::compact_for_allocations`]).
    pub fn collapse(&self, owner: &Registration, index: u32, end: u32) -> Result<(), NotCollapsed> {
        might_wait(self.physical.machine());
        let first = index - index % CHUNK;
        let settings = self.pages.lock().new;
        let is_within = first.checked_add(CHUNK).is_some_and(|behind| behind <= end);
        let is_ours = self.kind == Kind::File && settings.mapped_by == self.rmap.id();
        let is_owner = owner.is_of(&self.physical) && settings.owner == owner.number();
        if !is_within || !is_ours || !is_owner || self.is_chunk_empty(first) {
            return Err(NotCollapsed::Unsuitable);
        }
        // As long as it's held, the registration doesn't end.
        let _callback = owner.begin().ok_or(NotCollapsed::Unsuitable)?;
        // One by one, each locked only while it's read: reading a page may need another one of the file.
        for index in first..first + CHUNK {
            if self.peek(index).is_none() {
                drop(self.lock_or_insert(index)?);
            }
        }
        if self.is_whole(first) {
            return Ok(());
        }
        // Before the locks, since it may compact.
        let request = Request::new(HUGE_ORDER, self.kind).with_effort(Effort::Compact);
        let new = self.physical.alloc_with(&settings.below.map_or(request, |below| request.below(below)))?;
        let old = self.lock_chunk(first)?;
        let is_owned = |folio: &LockedFolio<'_>| {
            folio.key().rmap == self.rmap.id() && self.physical.frame(folio.pfn()).owner() == owner.number()
        };
        if !old.iter().all(is_owned) {
            return Err(NotCollapsed::Unsuitable);
        }
        let mappings: u64 = old.iter().map(|folio| u64::from(self.physical.frame(folio.pfn()).maps())).sum();
        match &old[..] {
            [whole] if whole.order() == HUGE_ORDER => Ok(()),
            _ if mappings > MOST_MAPPINGS => Err(NotCollapsed::Again),
            _ => self.collapse_locked(first, old, new, settings),
        }
    }

    fn is_chunk_empty(&self, first: u32) -> bool {
        !self.pages.lock().chunks.contains_key(&(first / CHUNK))
    }

    /// Tells whether the chunk is one folio already, at this moment.
    fn is_whole(&self, first: u32) -> bool {
        let folio = self.peek(first).and_then(|pfn| self.physical.get(pfn));
        folio.is_some_and(|folio| folio.order() == HUGE_ORDER && folio.key().index == first)
    }

    /// Locks all folios of a chunk, without waiting.
    fn lock_chunk(&self, first: u32) -> Result<Vec<LockedFolio<'_>>, NotCollapsed> {
        let mut folios: Vec<LockedFolio<'_>> = Vec::new();
        let mut behind = 0;
        let all = {
            let pages = self.pages.lock();
            let chunk = pages.chunks.get(&(first / CHUNK)).ok_or(NotCollapsed::Again)?;
            (0..).zip(chunk.iter()).all(|(number, &place)| {
                if number < behind {
                    return true;
                }
                if place == EMPTY {
                    return false;
                }
                let locked = self.physical.get(self.physical.frames().pfn(place)).map(FolioRef::try_lock);
                let Some(Ok(folio)) = locked else { return false };
                behind = number + folio.order().frames();
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
        let whole = match self.exchange(first, new, settings) {
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

    /// Puts the new folio into the places of the old ones, which can't change while these are locked; gives it back if the
    /// index's settings have changed.
    fn exchange<'p>(
        &self,
        first: u32,
        new: FrozenFolio<'p>,
        settings: NewPages,
    ) -> Result<LockedFolio<'p>, FrozenFolio<'p>> {
        let mut pages = self.pages.lock();
        let now = pages.new;
        let is_same = now.owner == settings.owner && now.mapped_by == settings.mapped_by;
        let Some(chunk) = pages.chunks.get_mut(&(first / CHUNK)).filter(|_| is_same) else { return Err(new) };
        set_places(&mut chunk[places_of(first, HUGE_ORDER)], self.physical.frames().number(new.pfn()));
        Ok(new.publish_owned(now.owner, Key { rmap: now.mapped_by, index: first }))
    }
}
