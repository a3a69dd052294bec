//! Page faults: not present, write, protection, copy-on-write, and waiting for a page that moves.

use super::{AddressSpace, FileError, Protection, Vma, find};
use crate::{
    frame::{Key, Kind, TooManyMappings},
    paging::{Entry, Flags, Slot},
    report::Counter,
    units::{HUGE_ORDER, Order, Pfn, VirtAddr, VirtRange},
    zone::{AllocError, Physical, Request},
};

/// What an access does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// A load.
    Read,
    /// A store.
    Write,
    /// Fetching an instruction.
    Execute,
}

/// Why an access can't be made good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FaultError {
    /// Nothing is mapped there (`SIGSEGV`, `SEGV_MAPERR`).
    #[error("fault: nothing is mapped at {0}")]
    NotMapped(VirtAddr),
    /// The mapping does not allow the access (`SIGSEGV`, `SEGV_ACCERR`).
    #[error("fault: the mapping at {0} does not allow the access")]
    Protection(VirtAddr),
    /// The file ends before (`SIGBUS`).
    #[error("fault: the file mapped at {0} ends before")]
    BeyondEnd(VirtAddr),
    /// The page is marked as moving, but nobody moves it: a reverse map has not unblocked what it had blocked (`SIGBUS`).
    #[error("fault: the page at {0} was blocked by a move, and no move is there to unblock it")]
    Abandoned(VirtAddr),
    /// No frame is left.
    #[error("fault: {0}")]
    OutOfMemory(#[from] AllocError),
    /// The page has more mappings than can be counted (Linux fails such a fault, too).
    #[error("fault: {0}")]
    TooManyMappings(#[from] TooManyMappings),
}

/// What the processor sets in an entry by itself.
const MARKS: Flags = Flags::ACCESSED.union(Flags::DIRTY);

/// So often a fault finds a migration entry whose frame nobody has locked, before it gives up.
const MOST_IN_VAIN: u32 = 100_000;

/// What a step of a fault came to.
enum Step {
    /// The access can be tried again.
    Done,
    /// The entry changed meanwhile; look again.
    Again,
    /// The page moves; wait for its frame's lock.
    Wait(Pfn),
}

impl AddressSpace {
    /// Makes the access at `address` good, so that it can be tried again; waits if its page is being moved.
    pub fn fault(&self, address: VirtAddr, access: Access) -> Result<(), FaultError> {
        self.fault_for(address, access, false)
    }

    /// As [`Self::fault`]; with `own` an anonymous page is made this mapping's alone as well, also where it can't be
    /// stored to now (Linux: `FAULT_FLAG_UNSHARE`, since 5.19).
    pub(super) fn fault_for(&self, address: VirtAddr, access: Access, own: bool) -> Result<(), FaultError> {
        self.physical().counters().add(Counter::Pgfault, 1);
        let mut blocked_since = None;
        let (mut in_vain, mut tries) = (0, 0);
        loop {
            let step = {
                let vmas = self.vmas.read();
                let vma = find(&vmas, address).ok_or(FaultError::NotMapped(address))?;
                if !vma.protection.contains(needed(access)) {
                    return Err(FaultError::Protection(address));
                }
                self.step(vma, address.page(), access, own)
            };
            let step = match step {
                // Without a lock: movers may have set the last free frames aside.
                Err(FaultError::OutOfMemory(_))
                    if tries < Physical::MOST_TRIES && self.physical().make_room(&base_page()) =>
                {
                    tries += 1;
                    continue;
                }
                step => step?,
            };
            match step {
                Step::Done => break,
                Step::Again => {}
                Step::Wait(pfn) => {
                    blocked_since.get_or_insert_with(|| self.physical().machine().now_ns());
                    // Whoever blocked the entry has the frame's lock until it's unblocked. Found unlocked, the entry has changed by
                    // now; one that never does was left behind, by a reverse map that doesn't do what it says.
                    in_vain = if self.physical().frames().wait_unlocked(pfn) { 0 } else { in_vain + 1 };
                    if in_vain == MOST_IN_VAIN {
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

    fn step(&self, vma: &Vma, address: VirtAddr, access: Access, own: bool) -> Result<Step, FaultError> {
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
        if own
            && !vma.shared
            && !entry.has(Flags::EXCLUSIVE)
            && self.physical().frame(entry.pfn()).state().kind() == Kind::Anon
        {
            return self.copy_on_write(vma, address, &slot, entry);
        }
        self.upgrade(vma, address, &slot, entry, access)
    }

    /// Puts a new frame of the process's own in an empty entry, cleared or with the contents of `from`.
    fn fill_anonymous(
        &self,
        vma: &Vma,
        address: VirtAddr,
        slot: &Slot<'_>,
        from: Option<Pfn>,
    ) -> Result<Step, FaultError> {
        let new = self.new_anonymous(vma, address, from)?;
        Ok(self.place(slot, Entry::NONE, Entry::present(new, self.own_flags(vma)), new))
    }

    /// Flags for a page that is this mapping's alone: writable at once where the mapping is.
    fn own_flags(&self, vma: &Vma) -> Flags {
        let mut flags = vma.read_flags() | Flags::EXCLUSIVE | Flags::SOFT_DIRTY;
        flags.set(Flags::WRITE, vma.protection.contains(Protection::WRITE));
        flags
    }

    /// Allocates an anonymous frame for `address`; its reference and map count are those of the entry to come.
    pub(super) fn new_anonymous(&self, vma: &Vma, address: VirtAddr, from: Option<Pfn>) -> Result<Pfn, AllocError> {
        // A move that comes upon it before its entry is in place finds a reference, or a map count, too many, and leaves it.
        let pfn = self.physical().alloc(Order::ZERO, Kind::Anon)?;
        let ram = self.physical().ram();
        match from {
            Some(from) => ram.copy(from, pfn, Order::ZERO),
            None => ram.zero(pfn, Order::ZERO),
        }
        self.name_anonymous(vma, address, pfn);
        Ok(pfn)
    }

    fn name_anonymous(&self, vma: &Vma, address: VirtAddr, pfn: Pfn) {
        let rmap = vma.anonymous.as_ref().map_or(0, |rmap| rmap.id());
        let frame = self.physical().frame(pfn);
        frame.set_owner(0, Key { rmap, index: vma.index_of(address) });
        frame.map_with_reference();
    }

    /// Puts `entry` for the new frame in place of `old`; frees the frame if the entry changed meanwhile.
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

    /// Maps a file's page: its own in a shared mapping, to be copied at a store in a private one.
    fn fill_from_file(
        &self,
        vma: &Vma,
        address: VirtAddr,
        slot: &Slot<'_>,
        access: Access,
    ) -> Result<Step, FaultError> {
        let Some(file) = &vma.file else { return Ok(Step::Again) };
        let page = file.fault(vma.index_of(address)).map_err(|error| at(address, error))?;
        // Writable with the first store, not before: that store is to set the soft-dirty mark.
        let mut flags = vma.read_flags();
        if access == Access::Write {
            flags |= Flags::WRITE | Flags::SOFT_DIRTY;
        }
        let pfn = page.pfn();
        // Locked, so that it can't begin to move before the entry that a move must find is there.
        self.physical().frame(pfn).map()?;
        let step = self.place(slot, Entry::NONE, Entry::present(pfn, flags), pfn);
        self.physical().update_class(pfn);
        Ok(step)
    }

    /// Puts a copy of a file's page in an empty entry of a private mapping, for a store.
    fn fill_copied(&self, vma: &Vma, address: VirtAddr, slot: &Slot<'_>) -> Result<Step, FaultError> {
        let Some(file) = &vma.file else { return Ok(Step::Again) };
        let page = file.fault(vma.index_of(address)).map_err(|error| at(address, error))?;
        self.fill_anonymous(vma, address, slot, Some(page.pfn()))
    }

    /// Gives a present entry the rights that the access needs, as far as the mapping has them.
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
        // Already as it should be: another thread's fault was faster, only a TLB is behind.
        Ok(if want == entry || slot.swap_if(entry, want).is_ok() { Step::Done } else { Step::Again })
    }

    /// Gives the process a page of its own for a store: the one it has, if nobody else has it, or else a copy.
    fn copy_on_write(&self, vma: &Vma, address: VirtAddr, slot: &Slot<'_>, entry: Entry) -> Result<Step, FaultError> {
        let old = entry.pfn();
        let frame = self.physical().frame(old);
        // Keeps the frame from being freed, or moved, while it's copied.
        if !frame.try_get() {
            return Ok(Step::Wait(old));
        }
        // Not waited for here: a move that holds it fails as long as we have a reference.
        let step = match self.physical().frames().try_lock(old) {
            Some(_lock) => self.copy_locked(vma, address, slot, entry),
            None => Ok(Step::Wait(old)),
        };
        self.physical().put(old);
        step
    }

    /// The caller has a reference to the old page, and its lock.
    fn copy_locked(&self, vma: &Vma, address: VirtAddr, slot: &Slot<'_>, entry: Entry) -> Result<Step, FaultError> {
        let old = entry.pfn();
        let frame = self.physical().frame(old);
        if slot.load() != entry {
            return Ok(Step::Again);
        }
        let mut rights = Flags::EXCLUSIVE;
        rights.set(Flags::WRITE | Flags::SOFT_DIRTY, vma.protection.contains(Protection::WRITE));
        // The entry's reference and ours: no other process has it. Locked, so that no fork of a sharer is half done.
        if frame.state().kind() == Kind::Anon && frame.refs() == 2 {
            let swapped = slot.swap_if(entry, entry.with(rights));
            return Ok(if swapped.is_ok() { Step::Done } else { Step::Again });
        }
        let new = self.new_anonymous(vma, address, Some(old))?;
        // Break, flush, make: were the new entry there before the flush, a thread could store through it, and another one
        // still load the old page by its TLB. (Linux: `wp_page_copy`; the Arm ARM demands it, D8.17.) The migration entry
        // makes other faults wait for the lock that we hold.
        let Some(broken) = slot.update(|now| (now.without(MARKS) == entry.without(MARKS)).then(|| now.blocked()))
        else {
            self.physical().frame(new).unmap();
            self.physical().put(new);
            return Ok(Step::Again);
        };
        let mut debt = self.debt();
        crate::rmap::entry_removed(self.physical(), broken, self.id(), address, Order::ZERO, &mut debt);
        debt.pay();
        let flags = (broken.flags() - Flags::PRESENT - Flags::DIRTY) | rights | Flags::ACCESSED;
        // Whatever changes a migration entry has the frame's lock or excludes this fault from the address space.
        slot.replace(broken.blocked(), Entry::present(new, flags));
        Ok(Step::Done)
    }

    /// Maps 2 MiB at once where nothing is mapped yet, or deals with the 2 MiB entry that is there; `None`: as 4 KiB.
    fn huge_step(&self, vma: &Vma, address: VirtAddr) -> Result<Option<Step>, FaultError> {
        let start = address.align_down_huge();
        let Some(whole) = VirtRange::new(start, HUGE_ORDER.frames()).filter(|&whole| vma.range.covers(whole)) else {
            return Ok(None);
        };
        let slot = self.table.huge_slot(start)?;
        let entry = slot.load();
        if !entry.is_none() {
            // A table: some of it is mapped by 4 KiB already. A 2 MiB entry is found as the leaf.
            return Ok(None);
        }
        let Ok(pfn) = self.physical().alloc(HUGE_ORDER, Kind::Anon) else { return Ok(None) };
        self.physical().ram().zero(pfn, HUGE_ORDER);
        self.name_anonymous(vma, whole.start(), pfn);
        Ok(Some(self.place(&slot, Entry::NONE, Entry::present(pfn, self.own_flags(vma) | Flags::HUGE), pfn)))
    }
}

/// What a fault lacks when it finds no frame, of whatever kind: larger ones fall back to base pages.
fn base_page() -> Request {
    Request::new(Order::ZERO, Kind::Anon)
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
