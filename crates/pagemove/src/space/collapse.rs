//! Collapse of base pages into 2 MiB pages (Linux: `madvise` with `MADV_COLLAPSE`, since 6.1).
//!
//! Anonymous pages are copied: their entries are blocked and flushed as in a move, and the table with them is replaced by one
//! 2 MiB entry. Pages that other processes share stay theirs. A shared file collapses its own pages, for all that map them; then this
//! process's entries are replaced by one.

use alloc::{sync::Arc, vec::Vec};

use super::{AddressSpace, Mappable, Protection, Vma, fault::anonymous_key, find};
use crate::{
    folio::{FrozenFolio, LockedFolio},
    frame::Kind,
    movable::NotCollapsed,
    paging::{Entry, Flags, Format, Slot},
    port::might_wait,
    report::Counter,
    units::{HUGE_ORDER, Order, Pfn, VirtAddr, VirtRange},
    zone::{AllocError, Effort, Request},
};

/// Why 2 MiB were not collapsed; in brackets, `MADV_COLLAPSE`'s error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CollapseError {
    /// No 2 MiB page is free (`ENOMEM`).
    #[error("collapse: {0}")]
    OutOfMemory(#[from] AllocError),
    /// Nothing is mapped at that address (`ENOMEM`).
    #[error("collapse: nothing is mapped at {0}")]
    NotMapped(VirtAddr),
    /// A page at that address is moving, locked, pinned, or otherwise held (`EAGAIN`).
    #[error("collapse: the page at {0} is held or moving; try again")]
    Again(VirtAddr),
    /// The 2 MiB at that address aren't one mapping of anonymous memory or of an aligned part of a shared file, or have no page
    /// (`EINVAL`).
    #[error(
        "collapse: the 2 MiB at {0} are not anonymous memory, or an aligned part of a shared file, with a page in it"
    )]
    Unsuitable(VirtAddr),
}

/// An entry that was blocked, with its address.
type Blocked<'a, F> = (VirtAddr, Slot<'a, F>, Entry);

impl<F: Format> AddressSpace<F> {
    /// Makes each aligned 2 MiB of `range` one page. Goes on after a failure, and then gives the last one. Sleeps, and
    /// compacts if that is set up ([`crate::compact::compact_for_allocations`]).
    pub fn collapse(&self, range: VirtRange) -> Result<(), CollapseError> {
        might_wait(self.physical().machine());
        let mut result = Ok(());
        let mut start = range.start().up(HUGE_ORDER.frames() - 1).align_down_huge();
        while let Some(whole) = VirtRange::new(start, HUGE_ORDER.frames()).filter(|whole| range.covers(*whole)) {
            result = self.collapse_at(whole).and(result);
            start = whole.end();
        }
        result
    }

    fn collapse_at(&self, whole: VirtRange) -> Result<(), CollapseError> {
        let start = whole.start();
        if self.entry(start).has(Flags::HUGE) {
            return Ok(());
        }
        if let Some((file, index)) = self.shared_file_at(whole) {
            return self.collapse_file(whole, &file, index);
        }
        // So that what can't be collapsed costs nothing.
        is_suitable(find(&self.vmas.read(), start), whole)?;
        // Before the locks, since it may compact.
        let request = Request::new(HUGE_ORDER, Kind::Anon).with_effort(Effort::Compact);
        let new = self.physical().alloc_with(&request)?;
        let vmas = self.vmas.write();
        let vma = is_suitable(find(&vmas, start), whole)?;
        match self.table.slot(start) {
            Some(slot) if slot.order() == HUGE_ORDER && slot.load().is_none() => Err(CollapseError::Again(start)),
            Some(slot) if slot.order() == HUGE_ORDER => Ok(()),
            Some(_) => self.collapse_table(vma, whole, new),
            None => Err(CollapseError::Unsuitable(start)),
        }
    }

    /// The caller holds the address space exclusively; `whole` has a lowest-level table.
    fn collapse_table(&self, vma: &Vma, whole: VirtRange, mut new: FrozenFolio<'_>) -> Result<(), CollapseError> {
        let start = whole.start();
        let folios = self.lock_pages(whole)?;
        let mut blocked: Vec<Blocked<'_, F>> = Vec::with_capacity(HUGE_ORDER.frames() as usize);
        let mut debt = self.debt();
        self.table.for_each_leaf(whole, |address, slot| {
            // We hold the folios' locks and the address space, so only the CPU's marks can change.
            if let Some(entry) = slot.update(|entry| entry.is_present().then(|| entry.blocked())) {
                if entry.has(Flags::DIRTY) {
                    // Others may share the page.
                    self.physical().frames().mark_dirty(entry.pfn());
                }
                self.physical().frames().unmap_with_reference(entry.pfn(), Order::ZERO);
                debt.owe(self.table.root_of(), address, Order::ZERO);
                blocked.push((address, slot, entry));
            }
        });
        debt.pay();
        // Now nobody can pin a page by this process. Whoever did before has a reference.
        if let Some(held) = folios.iter().find(|folio| !self.has_no_other_users(folio)) {
            let held = held.pfn();
            let frames = self.physical().frames();
            for &(_, slot, entry) in &blocked {
                frames.map_again(entry.pfn(), Order::ZERO);
                slot.replace(entry.blocked(), entry);
            }
            let at = blocked.iter().find(|(_, _, entry)| frames.head_of(entry.pfn()) == held);
            return Err(CollapseError::Again(at.map_or(start, |&(address, ..)| address)));
        }
        self.copy_pages(whole, &blocked, &mut new);
        let flags = flags_of(vma, &blocked);
        drop(blocked);
        {
            // Exclusive, so that no walk is in the table when it's taken out.
            let _map = vma.anonymous.as_ref().map(|map| map.write());
            self.table.unlink_leaf_table(start, &mut debt);
            debt.pay();
            let Ok(slot) = self.table.huge_slot(start) else { panic!("collapse: no upper table for {start}") };
            let pfn = new.publish_mapped(anonymous_key(vma, start));
            slot.replace(Entry::NONE, Entry::present(pfn, flags));
        }
        self.physical().counters().add(Counter::ThpCollapseAlloc, 1);
        Ok(())
    }

    /// Gives the file that is mapped shared in all of `whole`, and the offset of its first page.
    fn shared_file_at(&self, whole: VirtRange) -> Option<(Arc<dyn Mappable>, u32)> {
        let vmas = self.vmas.read();
        let vma = find(&vmas, whole.start()).filter(|vma| vma.shared && vma.range.covers(whole))?;
        Some((vma.file.clone()?, vma.index_of(whole.start())))
    }

    fn collapse_file(&self, whole: VirtRange, file: &Arc<dyn Mappable>, index: u32) -> Result<(), CollapseError> {
        let start = whole.start();
        if !index.is_multiple_of(HUGE_ORDER.frames()) {
            return Err(CollapseError::Unsuitable(start));
        }
        file.collapse(index).map_err(|error| match error {
            NotCollapsed::OutOfMemory(error) => CollapseError::OutOfMemory(error),
            NotCollapsed::Again => CollapseError::Again(start),
            NotCollapsed::Unsuitable => CollapseError::Unsuitable(start),
        })?;
        let vmas = self.vmas.write();
        let is_same = |vma: &&Vma| vma.shared && vma.range.covers(whole) && vma.index_of(start) == index;
        let vma = find(&vmas, start).filter(is_same).ok_or(CollapseError::Again(start))?;
        let is_file = vma.file.as_ref().is_some_and(|now| Arc::ptr_eq(now, file));
        // Its lock excludes moves, splits and truncation.
        let page = if is_file { self.page_of(&**file, vma, start).ok().flatten() } else { None };
        let is_whole = |(folio, pfn): &(LockedFolio<'_>, Pfn)| folio.order() == HUGE_ORDER && folio.pfn() == *pfn;
        let (folio, _) = page.filter(is_whole).ok_or(CollapseError::Again(start))?;
        match self.table.slot(start) {
            Some(slot) if slot.order() == HUGE_ORDER => Ok(()),
            _ => self.map_whole(vma, whole, &folio),
        }
    }

    /// Replaces the base entries of `whole` by one for a file's locked folio. The caller holds the address space exclusively.
    fn map_whole(&self, vma: &Vma, whole: VirtRange, folio: &LockedFolio<'_>) -> Result<(), CollapseError> {
        let start = whole.start();
        let frames = self.physical().frames();
        // First: once the entries are gone, it can't fail but for lack of upper tables, without which there were none.
        frames.map(folio.pfn(), HUGE_ORDER).map_err(|_| CollapseError::Again(start))?;
        let mut debt = self.debt();
        let marks = self.zap(vma, whole, &mut debt);
        {
            // Exclusive, so that no walk is in the table when it's taken out.
            let _map = vma.file_map.as_ref().map(|map| map.write());
            self.table.unlink_leaf_table(start, &mut debt);
            debt.pay();
            let slot = self.table.huge_slot(start);
            let slot = slot.inspect_err(|_| {
                frames.unmap_with_reference(folio.pfn(), HUGE_ORDER);
                self.physical().update_class(folio.pfn());
            })?;
            let kept = marks & (Flags::ACCESSED | Flags::SOFT_DIRTY | Flags::WRITE);
            let rights = vma.read_flags() - Flags::ACCESSED;
            slot.replace(Entry::NONE, Entry::present(folio.pfn(), rights | kept | Flags::HUGE));
        }
        self.physical().update_class(folio.pfn());
        Ok(())
    }

    /// Locks the folios of all pages of `range`, without waiting.
    fn lock_pages(&self, range: VirtRange) -> Result<Vec<LockedFolio<'_>>, CollapseError> {
        let mut folios: Vec<LockedFolio<'_>> = Vec::new();
        let mut result = Ok(());
        self.table.for_each_leaf(range, |address, slot| {
            let entry = slot.load();
            let head = self.physical().frames().head_of(entry.pfn());
            if result.is_err() || folios.iter().rev().any(|folio| folio.pfn() == head) {
                return;
            }
            let again = CollapseError::Again(address);
            let lock = || {
                let present = Some(entry.pfn()).filter(|_| entry.is_present()).ok_or(again)?;
                let folio = self.physical().get(present).ok_or(again)?.try_lock().map_err(|_| again)?;
                // It may have moved before it was locked.
                let is_same = slot.load().is_present() && slot.load().pfn() == entry.pfn();
                if is_same && self.has_no_other_users(&folio) { Ok(folio) } else { Err(again) }
            };
            match lock() {
                Ok(folio) => folios.push(folio),
                Err(error) => result = Err(error),
            }
        });
        result?;
        if folios.is_empty() { Err(CollapseError::Unsuitable(range.start())) } else { Ok(folios) }
    }

    /// Tells whether only mappings and the caller have references.
    fn has_no_other_users(&self, folio: &LockedFolio<'_>) -> bool {
        let frame = self.physical().frame(folio.pfn());
        frame.pins() == 0 && frame.counts().has_only_mappings_and(1)
    }

    /// Copies blocked pages to their places in `new`, and clears the others.
    fn copy_pages(&self, whole: VirtRange, blocked: &[Blocked<'_, F>], new: &mut FrozenFolio<'_>) {
        let ram = self.physical().ram();
        let mut next = 0;
        for &(address, _, entry) in blocked {
            let number = whole.offset_of(address);
            (next..number).for_each(|hole| ram.zero(new.pfn().up(hole), Order::ZERO));
            ram.copy_streaming(entry.pfn(), new.pfn().up(number), 1);
            next = number + 1;
        }
        (next..HUGE_ORDER.frames()).for_each(|hole| ram.zero(new.pfn().up(hole), Order::ZERO));
        ram.order_copies();
    }
}

/// The flags of the 2 MiB entry: marks that any of the pages had. Dirty, since it's a copy.
fn flags_of<F: Format>(vma: &Vma, blocked: &[Blocked<'_, F>]) -> Flags {
    let any = |flag| blocked.iter().any(|(_, _, entry)| entry.has(flag));
    let mut flags = (vma.read_flags() - Flags::ACCESSED) | Flags::HUGE | Flags::EXCLUSIVE | Flags::DIRTY;
    flags.set(Flags::ACCESSED, any(Flags::ACCESSED));
    // Without the mark the next store must fault to set it.
    let is_soft_dirty = any(Flags::SOFT_DIRTY);
    flags.set(Flags::SOFT_DIRTY, is_soft_dirty);
    flags.set(Flags::WRITE, is_soft_dirty && vma.protection.contains(Protection::WRITE));
    flags
}

/// Checks that all of `whole` is one mapping of anonymous memory.
fn is_suitable(vma: Option<&Vma>, whole: VirtRange) -> Result<&Vma, CollapseError> {
    let vma = vma.ok_or(CollapseError::NotMapped(whole.start()))?;
    if vma.anonymous.is_none() || vma.file.is_some() || !vma.range.covers(whole) {
        return Err(CollapseError::Unsuitable(whole.start()));
    }
    Ok(vma)
}
