//! Fork: a second address space with the same mappings. Anonymous pages are shared until one side stores.

use super::{AddressSpace, SpaceError, Vma, split::Stop, vma::Vmas};
use crate::{
    frame::Kind,
    paging::{Cursor, Entry, Flags, FlushDebt, Format, Slot},
    rmap::SplitError,
    units::{Order, VirtAddr},
    zone::AllocError,
};

impl<F: Format> AddressSpace<F> {
    /// Makes the child's address space. After a failure the parent is unchanged, except that some pages copy on the
    /// next store.
    pub fn fork(&self) -> Result<AddressSpace<F>, SpaceError> {
        self.change(|vmas, _| self.try_fork(vmas, "fork"))
    }

    fn try_fork(&self, vmas: &Vmas, stage: &'static str) -> Result<AddressSpace<F>, Stop> {
        let child = Self::with_format(&self.engine, self.bounds)?;
        // Its tables must not move while they are filled.
        let mut of_child = child.vmas.write();
        let mut debt = self.debt();
        let mut result = Ok(());
        for vma in vmas.values() {
            vma.link(&child.table);
            of_child.insert(vma.range.start(), vma.clone());
            result = self.copy_entries(&child, vma, &mut debt, stage);
            if result.is_err() {
                break;
            }
        }
        // Before the child runs, the parent's stores must fault.
        debt.pay();
        drop(of_child);
        result.map(|()| child)
    }

    fn copy_entries(
        &self,
        child: &AddressSpace<F>,
        vma: &Vma,
        debt: &mut FlushDebt<'_>,
        stage: &'static str,
    ) -> Result<(), Stop> {
        // Before the locks: a pinned 2 MiB page is copied in parts, since there may be no such folio for the child.
        let mut result = Ok(());
        self.table.for_each_leaf(vma.range, |address, slot| {
            if result.is_ok() && slot.order() > Order::ZERO && self.is_pinned(vma, slot.load()) {
                result = self.split_for(address, stage);
            }
        });
        result?;
        // Exclusive, so that a move sees both entries or one, and none appears after its walk. Lock order: file first.
        let mut result = Ok(());
        let mut maps = vma.reverse_maps();
        let _first = maps.next().map(|map| map.write());
        let _second = maps.next().map(|map| map.write());
        let mut targets = Cursor::new(&child.table);
        self.table.for_each_leaf(vma.range, |address, slot| {
            result = result.and_then(|()| self.copy_entry(child, &mut targets, vma, address, &slot, debt));
        });
        result.map_err(|error| error.at(stage).into())
    }

    fn copy_entry(
        &self,
        child: &AddressSpace<F>,
        targets: &mut Cursor<'_, F>,
        vma: &Vma,
        address: VirtAddr,
        slot: &Slot<'_, F>,
        debt: &mut FlushDebt<'_>,
    ) -> Result<(), SplitError> {
        let order = slot.order();
        let to = match order {
            Order::ZERO => targets.slot_or_create(address)?,
            _ => child.table.huge_slot(address)?,
        };
        loop {
            let entry = slot.load();
            if entry.is_none() {
                return Ok(());
            }
            let pfn = entry.pfn();
            if self.is_pinned(vma, entry) {
                match self.copy_pinned(child, vma, address, slot, entry)? {
                    Some(copy) => to.fill(copy),
                    None => continue,
                }
                return Ok(());
            }
            let copy = if vma.shared { entry } else { entry.without(Flags::WRITE | Flags::EXCLUSIVE) };
            if copy != entry {
                if slot.swap_if(entry, copy).is_err() {
                    continue;
                }
                // A migration entry too: the move that blocked it may not have flushed yet.
                debt.owe(self.table.root_of(), address, order);
            }
            if copy.is_present() && vma.device.is_none() {
                // The parent's entry holds a reference, and can't change while we hold its address space and reverse
                // maps. So the folio was mapped before, and its class stays the same.
                self.physical().frames().map(pfn, order)?;
            }
            // Accessed and dirty belong to the parent's accesses.
            to.fill(copy.without(Flags::DIRTY | Flags::ACCESSED));
            return Ok(());
        }
    }

    /// Tells whether `entry` maps a page of the process's own that a device has pinned.
    fn is_pinned(&self, vma: &Vma, entry: Entry) -> bool {
        !vma.shared && entry.has(Flags::EXCLUSIVE) && {
            let head = self.physical().frames().head(entry.pfn());
            head.state().kind() == Kind::Anon && head.pins() > 0
        }
    }

    /// Copies a pinned page for the child now, because the device's page must stay the parent's. Also during a move,
    /// when its entry is a migration entry. (Linux: `copy_present_page`.) Gives the child's entry; `None`: retry.
    fn copy_pinned(
        &self,
        child: &AddressSpace<F>,
        vma: &Vma,
        address: VirtAddr,
        slot: &Slot<'_, F>,
        entry: Entry,
    ) -> Result<Option<Entry>, AllocError> {
        let pfn = entry.pfn();
        // The reference prevents a move even if the page is unpinned now. If it is frozen, it was unpinned and is
        // moving.
        let Some(_reference) = self.physical().get(pfn) else {
            self.physical().machine().pause();
            return Ok(None);
        };
        let now = slot.load();
        if now.is_none() || now.pfn() != pfn {
            return Ok(None);
        }
        let new = child.new_anonymous(vma, address, slot.order(), Some(pfn))?;
        // Dirty, since no backing store has the copy.
        let flags = entry.flags() - Flags::PRESENT - Flags::MIGRATION;
        Ok(Some(Entry::present(new, flags | Flags::DIRTY)))
    }
}
