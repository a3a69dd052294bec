//! Page faults: absent page, write, protection, copy-on-write, and waiting for a moving page.

use alloc::sync::Arc;

use super::{AddressSpace, FileError, Mappable, Protection, Vma, find};
use crate::{
    folio::LockedFolio,
    frame::{Key, Kind, TooManyMappings},
    paging::{Entry, Flags, Format, Slot},
    report::Counter,
    rmap::SplitError,
    units::{HUGE_ORDER, Order, Pfn, VirtAddr, VirtRange},
    zone::{AllocError, Effort, Physical, Request},
};

/// The kind of access.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// A load.
    Read,
    /// A store.
    Write,
    /// An instruction fetch.
    Execute,
}

/// Why a fault can't be handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FaultError {
    /// Nothing is mapped there (`SIGSEGV`, `SEGV_MAPERR`).
    #[error("fault: nothing is mapped at {0}")]
    NotMapped(VirtAddr),
    /// The mapping does not allow the access (`SIGSEGV`, `SEGV_ACCERR`).
    #[error("fault: the mapping at {0} does not allow the access")]
    Protection(VirtAddr),
    /// Past the end of the file (`SIGBUS`).
    #[error("fault: the file mapped at {0} ends before")]
    BeyondEnd(VirtAddr),
    /// The entry is a migration entry, but no move is under way: a reverse map failed to unblock it (`SIGBUS`).
    #[error("fault: the page at {0} was blocked by a move, and no move is there to unblock it")]
    Abandoned(VirtAddr),
    /// The file gave a folio of another engine's memory, or one without a page there (`SIGBUS`).
    #[error("fault: the file mapped at {0} gave a folio that can't be mapped there")]
    BadFolio(VirtAddr),
    /// The frames mapped there are a device's, so the kernel neither copies nor pins them (`EFAULT`).
    #[error("fault: what is mapped at {0} is a device's, and no memory")]
    NotMemory(VirtAddr),
    /// Out of memory.
    #[error("fault: {0}")]
    OutOfMemory(#[from] AllocError),
    /// The page's map count would overflow (Linux also fails such a fault).
    #[error("fault: {0}")]
    TooManyMappings(#[from] TooManyMappings),
}

impl From<SplitError> for FaultError {
    fn from(error: SplitError) -> Self {
        match error {
            SplitError::OutOfMemory(cause) => Self::OutOfMemory(cause),
            SplitError::TooManyMappings(cause) => Self::TooManyMappings(cause),
        }
    }
}

/// The bits that the CPU sets.
const ACCESSED_DIRTY: Flags = Flags::ACCESSED.union(Flags::DIRTY);

/// How often a fault may find a migration entry whose frame is unlocked, before it fails.
const MAX_UNLOCKED_WAITS: u32 = 100_000;

/// The result of one step of a fault.
pub(super) enum Step {
    /// Handled: retry the access.
    Done,
    /// The entry changed: retry the step.
    Again,
    /// The page is being moved: wait for its folio's lock.
    Wait(Pfn),
    /// A store to a part of a shared 2 MiB page: split its entry, which needs the address space exclusively.
    Split,
    /// The file's page can't be had without sleeping: bring it without the address space's lock.
    Bring(Arc<dyn Mappable>, u32),
}

impl<F: Format> AddressSpace<F> {
    /// Handles a fault at `address`, so that the access can be retried; waits if its page is being moved.
    pub fn fault(&self, address: VirtAddr, access: Access) -> Result<(), FaultError> {
        self.fault_for(address, access, false)
    }

    /// As [`Self::fault`]. With `unshare`, an anonymous page also becomes exclusive to this mapping, even if a store
    /// isn't allowed now (Linux: `FAULT_FLAG_UNSHARE`, since 5.19).
    pub(super) fn fault_for(&self, address: VirtAddr, access: Access, unshare: bool) -> Result<(), FaultError> {
        self.might_wait();
        self.physical().counters().add(Counter::Pgfault, 1);
        let mut blocked_since = None;
        let (mut unlocked_waits, mut recalls) = (0, 0);
        let mut must_split = false;
        loop {
            let step =
                if must_split { self.split_exclusively(address) } else { self.attempt(address, access, unshare) };
            must_split = false;
            let step = match step {
                // No lock is held: movers may have reserved the last free frames.
                Err(FaultError::OutOfMemory(_)) if recalls < Physical::MOST_TRIES && self.physical().make_room() => {
                    recalls += 1;
                    continue;
                }
                step => step?,
            };
            match step {
                Step::Done => break,
                Step::Again => {}
                Step::Split => must_split = true,
                Step::Bring(file, index) => file.bring(index).or_else(|error| at(address, error))?,
                Step::Wait(pfn) => {
                    blocked_since.get_or_insert_with(|| self.physical().machine().now_ns());
                    // The frame stays locked until the entry is unblocked. If it is unlocked, the entry should have
                    // changed by now; otherwise a broken reverse map left it behind.
                    unlocked_waits = if self.physical().frames().wait_unlocked(pfn) { 0 } else { unlocked_waits + 1 };
                    if unlocked_waits == MAX_UNLOCKED_WAITS {
                        return Err(FaultError::Abandoned(address));
                    }
                }
            }
        }
        if let Some(since) = blocked_since {
            self.physical().counters().blocked(self.physical().machine().now_ns().saturating_sub(since));
        }
        Ok(())
    }

    /// Takes the address space's lock for one step.
    fn attempt(&self, address: VirtAddr, access: Access, unshare: bool) -> Result<Step, FaultError> {
        let vmas = self.vmas.read();
        let vma = find(&vmas, address).ok_or(FaultError::NotMapped(address))?;
        if !vma.protection.contains(needed(access)) {
            return Err(FaultError::Protection(address));
        }
        self.step(vma, address.page(), access, unshare)
    }

    fn split_exclusively(&self, address: VirtAddr) -> Result<Step, FaultError> {
        let _exclusive = self.vmas.write();
        Ok(self.split_at(address)?.map_or(Step::Again, Step::Wait))
    }

    fn step(&self, vma: &Vma, address: VirtAddr, access: Access, unshare: bool) -> Result<Step, FaultError> {
        // Without tables, since a 2 MiB entry may be put in their place.
        let slot = match self.table.slot(address) {
            Some(slot) => slot,
            None => match self.fill_large(vma, address, access)? {
                Some(step) => return Ok(step),
                None => self.table.slot_or_create(address)?,
            },
        };
        let entry = slot.load();
        if entry.is_migration() {
            return Ok(Step::Wait(entry.pfn()));
        }
        if entry.is_none() {
            if let Some(device) = vma.device {
                return Ok(Self::fill_device(vma, device, address, &slot, access));
            }
            return match (&vma.file, access) {
                // A split has put a table there.
                _ if slot.order() > Order::ZERO => Ok(Step::Again),
                (None, _) => match self.fill_group(vma, address, access)? {
                    Some(step) => Ok(step),
                    None => self.fill_anonymous(vma, address, &slot, access, None),
                },
                (Some(_), Access::Write) if !vma.shared => self.fill_copied(vma, address, &slot),
                (Some(_), _) => self.fill_from_file(vma, address, &slot, access),
            };
        }
        if unshare
            && !vma.shared
            && !entry.has(Flags::EXCLUSIVE)
            && self.physical().frames().head(entry.pfn()).state().kind() == Kind::Anon
        {
            return self.copy_on_write(vma, address, &slot, entry);
        }
        self.upgrade(vma, address, &slot, entry, access)
    }

    /// Fills an empty entry with a new anonymous page, zeroed or a copy of `from`.
    fn fill_anonymous(
        &self,
        vma: &Vma,
        address: VirtAddr,
        slot: &Slot<'_, F>,
        access: Access,
        from: Option<Pfn>,
    ) -> Result<Step, FaultError> {
        let new = self.new_anonymous(vma, address, Order::ZERO, from)?;
        // A copy is dirty: no backing store has it.
        let dirty = if from.is_some() { Flags::DIRTY } else { Flags::empty() };
        Ok(self.place(slot, Entry::NONE, Entry::present(new, self.exclusive_flags(vma, access) | dirty), new))
    }

    /// The marks of the page that was accessed, which others mapped with it don't have: where the CPU sets marks. Otherwise
    /// each of them would fault (Linux: `arch_wants_old_prefaulted_pte`).
    const OWN_MARKS: Flags = if F::CPU_SETS_MARKS { ACCESSED_DIRTY } else { Flags::empty() };

    /// The marks that an access needs, where the CPU doesn't set them.
    pub(super) fn marks(access: Access) -> Flags {
        match (F::CPU_SETS_MARKS, access) {
            (true, _) => Flags::empty(),
            (false, Access::Write) => ACCESSED_DIRTY,
            (false, _) => Flags::ACCESSED,
        }
    }

    /// Flags for an exclusive page: writable if the mapping is.
    fn exclusive_flags(&self, vma: &Vma, access: Access) -> Flags {
        let mut flags = vma.read_flags() | Flags::EXCLUSIVE | Flags::SOFT_DIRTY | Self::marks(access);
        flags.set(Flags::WRITE, vma.protection.contains(Protection::WRITE));
        flags
    }

    /// Allocates an anonymous folio for `address`, zeroed or a copy of that at `from`, with the reference and the map
    /// count of its future entry.
    pub(super) fn new_anonymous(
        &self,
        vma: &Vma,
        address: VirtAddr,
        order: Order,
        from: Option<Pfn>,
    ) -> Result<Pfn, AllocError> {
        let mut new = self.physical().alloc(order, Kind::Anon)?;
        match from {
            Some(from) => {
                (0..order.frames())
                    .for_each(|page| self.physical().ram().copy_shared(from.up(page), new.pfn().up(page)));
            }
            None => new.zero(),
        }
        Ok(new.publish_mapped(anonymous_key(vma, address)))
    }

    /// Replaces `old` by `entry`, which maps frame `pfn`; if the entry has changed, gives its reference back.
    fn place(&self, slot: &Slot<'_, F>, old: Entry, entry: Entry, pfn: Pfn) -> Step {
        match slot.swap_if(old, entry) {
            Ok(()) => Step::Done,
            Err(_) => {
                self.discard(pfn, slot.order());
                Step::Again
            }
        }
    }

    /// Uncounts an entry that wasn't put in, and gives its reference back.
    fn discard(&self, pfn: Pfn, order: Order) {
        let frames = self.physical().frames();
        frames.unmap(pfn, order);
        self.physical().put(frames.head_of(pfn));
    }

    /// Maps a file's page: in a private mapping it will be copied at the first store. Maps the other pages of its folio
    /// too, where the same table serves them.
    fn fill_from_file(
        &self,
        vma: &Vma,
        address: VirtAddr,
        slot: &Slot<'_, F>,
        access: Access,
    ) -> Result<Step, FaultError> {
        let Some(file) = &vma.file else { return Ok(Step::Again) };
        let Some((folio, pfn)) = self.page_of(&**file, vma, address)? else { return Ok(bring(file, vma, address)) };
        // The folio is locked, so no move can start before its entries are set.
        self.physical().frames().map(pfn, Order::ZERO)?;
        let step = self.place(slot, Entry::NONE, Entry::present(pfn, Self::file_flags(vma, access)), pfn);
        if folio.order() > Order::ZERO {
            self.map_around(vma, address, &folio, pfn);
        }
        self.physical().update_class(pfn);
        Ok(step)
    }

    /// The flags of a file's page. Not writable before the first store, because that store must set the soft-dirty mark.
    fn file_flags(vma: &Vma, access: Access) -> Flags {
        let mut flags = vma.read_flags() | Self::marks(access);
        if access == Access::Write {
            flags |= Flags::WRITE | Flags::SOFT_DIRTY;
        }
        flags
    }

    /// Maps the pages of a locked folio around that at `address`, frame `pfn`, where nothing is mapped yet and the same
    /// lowest-level table serves them (Linux: `finish_fault`, since 6.11).
    fn map_around(&self, vma: &Vma, address: VirtAddr, folio: &LockedFolio<'_>, pfn: Pfn) {
        let (offset, before) = (vma.range.offset_of(address), pfn.offset_from(folio.pfn()));
        // The mapping may begin, or end, within the folio.
        let cut = before.saturating_sub(offset);
        let start = vma.range.start().up(offset + cut - before);
        let mapped = VirtRange::new(start, folio.order().frames() - cut).and_then(|all| all.intersect(vma.range));
        let table = VirtRange::new(address.align_down_huge(), HUGE_ORDER.frames());
        let Some(range) = mapped.zip(table).and_then(|(mapped, table)| mapped.intersect(table)) else { return };
        let Ok(Some(slots)) = self.table.slots_or_create(range) else { return };
        let flags = vma.read_flags() - Self::OWN_MARKS;
        for (at, slot) in range.iter().zip(slots).filter(|(_, slot)| slot.load().is_none()) {
            let page = folio.pfn().up(cut + (at.vpn() - start.vpn()) as u32);
            if self.physical().frames().map(page, Order::ZERO).is_err() {
                return;
            }
            self.place(&slot, Entry::NONE, Entry::present(page, flags), page);
        }
    }

    /// Fills an empty entry of a private mapping with a copy of the file's page, for a store.
    fn fill_copied(&self, vma: &Vma, address: VirtAddr, slot: &Slot<'_, F>) -> Result<Step, FaultError> {
        let Some(file) = &vma.file else { return Ok(Step::Again) };
        let Some((_folio, pfn)) = self.page_of(&**file, vma, address)? else { return Ok(bring(file, vma, address)) };
        self.fill_anonymous(vma, address, slot, Access::Write, Some(pfn))
    }

    /// Gets the folio of a file's page, locked, and the page's frame; checks that it can be mapped here. `None`: it's not ready.
    pub(super) fn page_of<'f>(
        &self,
        file: &'f dyn Mappable,
        vma: &Vma,
        address: VirtAddr,
    ) -> Result<Option<(LockedFolio<'f>, Pfn)>, FaultError> {
        let folio = match file.fault(vma.index_of(address)) {
            Ok(folio) => folio,
            Err(error) => return at(address, error).map(|()| None),
        };
        let is_ours = Arc::ptr_eq(folio.physical(), self.physical());
        // A base page is what the file says; its key may be a device's.
        let number = if folio.order() == Order::ZERO { Some(0) } else { folio.number_of(vma.index_of(address)) };
        match number.filter(|_| is_ours && folio.order() <= HUGE_ORDER) {
            Some(number) => {
                let pfn = folio.pfn().up(number);
                Ok(Some((folio, pfn)))
            }
            None => Err(FaultError::BadFolio(address)),
        }
    }

    /// Adds the rights that the access needs to a present entry, as far as the mapping allows.
    fn upgrade(
        &self,
        vma: &Vma,
        address: VirtAddr,
        slot: &Slot<'_, F>,
        entry: Entry,
        access: Access,
    ) -> Result<Step, FaultError> {
        let mut want = entry;
        if entry.has(Flags::NO_EXECUTE) && vma.protection.contains(Protection::EXECUTE) {
            want = want.without(Flags::NO_EXECUTE);
        }
        want = want.with((vma.read_flags() & Flags::USER) | Self::marks(access));
        if access == Access::Write {
            if !entry.has(Flags::WRITE) && !vma.shared && !entry.has(Flags::EXCLUSIVE) {
                return self.copy_on_write(vma, address, slot, entry);
            }
            want = want.with(Flags::WRITE | Flags::SOFT_DIRTY);
        }
        // No change needed: another thread handled the fault, and only a TLB is stale.
        Ok(if want == entry || slot.swap_if(entry, want).is_ok() { Step::Done } else { Step::Again })
    }

    /// Makes the page exclusive for a store: reuses it if nobody else has it, otherwise copies it.
    fn copy_on_write(
        &self,
        vma: &Vma,
        address: VirtAddr,
        slot: &Slot<'_, F>,
        entry: Entry,
    ) -> Result<Step, FaultError> {
        let old = entry.pfn();
        // The reference keeps the folio from being freed, or moved, while it's copied.
        let Some(folio) = self.physical().get(old) else { return Ok(Step::Wait(old)) };
        // The lock isn't waited for here: a move that has it fails as long as we have a reference.
        match folio.try_lock() {
            Ok(folio) => self.copy_locked(vma, address, slot, entry, &folio),
            Err(_) => Ok(Step::Wait(old)),
        }
    }

    fn copy_locked(
        &self,
        vma: &Vma,
        address: VirtAddr,
        slot: &Slot<'_, F>,
        entry: Entry,
        folio: &LockedFolio<'_>,
    ) -> Result<Step, FaultError> {
        let old = entry.pfn();
        let (frames, order) = (self.physical().frames(), slot.order());
        let frame = &frames[folio.pfn()];
        if slot.load() != entry {
            return Ok(Step::Again);
        }
        let mut rights = Flags::EXCLUSIVE;
        rights.set(Flags::WRITE | Flags::SOFT_DIRTY, vma.protection.contains(Protection::WRITE));
        // One entry is ours, so no other process has the page, or with a 2 MiB entry any page of the folio. Nor has
        // anybody another reference than ours. The lock excludes a sharer's fork.
        let maps = if order == Order::ZERO { frames.page_maps(old) } else { frame.maps() };
        if frame.state().kind() == Kind::Anon && maps == 1 && frame.counts().has_only_mappings_and(1) {
            let swapped = slot.swap_if(entry, entry.with(rights));
            return Ok(if swapped.is_ok() { Step::Done } else { Step::Again });
        }
        if order > Order::ZERO {
            return Ok(Step::Split);
        }
        let new = self.new_anonymous(vma, address, Order::ZERO, Some(old))?;
        // Break, flush, make. If the new entry were set before the flush, one thread could store through it while
        // another still loads the old page by its TLB. (Linux: `wp_page_copy`; the Arm ARM requires it, D8.17.) The
        // migration entry makes other faults wait for our lock.
        let Some(broken) =
            slot.update(|now| (now.without(ACCESSED_DIRTY) == entry.without(ACCESSED_DIRTY)).then(|| now.blocked()))
        else {
            self.discard(new, Order::ZERO);
            return Ok(Step::Again);
        };
        let mut debt = self.debt();
        crate::rmap::entry_removed(self.physical(), broken, self.table.root_of(), address, Order::ZERO, &mut debt);
        debt.pay();
        let flags = (broken.flags() - Flags::PRESENT) | rights | ACCESSED_DIRTY;
        // Only holders of the folio's lock, or of the address space exclusively, change a migration entry.
        slot.replace(broken.blocked(), Entry::present(new, flags));
        Ok(Step::Done)
    }

    /// Maps 2 MiB at once, where no table is in the way. `None`: continue with base entries.
    fn fill_large(&self, vma: &Vma, address: VirtAddr, access: Access) -> Result<Option<Step>, FaultError> {
        let start = address.align_down_huge();
        let whole = VirtRange::new(start, HUGE_ORDER.frames()).filter(|&whole| vma.range.covers(whole));
        let Some(whole) = whole.filter(|_| vma.orders.largest() == HUGE_ORDER) else { return Ok(None) };
        match &vma.file {
            None => {
                let slot = self.table.huge_slot(start)?;
                if !slot.is_empty() {
                    return Ok(Some(Step::Again));
                }
                let Ok(pfn) = self.new_anonymous(vma, whole.start(), HUGE_ORDER, None) else { return Ok(None) };
                let flags = self.exclusive_flags(vma, access) | Flags::HUGE;
                Ok(Some(self.place(&slot, Entry::NONE, Entry::present(pfn, flags), pfn)))
            }
            Some(file) if vma.shared => {
                let Some((folio, pfn)) = self.page_of(&**file, vma, address)? else {
                    return Ok(Some(bring(file, vma, address)));
                };
                if folio.order() != HUGE_ORDER || folio.key().index != vma.index_of(start) {
                    return Ok(None);
                }
                let slot = self.table.huge_slot(start)?;
                self.physical().frames().map(folio.pfn(), HUGE_ORDER)?;
                let entry = Entry::present(folio.pfn(), Self::file_flags(vma, access) | Flags::HUGE);
                let step = self.place(&slot, Entry::NONE, entry, folio.pfn());
                self.physical().update_class(pfn);
                Ok(Some(step))
            }
            _ => Ok(None),
        }
    }

    /// Fills the empty entries of the aligned group around `address` with a new folio, of the largest order below that
    /// of a 2 MiB page that the mapping allows and that is free. `None`: a base page is left.
    ///
    /// The first entry of a group is its leader: it becomes a migration entry while the group is filled, so that two
    /// threads don't each fill half of it.
    fn fill_group(&self, vma: &Vma, address: VirtAddr, access: Access) -> Result<Option<Step>, FaultError> {
        for order in vma.orders.downwards().filter(|&order| order < HUGE_ORDER && order > Order::ZERO) {
            let group = VirtRange::new(address.align_down(order), order.frames());
            let Some(group) = group.filter(|&group| vma.range.covers(group)) else { continue };
            let Some(slots) = self.table.slots_or_create(group)? else { return Ok(Some(Step::Again)) };
            let Some(leader) = slots.clone().next() else { continue };
            let entry = leader.load();
            if entry.is_migration() {
                return Ok(Some(Step::Wait(entry.pfn())));
            }
            if slots.clone().any(|slot| !slot.load().is_none()) {
                continue;
            }
            let request = Request::new(order, Kind::Anon).with_effort(Effort::Lists);
            let Ok(mut new) = self.physical().alloc_with(&request) else { continue };
            new.zero();
            let folio = new.publish_locked(anonymous_key(vma, group.start()));
            let flags = self.exclusive_flags(vma, access);
            let entry_at =
                |at: VirtAddr, pfn| Entry::present(pfn, if at == address { flags } else { flags - Self::OWN_MARKS });
            let first = entry_at(group.start(), folio.pfn());
            self.physical().frames().map_pages(folio.pfn())?;
            if leader.swap_if(Entry::NONE, first.blocked()).is_err() {
                self.physical().frames().unmap_pages(folio.pfn());
                return Ok(Some(Step::Again));
            }
            for ((at, slot), number) in group.iter().zip(slots).zip(0..).skip(1) {
                let pfn = folio.pfn().up(number);
                // A base page may have come first.
                self.place(&slot, Entry::NONE, entry_at(at, pfn), pfn);
            }
            // Others wait for our lock.
            leader.replace(first.blocked(), first);
            return Ok(Some(Step::Done));
        }
        Ok(None)
    }
}

/// Says where the mappings of an anonymous page of `vma` are found.
pub(super) fn anonymous_key(vma: &Vma, address: VirtAddr) -> Key {
    Key { rmap: vma.anonymous.as_ref().map_or(0, |rmap| rmap.id()), index: vma.index_of(address) }
}

fn needed(access: Access) -> Protection {
    match access {
        Access::Read => Protection::READ,
        Access::Write => Protection::WRITE,
        Access::Execute => Protection::EXECUTE,
    }
}

/// Converts a file's error; a page that isn't ready is none.
fn at(address: VirtAddr, error: FileError) -> Result<(), FaultError> {
    match error {
        FileError::NotReady => Ok(()),
        FileError::BeyondEnd(_) => Err(FaultError::BeyondEnd(address)),
        FileError::OutOfMemory(error) => Err(FaultError::OutOfMemory(error)),
    }
}

fn bring(file: &Arc<dyn Mappable>, vma: &Vma, address: VirtAddr) -> Step {
    Step::Bring(file.clone(), vma.index_of(address))
}
