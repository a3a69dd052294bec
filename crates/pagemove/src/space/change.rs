//! Changes of mappings: mmap, munmap, mprotect, and clearing soft-dirty marks.

use alloc::vec::Vec;
use core::ops::Range;

use super::{AddressSpace, Map, Orders, Protection, Source, SpaceError, Vma, Vmas, find, overlapping, split::Stop};
use crate::{
    paging::{Entry, Flags, FlushDebt, Format},
    rmap::{RangeMap, entry_removed},
    units::{Order, PAGE_SHIFT, VirtAddr, VirtRange},
};

impl<F: Format> AddressSpace<F> {
    /// Maps what `map` describes; gives its range. Pages are allocated at the first access.
    pub fn mmap(&self, map: &Map) -> Result<VirtRange, SpaceError> {
        self.might_wait();
        let stage = "mmap";
        let mut vmas = self.vmas.write();
        let anonymous = || Some(RangeMap::new(self.engine.reverse_maps()));
        let (file, first, shared, anonymous, orders) = match &map.source {
            &Source::Anonymous { orders } => (None, 0, false, anonymous(), orders),
            Source::Shared { file, first } => (Some(file.clone()), *first, true, None, file.orders()),
            Source::Private { file, first } => (Some(file.clone()), *first, false, anonymous(), Orders::BASE),
            Source::Device { first, .. } => (None, *first, true, None, Orders::BASE),
        };
        let device = match map.source {
            Source::Device { frames, first } => {
                self.check_device(frames, first, map.pages, stage)?;
                Some(frames)
            }
            _ => None,
        };
        let range = match map.at {
            Some(at) => {
                let range = VirtRange::new(at, map.pages).filter(|&range| self.bounds.covers(range));
                let range = range.ok_or(SpaceError::BadRange { stage })?;
                if let Some(vma) = overlapping(&vmas, range).next() {
                    return Err(SpaceError::Overlap { stage, at: vma.range.start().max(range.start()) });
                }
                range
            }
            None => self.free_range(&vmas, map.pages, orders.largest(), first.into(), stage)?,
        };
        first.checked_add(range.pages()).ok_or(SpaceError::TooFar { stage })?;
        let file_map = file.as_ref().map(|file| file.reverse_map().clone());
        if file_map.as_ref().is_some_and(|map| !map.is_of(self.engine.reverse_maps())) {
            return Err(SpaceError::OtherEngine { stage });
        }
        let vma = Vma { range, protection: map.protection, first, file, file_map, shared, anonymous, orders, device };
        vma.link(&self.table);
        vmas.insert(range.start(), vma);
        Ok(range)
    }

    /// Finds a free range, if possible one that lies to the largest folios that it may have as page number `like` does.
    pub(super) fn free_range(
        &self,
        vmas: &Vmas,
        pages: u32,
        largest: Order,
        like: u64,
        stage: &'static str,
    ) -> Result<VirtRange, SpaceError> {
        let aligned = self.first_free(vmas, pages, largest, like);
        aligned.or_else(|| self.first_free(vmas, pages, Order::ZERO, 0)).ok_or(match pages {
            0 => SpaceError::BadRange { stage },
            _ => SpaceError::NoRoom { stage, pages },
        })
    }

    /// Gives the first free range whose start has the same place in an aligned 2^`order` pages as page number `like`.
    fn first_free(&self, vmas: &Vmas, pages: u32, order: Order, like: u64) -> Option<VirtRange> {
        let align = |at: VirtAddr| at.up(like.wrapping_sub(at.vpn()) as u32 & (order.frames() - 1));
        let fits = |at: VirtAddr| VirtRange::new(at, pages).filter(|&range| self.bounds.covers(range));
        let mut at = align(self.bounds.start());
        for vma in vmas.values() {
            if fits(at).is_some_and(|range| range.end() <= vma.range.start()) {
                break;
            }
            at = at.max(align(vma.range.end()));
        }
        fits(at)
    }

    /// Unmaps `range`; unmapped parts are ignored.
    pub fn munmap(&self, range: VirtRange) -> Result<(), SpaceError> {
        if !self.bounds.covers(range) {
            return Err(SpaceError::BadRange { stage: "munmap" });
        }
        self.change(|vmas, gone| self.unmap_locked(vmas, gone, range, "munmap"))
    }

    pub(super) fn unmap_locked(
        &self,
        vmas: &mut Vmas,
        gone: &mut Vmas,
        range: VirtRange,
        stage: &'static str,
    ) -> Result<(), Stop> {
        self.split_edges(range, stage)?;
        let mut debt = self.debt();
        // One by one, here and below: a list of all may be too long for a kernel's heap.
        loop {
            let Some(vma) = overlapping(vmas, range).next().cloned() else { break };
            if let Some(part) = vma.part(range) {
                self.zap(&vma, part.range, &mut debt);
            }
            let rest = vma.outside(range);
            vma.relink(&self.table, rest.iter().flatten());
            vmas.remove(&vma.range.start());
            for part in rest.into_iter().flatten() {
                vmas.insert(part.range.start(), part);
            }
            gone.insert(vma.range.start(), vma);
        }
        self.table.prune(gap_around(vmas, range), self.bounds, &mut debt);
        debt.pay();
        Ok(())
    }

    /// Empties all entries of `range` of the mapping `vma`; gives all marks and rights that present ones had. A migration entry has no reference, and
    /// its move tolerates the removal. It still owes a flush, here and at every change of one: the move that blocked it may
    /// not have flushed yet. Nor may a truncation that has taken an entry out.
    pub(super) fn zap(&self, vma: &Vma, range: VirtRange, debt: &mut FlushDebt<'_>) -> Flags {
        let mut had = Flags::empty();
        self.table.for_each_leaf(range, |address, slot| {
            let entry = slot.take();
            if entry.is_present() && vma.device.is_some() {
                debt.owe(self.table.root_of(), address, slot.order());
            } else if entry.is_present() {
                had |= entry.flags();
                entry_removed(self.physical(), entry, self.table.root_of(), address, slot.order(), debt);
            } else if entry.is_migration() {
                debt.owe(self.table.root_of(), address, slot.order());
            }
        });
        debt.owe_pending(self.table.root_of(), range);
        had
    }

    /// Sets the protection of `range`, all of which must be mapped.
    pub fn mprotect(&self, range: VirtRange, protection: Protection) -> Result<(), SpaceError> {
        if !self.bounds.covers(range) {
            return Err(SpaceError::BadRange { stage: "mprotect" });
        }
        self.change(|vmas, _| self.protect_locked(vmas, range, protection, "mprotect"))
    }

    fn protect_locked(
        &self,
        vmas: &mut Vmas,
        range: VirtRange,
        protection: Protection,
        stage: &'static str,
    ) -> Result<(), Stop> {
        let mut at = range.start();
        while at < range.end() {
            at = find(vmas, at).ok_or(SpaceError::NotMapped { stage, at })?.range.end();
        }
        self.split_edges(range, stage)?;
        let mut debt = self.debt();
        let mut at = range.start();
        while let Some(vma) = find(vmas, at).filter(|_| at < range.end()).cloned() {
            at = vma.range.end();
            let Some(part) = vma.part(range) else { continue };
            let part = Vma { protection, ..part };
            let flags = part.read_flags();
            // Rights are removed at once, also from migration entries, and added at the next fault.
            let keep = if protection.contains(Protection::WRITE) { Flags::WRITE } else { Flags::empty() };
            self.change_entries(part.range, &mut debt, |entry| {
                entry.without((Flags::WRITE | Flags::USER | Flags::NO_EXECUTE) - keep).with(flags - Flags::ACCESSED)
            });
            let parts: Vec<Vma> = vma.outside(range).into_iter().flatten().chain([part]).collect();
            vma.relink(&self.table, parts.iter());
            vmas.remove(&vma.range.start());
            vmas.extend(parts.into_iter().map(|part| (part.range.start(), part)));
        }
        debt.pay();
        Ok(())
    }

    /// Applies `change` to all present and migration entries of `range`, and owes a flush for each changed one.
    pub(super) fn change_entries(&self, range: VirtRange, debt: &mut FlushDebt<'_>, change: impl Fn(Entry) -> Entry) {
        self.table.for_each_leaf(range, |address, slot| {
            let before = slot.update(|entry| Some(change(entry)).filter(|&new| !entry.is_none() && new != entry));
            if before.is_some() {
                debt.owe(self.table.root_of(), address, slot.order());
            }
        });
        debt.owe_pending(self.table.root_of(), range);
    }

    /// Clears all soft-dirty marks, and makes the next store to each page set its mark again, as writing 4 to Linux's
    /// `/proc/PID/clear_refs` does.
    pub fn clear_soft_dirty(&self) {
        self.might_wait();
        let _vmas = self.vmas.write();
        let mut debt = self.debt();
        self.change_entries(self.bounds, &mut debt, |entry| entry.without(Flags::SOFT_DIRTY | Flags::WRITE));
        debt.pay();
    }
}

/// Gives the virtual page numbers of the unmapped gap around `range`.
pub(super) fn gap_around(vmas: &Vmas, range: VirtRange) -> Range<u64> {
    let below = vmas.range(..range.start()).next_back().map_or(0, |(_, vma)| vma.range.end().vpn());
    let above = vmas.range(range.end()..).next().map_or(VirtAddr::LIMIT >> PAGE_SHIFT, |(start, _)| start.vpn());
    below..above
}
