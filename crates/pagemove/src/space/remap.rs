//! mremap: moves a mapping to another address, or grows or shrinks it.

use super::{AddressSpace, SpaceError, Vma, Vmas, change::gap_around, find, overlapping, split::Stop};
use crate::{
    paging::{Cursor, Entry, FlushDebt, Format},
    units::{HUGE_ORDER, VirtAddr, VirtRange},
};

impl<F: Format> AddressSpace<F> {
    /// Moves the mapping of `old`, one mapping or a part of one, to `pages` pages at `to` (`None`: any free address, in
    /// place if possible). Fails if anything is mapped at `to`. Gives the new range.
    pub fn mremap(&self, old: VirtRange, pages: u32, to: Option<VirtAddr>) -> Result<VirtRange, SpaceError> {
        self.change(|vmas, gone| self.remap_locked(vmas, gone, old, pages, to, "mremap"))
    }

    fn remap_locked(
        &self,
        vmas: &mut Vmas,
        gone: &mut Vmas,
        old: VirtRange,
        pages: u32,
        to: Option<VirtAddr>,
        stage: &'static str,
    ) -> Result<VirtRange, Stop> {
        let at = old.start();
        let vma = find(vmas, at).cloned().ok_or(SpaceError::NotMapped { stage, at })?;
        let part = vma.part(old).filter(|part| part.range == old);
        let part = part.ok_or(SpaceError::NotMapped { stage, at: vma.range.end() })?;
        part.first.checked_add(pages).ok_or(SpaceError::TooFar { stage })?;
        if let Some(device) = part.device {
            self.check_device(device, part.first, pages, stage)?;
        }
        if pages == old.pages() && to.is_none() {
            return Ok(old);
        }
        if pages < old.pages() {
            let kept = VirtRange::new(at, pages).ok_or(SpaceError::BadRange { stage })?;
            let cut = VirtRange::new(kept.end(), old.pages() - pages).ok_or(SpaceError::BadRange { stage })?;
            if to.is_none() {
                self.unmap_locked(vmas, gone, cut, stage)?;
                return Ok(kept);
            }
        }
        let new = match to {
            Some(to) => VirtRange::new(to, pages).ok_or(SpaceError::BadRange { stage })?,
            None => {
                let longer = VirtRange::new(at, pages).ok_or(SpaceError::BadRange { stage })?;
                let behind = VirtRange::new(old.end(), pages - old.pages());
                let free = behind.is_none_or(|behind| overlapping(vmas, behind).next().is_none());
                if self.bounds.covers(longer) && free && old.end() == vma.range.end() {
                    let grown = vma.range.pages() + (pages - old.pages());
                    let range = VirtRange::new(vma.range.start(), grown).ok_or(SpaceError::BadRange { stage })?;
                    let wider = Vma { range, ..vma.clone() };
                    vma.relink(&self.table, core::iter::once(&wider));
                    vmas.insert(range.start(), wider);
                    return Ok(longer);
                }
                self.free_range(vmas, pages, vma.orders.largest(), at.vpn(), stage)?
            }
        };
        if !self.bounds.covers(new) || new.overlaps(old) {
            return Err(SpaceError::BadRange { stage }.into());
        }
        if let Some(other) = overlapping(vmas, new).next() {
            return Err(SpaceError::Overlap { stage, at: other.range.start().max(new.start()) }.into());
        }
        self.split_for_move(old, new, stage)?;
        let moved = Vma { range: new, ..part.clone() };
        let mut debt = self.debt();
        {
            // Exclusive, so that a move finds each entry at one of both addresses, and no 2 MiB entry is split.
            let mut maps = part.reverse_maps();
            let mut locks = [maps.next(), maps.next()].map(|map| map.map(|map| map.write()));
            if let Err(cause) = self.prepare_tables(old, new) {
                // Tables added in vain would be in the way of a 2 MiB entry.
                self.table.prune(gap_around(vmas, new), self.bounds, &mut debt);
                debt.pay();
                return Err(SpaceError::OutOfMemory { stage, cause }.into());
            }
            if let Some(cut) = pages.checked_sub(1).and_then(|_| beyond(old, pages)) {
                self.zap(&vma, cut, &mut debt);
            }
            let rest = vma.outside(old);
            for lock in locks.iter_mut().flatten() {
                lock.remove(vma.first..vma.first + vma.range.pages(), self.table.space(), vma.range.start());
                for part in rest.iter().flatten().chain([&moved]) {
                    let mapping = crate::rmap::Mapping { table: self.table.clone(), start: part.range.start() };
                    lock.insert(part.first..part.first + part.range.pages(), mapping);
                }
            }
            self.move_entries(old, new, &mut debt);
            // Before the locks are released: a later move or truncation finds the page at its new address and flushes
            // only that, while a store through the old address could still succeed (Linux: CVE-2018-18281).
            debt.pay();
            vmas.remove(&vma.range.start());
            vmas.extend(rest.into_iter().flatten().map(|part| (part.range.start(), part)));
            vmas.insert(new.start(), moved);
        }
        self.table.prune(gap_around(vmas, old), self.bounds, &mut debt);
        debt.pay();
        Ok(new)
    }

    /// Splits the 2 MiB entries of `old` that can't move whole: those cut by its edges, and all of them if they would
    /// not be aligned at `new`.
    fn split_for_move(&self, old: VirtRange, new: VirtRange, stage: &'static str) -> Result<(), Stop> {
        if old.start().get() % HUGE_BYTES != new.start().get() % HUGE_BYTES {
            return self.split_range(old, stage);
        }
        self.split_edges(old, stage)?;
        if new.pages() < old.pages() {
            self.split_edges(VirtRange::new(old.start(), new.pages()).unwrap_or(old), stage)?;
        }
        Ok(())
    }

    /// Adds the tables that the entries of `old` need at `new`, so that the move can't fail.
    fn prepare_tables(&self, old: VirtRange, new: VirtRange) -> Result<(), crate::zone::AllocError> {
        let mut result = Ok(());
        self.table.for_each_leaf(old, |address, slot| {
            let page = old.offset_of(address);
            if page < new.pages() && result.is_ok() {
                let to = new.start().up(page);
                result = if slot.order() == HUGE_ORDER {
                    // No table is in the way: `prune` removes those of unmapped ranges.
                    self.table.huge_slot(to).map(drop)
                } else {
                    self.table.slot_or_create(to).map(drop)
                };
            }
        });
        result
    }

    fn move_entries(&self, old: VirtRange, new: VirtRange, debt: &mut FlushDebt<'_>) {
        let mut targets = Cursor::new(&self.table);
        self.table.for_each_leaf(old, |address, slot| {
            let entry = slot.take();
            if entry.is_none() {
                return;
            }
            // A migration entry too: the move that blocked it may not have flushed yet.
            debt.owe(self.table.root_of(), address, slot.order());
            let to = new.start().up(old.offset_of(address));
            let target = if slot.order() == HUGE_ORDER { self.table.huge_slot(to).ok() } else { targets.slot(to) };
            let Some(target) = target else { panic!("mremap: no table for {to}, though all were prepared") };
            assert_eq!(slot.order(), target.order(), "mremap: a table or a 2 MiB entry is in the way at {to}");
            target.replace(Entry::NONE, entry);
        });
        debt.owe_pending(self.table.root_of(), old);
    }
}

const HUGE_BYTES: u64 = (HUGE_ORDER.frames() as u64) << crate::units::PAGE_SHIFT;

/// Gives the part of `range` after its first `pages` pages.
fn beyond(range: VirtRange, pages: u32) -> Option<VirtRange> {
    VirtRange::new(range.start().up(pages), range.pages().checked_sub(pages)?)
}
