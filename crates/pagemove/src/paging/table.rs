//! A page table: four levels of x86-64, in the machine's own RAM. Entries are changed only by compare-and-swap.
//!
//! # Protocol
//! A leaf is changed by read, decide, compare-and-swap, and retry if it changed meanwhile. So of a fault, an unmapping,
//! a move and the CPU's accessed or dirty mark, one wins, and the others see its result. Faults add tables at any time.
//! Only the exclusive holder of the address space removes tables, for ranges without mappings and reverse maps, and
//! their frames are freed after the flush. So a walk is safe under the address space's lock, under a reverse map's lock
//! within its range, or while the machine excludes flushes.

use alloc::sync::Arc;
use core::ops::Range;

use super::{Entry, Flags, FlushDebt, Root};
use crate::{
    folio::FrozenFolio,
    frame::Kind,
    port::{Space, SpaceId},
    sync::{AtomicU64, Ordering},
    units::{HUGE_ORDER, Order, PAGE_SHIFT, Pfn, VirtAddr, VirtRange},
    zone::{AllocError, Physical},
};

const LEVELS: u32 = 4;
const BITS: u32 = 9;

/// A page table tree.
pub struct PageTable {
    root: Arc<Root>,
}

/// The kind of access that a CPU walks the tables for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Walk {
    /// A load.
    Load,
    /// A store.
    Store,
    /// Fetching an instruction.
    Fetch,
}

/// The result of a CPU's walk, kept in its TLB until flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Translation {
    /// First frame of the page.
    pub first: Pfn,
    /// Size of the page: order 0 or 9.
    pub order: Order,
    /// A store needs no further walk: it is allowed, and the dirty mark is set.
    pub storable: bool,
}

/// A leaf entry's location in the tree.
///
/// A split of a folio puts a table in the place of a 2 MiB entry, at any time except under the exclusive lock of the
/// folio's reverse map. The calls then leave the table alone: `load` and `take` give the empty entry.
#[derive(Clone, Copy)]
pub struct Slot<'a> {
    word: &'a AtomicU64,
    order: Order,
}

/// Where a walk ends.
enum Reached<'a> {
    Table(Pfn),
    Huge(Slot<'a>),
}

impl Slot<'_> {
    /// The order that the leaf maps: 0 or 9.
    pub fn order(&self) -> Order {
        self.order
    }

    /// Tells whether nothing is there: neither an entry nor a table.
    pub(crate) fn is_empty(&self) -> bool {
        // Relaxed: what is put there later is checked by its swap.
        self.word.load(Ordering::Relaxed) == 0
    }

    /// Gives the frame of the page at `address`, which `entry` maps.
    pub(crate) fn page_of(&self, entry: Entry, address: VirtAddr) -> Pfn {
        entry.pfn().up(address.vpn() as u32 & (self.order.frames() - 1))
    }

    /// Reads the entry.
    pub fn load(&self) -> Entry {
        // Acquire pairs with the Release of `swap_if`: the frame's fields are at least as new as its mapping.
        let entry = Entry::from_bits(self.word.load(Ordering::Acquire));
        if self.order > Order::ZERO && is_table(entry) { Entry::NONE } else { entry }
    }

    /// Changes the entry from `old` to `new`; gives the current entry if it is no longer `old`.
    pub(crate) fn swap_if(&self, old: Entry, new: Entry) -> Result<(), Entry> {
        // AcqRel: Release publishes the frame's fields and contents to walks; Acquire as in `load`. A failed swap may
        // be relaxed: its result is only compared, or swapped again.
        self.word
            .compare_exchange(old.bits(), new.bits(), Ordering::AcqRel, Ordering::Relaxed)
            .map(drop)
            .map_err(Entry::from_bits)
    }

    /// Changes the entry from `old` to `new`; nobody else may change it meanwhile.
    pub(crate) fn replace(&self, old: Entry, new: Entry) {
        let swapped = self.swap_if(old, new);
        assert_eq!(swapped, Ok(()), "an entry changed under its holder");
    }

    /// Empties the entry; gives its old value.
    pub(crate) fn take(&self) -> Entry {
        if self.order == Order::ZERO {
            return Entry::from_bits(self.word.swap(0, Ordering::AcqRel));
        }
        self.update(|entry| (!is_table(entry)).then_some(Entry::NONE)).unwrap_or(Entry::NONE)
    }

    /// Changes the entry by `change`, retrying on races; does nothing if that gives `None`. Gives the old entry.
    pub(crate) fn update(&self, mut change: impl FnMut(Entry) -> Option<Entry>) -> Option<Entry> {
        let mut old = self.load();
        loop {
            if self.order > Order::ZERO && is_table(old) {
                return None;
            }
            let new = change(old)?;
            match self.swap_if(old, new) {
                Ok(()) => return Some(old),
                Err(now) => old = now,
            }
        }
    }
}

impl PageTable {
    /// Makes an empty table for address space `space`.
    pub fn new(physical: Arc<Physical>, id: SpaceId) -> Result<Self, AllocError> {
        Ok(Self { root: Root::new(physical, id)? })
    }

    /// The address space, for flushes.
    pub fn space(&self) -> Space {
        self.root.space()
    }

    /// The memory that the tables are in.
    pub(crate) fn physical(&self) -> &Arc<Physical> {
        self.root.physical()
    }

    /// The root, for flushes.
    pub(crate) fn root_of(&self) -> &Arc<Root> {
        &self.root
    }

    /// The frame of the top-level table (the value of CR3).
    pub fn root(&self) -> Pfn {
        self.root.pfn()
    }

    /// Finds the leaf entry of `address`, if the tables reach one.
    pub(crate) fn slot(&self, address: VirtAddr) -> Option<Slot<'_>> {
        Some(match self.walk(address)? {
            Reached::Table(table) => Slot { word: self.word(table, index(address, 0)), order: Order::ZERO },
            Reached::Huge(slot) => slot,
        })
    }

    /// Walks down to the lowest-level table of `address`, or to a 2 MiB entry on the way.
    fn walk(&self, address: VirtAddr) -> Option<Reached<'_>> {
        let mut table = self.root.pfn();
        for level in (1..LEVELS).rev() {
            let word = self.word(table, index(address, level));
            let entry = Entry::from_bits(word.load(Ordering::Acquire));
            if entry.has(Flags::HUGE) {
                return Some(Reached::Huge(Slot { word, order: HUGE_ORDER }));
            }
            if !entry.is_present() {
                return None;
            }
            table = entry.pfn();
        }
        Some(Reached::Table(table))
    }

    /// Walks like a CPU: checks the rights, and sets the accessed mark, and for a store the dirty mark, atomically with
    /// the read of the entry. `None`: the access faults.
    ///
    /// # Safety
    /// The caller acts for a CPU of the machine: no flush ends between the walk's begin and its end, so that no table on the way is
    /// freed meanwhile.
    #[allow(unsafe_code, reason = "marks are written through tables that only the machine's flushes keep")]
    pub unsafe fn translate(&self, address: VirtAddr, access: Walk) -> Option<Translation> {
        translate(self.slot(address)?, access)
    }

    /// Gives the frame of the lowest-level table of `address`, if the tables reach one: what a CPU keeps of the upper levels.
    pub fn leaf_table(&self, address: VirtAddr) -> Option<Pfn> {
        match self.walk(address)? {
            Reached::Table(table) => Some(table),
            Reached::Huge(_) => None,
        }
    }

    /// Finds the leaf entry of `address`, adding missing tables. A 2 MiB entry on the way is the leaf.
    pub(crate) fn slot_or_create(&self, address: VirtAddr) -> Result<Slot<'_>, AllocError> {
        self.descend(address, 0)
    }

    /// Finds the second-level entry of `address`, adding missing tables: empty, a table, or a 2 MiB entry.
    pub(crate) fn huge_slot(&self, address: VirtAddr) -> Result<Slot<'_>, AllocError> {
        self.descend(address, 1)
    }

    /// Finds the base entries of `range`, which one lowest-level table serves, adding missing tables. `None` if a 2 MiB
    /// entry is there.
    pub(crate) fn slots_or_create(
        &self,
        range: VirtRange,
    ) -> Result<Option<impl Iterator<Item = Slot<'_>> + Clone>, AllocError> {
        if self.slot_or_create(range.start())?.order() > Order::ZERO {
            return Ok(None);
        }
        let Some(table) = self.leaf_table(range.start()) else { return Ok(None) };
        let words = &self.physical().ram_words(table)[index(range.start(), 0)..][..range.pages() as usize];
        Ok(Some(words.iter().map(|word| Slot { word, order: Order::ZERO })))
    }

    fn descend(&self, address: VirtAddr, to: u32) -> Result<Slot<'_>, AllocError> {
        let mut table = self.root.pfn();
        for level in (to + 1..LEVELS).rev() {
            let word = self.word(table, index(address, level));
            let mut entry = Entry::from_bits(word.load(Ordering::Acquire));
            if entry.is_none() {
                entry = self.add_table(word)?;
            }
            if entry.has(Flags::HUGE) {
                return Ok(Slot { word, order: HUGE_ORDER });
            }
            table = entry.pfn();
        }
        let order = if to == 0 { Order::ZERO } else { HUGE_ORDER };
        Ok(Slot { word: self.word(table, index(address, to)), order })
    }

    fn add_table(&self, word: &AtomicU64) -> Result<Entry, AllocError> {
        let table = new_table(self.root.physical())?;
        let entry = Entry::table(table.pfn());
        // Release publishes the cleared table.
        match word.compare_exchange(0, entry.bits(), Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => {
                let _ = table.into_raw();
                Ok(entry)
            }
            Err(other) => Ok(Entry::from_bits(other)),
        }
    }

    /// Makes an empty bottom-level table that isn't linked yet.
    pub(crate) fn new_leaf_table(&self) -> Result<FrozenFolio<'_>, AllocError> {
        new_table(self.root.physical())
    }

    fn word(&self, table: Pfn, index: usize) -> &AtomicU64 {
        // `physical` keeps the machine alive, and so the direct map. The tree says that the frame is a table.
        &self.root.physical().ram_words(table)[index]
    }

    /// Calls `see` with the address and slot of each non-empty leaf of the range, in address order.
    pub(crate) fn for_each_leaf<'a>(&'a self, range: VirtRange, mut see: impl FnMut(VirtAddr, Slot<'a>)) {
        self.for_each_leaf_below(self.root.pfn(), LEVELS - 1, VirtAddr::default(), range, &mut see);
    }

    fn for_each_leaf_below<'a>(
        &'a self,
        table: Pfn,
        level: u32,
        base: VirtAddr,
        range: VirtRange,
        see: &mut impl FnMut(VirtAddr, Slot<'a>),
    ) {
        let pages = 1u64 << (BITS * level);
        let first = range.start().max(base).vpn().saturating_sub(base.vpn()) / pages;
        let behind = (range.end().vpn() - base.vpn()).div_ceil(pages).min(1 << BITS);
        for number in first..behind {
            let word = self.word(table, number as usize);
            let mut entry = Entry::from_bits(word.load(Ordering::Acquire));
            if entry.is_none() {
                continue;
            }
            let Some(at) = VirtAddr::new(base.get() + ((number * pages) << PAGE_SHIFT)) else { return };
            if level == 0 {
                see(at, Slot { word, order: Order::ZERO });
                continue;
            }
            if entry.has(Flags::HUGE) {
                see(at, Slot { word, order: HUGE_ORDER });
                // A split of its folio may have put a table here, and `see` may have found that.
                entry = Entry::from_bits(word.load(Ordering::Acquire));
            }
            if is_table(entry) {
                self.for_each_leaf_below(entry.pfn(), level - 1, at, range, see);
            }
        }
    }

    /// Unlinks the tables that cover only `gap`, virtual page numbers without leaves and mappings. The caller holds the
    /// address space exclusively. The frames are kept in the debt.
    pub(crate) fn prune(&self, gap: Range<u64>, debt: &mut FlushDebt<'_>) {
        self.prune_below(self.root.pfn(), LEVELS - 1, 0, &gap, debt);
    }

    /// Unlinks the lowest-level table of `address`, whatever entries are left in it, so that a 2 MiB entry can take its
    /// place once `debt`, which keeps it, is paid. The caller holds the address space and all reverse maps of its range
    /// exclusively.
    pub(crate) fn unlink_leaf_table(&self, address: VirtAddr, debt: &mut FlushDebt<'_>) {
        let Ok(slot) = self.huge_slot(address) else { return };
        // Relaxed: as in `prune`.
        let entry = Entry::from_bits(slot.word.load(Ordering::Relaxed));
        if is_table(entry) {
            slot.word.store(0, Ordering::Relaxed);
            debt.owe_table(&self.root, address.align_down_huge(), HUGE_ORDER.frames(), entry.pfn());
        }
    }

    fn prune_below(&self, table: Pfn, level: u32, base: u64, gap: &Range<u64>, debt: &mut FlushDebt<'_>) {
        let pages = 1u64 << (BITS * level);
        let first = gap.start.saturating_sub(base) / pages;
        // The upper half of the top level is the kernel's.
        let behind = gap.end.min(VirtAddr::LIMIT >> PAGE_SHIFT).saturating_sub(base).div_ceil(pages).min(1 << BITS);
        for number in first..behind {
            let word = self.word(table, number as usize);
            // Relaxed, here and below: the address space's lock orders faults' additions, and the flush orders
            // removals.
            let entry = Entry::from_bits(word.load(Ordering::Relaxed));
            if !entry.is_present() || entry.has(Flags::HUGE) {
                continue;
            }
            let at = base + number * pages;
            if level > 1 {
                self.prune_below(entry.pfn(), level - 1, at, gap, debt);
            }
            if gap.start <= at && at + pages <= gap.end {
                word.store(0, Ordering::Relaxed);
                // A CPU may still walk through the table, so its frame is freed after the flush.
                let start = VirtAddr::new(at << PAGE_SHIFT).unwrap_or_default();
                debt.owe_table(&self.root, start, pages as u32, entry.pfn());
            }
        }
    }
}

/// Tells whether an entry above the lowest level points to a table.
fn is_table(entry: Entry) -> bool {
    entry.is_present() && !entry.has(Flags::HUGE)
}

/// Does what a CPU's walk does at the leaf: see [`PageTable::translate`].
fn translate(slot: Slot<'_>, access: Walk) -> Option<Translation> {
    let mut entry = slot.load();
    loop {
        let needed = match access {
            Walk::Load => Flags::PRESENT | Flags::USER,
            Walk::Store => Flags::PRESENT | Flags::USER | Flags::WRITE,
            Walk::Fetch => Flags::PRESENT | Flags::USER,
        };
        if !entry.has(needed) || (access == Walk::Fetch && entry.has(Flags::NO_EXECUTE)) {
            return None;
        }
        if slot.order() == HUGE_ORDER && !entry.has(Flags::HUGE) {
            // Found as a 2 MiB migration entry, and split since: it points to a table now. The fault that follows walks again.
            return None;
        }
        let marks = if access == Walk::Store { Flags::ACCESSED | Flags::DIRTY } else { Flags::ACCESSED };
        let marked = entry.with(marks);
        if marked == entry || slot.swap_if(entry, marked).is_ok() {
            let storable = marked.has(Flags::WRITE | Flags::DIRTY);
            return Some(Translation { first: marked.pfn(), order: slot.order(), storable });
        }
        entry = slot.load();
    }
}

/// Walks like a CPU that has kept the lowest-level table of `address`, whose entries are `table`, from an earlier walk.
pub fn translate_in(table: &[AtomicU64; 512], address: VirtAddr, access: Walk) -> Option<Translation> {
    translate(Slot { word: &table[index(address, 0)], order: Order::ZERO }, access)
}

fn index(address: VirtAddr, level: u32) -> usize {
    (address.vpn() >> (BITS * level)) as usize & ((1 << BITS) - 1)
}

fn new_table(physical: &Arc<Physical>) -> Result<FrozenFolio<'_>, AllocError> {
    let table = physical.alloc(Order::ZERO, Kind::PageTable)?;
    // Relaxed: published with the entry that points here.
    table.words(0).iter().for_each(|word| word.store(0, Ordering::Relaxed));
    Ok(table)
}
