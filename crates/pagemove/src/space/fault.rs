//! Page faults: absent page, write, protection, copy-on-write, and waiting for a moving page.

use alloc::sync::Arc;

use super::{AddressSpace, FileError, Mappable, Protection, Vma, find};
use crate::{
    folio::LockedFolio,
    frame::{Key, Kind, TooManyMappings},
    paging::{Entry, Flags, Slot},
    report::Counter,
    units::{HUGE_ORDER, Order, Pfn, VirtAddr, VirtRange},
    zone::{AllocError, Physical},
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
    /// The file gave a folio of another engine's memory, or one larger than a page, which can't be mapped yet (`SIGBUS`).
    #[error("fault: the file mapped at {0} gave a folio that can't be mapped there")]
    BadFolio(VirtAddr),
    /// Out of memory.
    #[error("fault: {0}")]
    OutOfMemory(#[from] AllocError),
    /// The page's map count would overflow (Linux also fails such a fault).
    #[error("fault: {0}")]
    TooManyMappings(#[from] TooManyMappings),
}

/// The bits that the CPU sets.
const ACCESSED_DIRTY: Flags = Flags::ACCESSED.union(Flags::DIRTY);

/// How often a fault may find a migration entry whose frame is unlocked, before it fails.
const MAX_UNLOCKED_WAITS: u32 = 100_000;

/// The result of one step of a fault.
enum Step {
    /// Handled: retry the access.
    Done,
    /// The entry changed: retry the step.
    Again,
    /// The page is being moved: wait for its frame's lock.
    Wait(Pfn),
}

impl AddressSpace {
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
        loop {
            let step = {
                let vmas = self.vmas.read();
                let vma = find(&vmas, address).ok_or(FaultError::NotMapped(address))?;
                if !vma.protection.contains(needed(access)) {
                    return Err(FaultError::Protection(address));
                }
                self.step(vma, address.page(), access, unshare)
            };
            let step = match step {
                // No lock is held: movers may have reserved the last free frames.
                Err(FaultError::OutOfMemory(_))
                    if recalls < Physical::MOST_TRIES && self.physical().recall_destinations() =>
                {
                    recalls += 1;
                    continue;
                }
                step => step?,
            };
            match step {
                Step::Done => break,
                Step::Again => {}
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

    fn step(&self, vma: &Vma, address: VirtAddr, access: Access, unshare: bool) -> Result<Step, FaultError> {
        if vma.huge
            && let Some(step) = self.huge_step(vma, address)?
        {
            return Ok(step);
        }
        let slot = self.table.slot_or_create(address)?;
        let entry = slot.load();
        if entry.is_migration() {
            return Ok(Step::Wait(entry.pfn()));
        }
        if entry.is_none() {
            return match (&vma.file, access) {
                (None, _) => self.fill_anonymous(vma, address, &slot, None),
                (Some(_), Access::Write) if !vma.shared => self.fill_copied(vma, address, &slot),
                (Some(_), _) => self.fill_from_file(vma, address, &slot, access),
            };
        }
        if unshare
            && !vma.shared
            && !entry.has(Flags::EXCLUSIVE)
            && self.physical().frame(entry.pfn()).state().kind() == Kind::Anon
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
        slot: &Slot<'_>,
        from: Option<Pfn>,
    ) -> Result<Step, FaultError> {
        let new = self.new_anonymous(vma, address, from)?;
        Ok(self.place(slot, Entry::NONE, Entry::present(new, self.exclusive_flags(vma)), new))
    }

    /// Flags for an exclusive page: writable if the mapping is.
    fn exclusive_flags(&self, vma: &Vma) -> Flags {
        let mut flags = vma.read_flags() | Flags::EXCLUSIVE | Flags::SOFT_DIRTY;
        flags.set(Flags::WRITE, vma.protection.contains(Protection::WRITE));
        flags
    }

    /// Allocates an anonymous page for `address`, with the reference and the map count of its future entry.
    pub(super) fn new_anonymous(&self, vma: &Vma, address: VirtAddr, from: Option<Pfn>) -> Result<Pfn, AllocError> {
        let mut new = self.physical().alloc(Order::ZERO, Kind::Anon)?;
        match from {
            Some(from) => self.physical().ram().copy_shared(from, new.pfn()),
            None => new.zero(),
        }
        Ok(new.publish_mapped(anonymous_key(vma, address)))
    }

    /// Replaces `old` by `entry`, which maps the new page; frees that if the entry has changed.
    fn place(&self, slot: &Slot<'_>, old: Entry, entry: Entry, new: Pfn) -> Step {
        match slot.swap_if(old, entry) {
            Ok(()) => Step::Done,
            Err(_) => {
                self.physical().frame(new).unmap();
                self.physical().put(new);
                Step::Again
            }
        }
    }

    /// Maps a file's page: in a private mapping it will be copied at the first store.
    fn fill_from_file(
        &self,
        vma: &Vma,
        address: VirtAddr,
        slot: &Slot<'_>,
        access: Access,
    ) -> Result<Step, FaultError> {
        let Some(file) = &vma.file else { return Ok(Step::Again) };
        let page = self.page_of(&**file, vma, address)?;
        // Not writable before the first store, because that store must set the soft-dirty mark.
        let mut flags = vma.read_flags();
        if access == Access::Write {
            flags |= Flags::WRITE | Flags::SOFT_DIRTY;
        }
        let pfn = page.pfn();
        // The page is locked, so no move can start before its entry is set.
        self.physical().frame(pfn).map()?;
        let step = self.place(slot, Entry::NONE, Entry::present(pfn, flags), pfn);
        self.physical().update_class(pfn);
        Ok(step)
    }

    /// Fills an empty entry of a private mapping with a copy of the file's page, for a store.
    fn fill_copied(&self, vma: &Vma, address: VirtAddr, slot: &Slot<'_>) -> Result<Step, FaultError> {
        let Some(file) = &vma.file else { return Ok(Step::Again) };
        let page = self.page_of(&**file, vma, address)?;
        self.fill_anonymous(vma, address, slot, Some(page.pfn()))
    }

    /// Gets the page of a file, and checks that it can be mapped here.
    fn page_of<'f>(&self, file: &'f dyn Mappable, vma: &Vma, address: VirtAddr) -> Result<LockedFolio<'f>, FaultError> {
        let page = file.fault(vma.index_of(address)).map_err(|error| at(address, error))?;
        let fits = Arc::ptr_eq(page.physical(), self.physical()) && page.order() == Order::ZERO;
        if fits { Ok(page) } else { Err(FaultError::BadFolio(address)) }
    }

    /// Adds the rights that the access needs to a present entry, as far as the mapping allows.
    fn upgrade(
        &self,
        vma: &Vma,
        address: VirtAddr,
        slot: &Slot<'_>,
        entry: Entry,
        access: Access,
    ) -> Result<Step, FaultError> {
        let mut want = entry;
        if entry.has(Flags::NO_EXECUTE) && vma.protection.contains(Protection::EXECUTE) {
            want = want.without(Flags::NO_EXECUTE);
        }
        want = want.with(vma.read_flags() & Flags::USER);
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
    fn copy_on_write(&self, vma: &Vma, address: VirtAddr, slot: &Slot<'_>, entry: Entry) -> Result<Step, FaultError> {
        let old = entry.pfn();
        // The reference keeps the frame from being freed, or moved, while it's copied.
        let Some(folio) = self.physical().get(old) else { return Ok(Step::Wait(old)) };
        // The lock isn't waited for here: a move that has it fails as long as we have a reference.
        match folio.try_lock() {
            Ok(_lock) => self.copy_locked(vma, address, slot, entry),
            Err(_) => Ok(Step::Wait(old)),
        }
    }

    /// The caller holds a reference to the old page, and its lock.
    fn copy_locked(&self, vma: &Vma, address: VirtAddr, slot: &Slot<'_>, entry: Entry) -> Result<Step, FaultError> {
        let old = entry.pfn();
        let frame = self.physical().frame(old);
        if slot.load() != entry {
            return Ok(Step::Again);
        }
        let mut rights = Flags::EXCLUSIVE;
        rights.set(Flags::WRITE | Flags::SOFT_DIRTY, vma.protection.contains(Protection::WRITE));
        // Two references are the entry's and ours, so no other process has the page. The lock excludes a sharer's fork.
        if frame.state().kind() == Kind::Anon && frame.refs() == 2 {
            let swapped = slot.swap_if(entry, entry.with(rights));
            return Ok(if swapped.is_ok() { Step::Done } else { Step::Again });
        }
        let new = self.new_anonymous(vma, address, Some(old))?;
        // Break, flush, make. If the new entry were set before the flush, one thread could store through it while
        // another still loads the old page by its TLB. (Linux: `wp_page_copy`; the Arm ARM requires it, D8.17.) The
        // migration entry makes other faults wait for our lock.
        let Some(broken) =
            slot.update(|now| (now.without(ACCESSED_DIRTY) == entry.without(ACCESSED_DIRTY)).then(|| now.blocked()))
        else {
            self.physical().frame(new).unmap();
            self.physical().put(new);
            return Ok(Step::Again);
        };
        let mut debt = self.debt();
        crate::rmap::entry_removed(self.physical(), broken, self.table.root_of(), address, Order::ZERO, &mut debt);
        debt.pay();
        let flags = (broken.flags() - Flags::PRESENT - Flags::DIRTY) | rights | Flags::ACCESSED;
        // Only holders of the frame's lock, or of the address space exclusively, change a migration entry.
        slot.replace(broken.blocked(), Entry::present(new, flags));
        Ok(Step::Done)
    }

    /// Maps 2 MiB at once if nothing is mapped yet. `None`: continue with 4 KiB entries, or with the 2 MiB entry as the
    /// leaf.
    fn huge_step(&self, vma: &Vma, address: VirtAddr) -> Result<Option<Step>, FaultError> {
        let start = address.align_down_huge();
        let Some(whole) = VirtRange::new(start, HUGE_ORDER.frames()).filter(|&whole| vma.range.covers(whole)) else {
            return Ok(None);
        };
        let slot = self.table.huge_slot(start)?;
        let entry = slot.load();
        if !entry.is_none() {
            // Either a table with 4 KiB entries, or a 2 MiB entry, which the caller finds as the leaf.
            return Ok(None);
        }
        let Ok(mut new) = self.physical().alloc(HUGE_ORDER, Kind::Anon) else { return Ok(None) };
        new.zero();
        let pfn = new.publish_mapped(anonymous_key(vma, whole.start()));
        Ok(Some(self.place(&slot, Entry::NONE, Entry::present(pfn, self.exclusive_flags(vma) | Flags::HUGE), pfn)))
    }
}

/// Says where the mappings of an anonymous page of `vma` are found.
fn anonymous_key(vma: &Vma, address: VirtAddr) -> Key {
    Key { rmap: vma.anonymous.as_ref().map_or(0, |rmap| rmap.id()), index: vma.index_of(address) }
}

fn needed(access: Access) -> Protection {
    match access {
        Access::Read => Protection::READ,
        Access::Write => Protection::WRITE,
        Access::Execute => Protection::EXECUTE,
    }
}

fn at(address: VirtAddr, error: FileError) -> FaultError {
    match error {
        FileError::BeyondEnd(_) => FaultError::BeyondEnd(address),
        FileError::OutOfMemory(error) => FaultError::OutOfMemory(error),
    }
}
