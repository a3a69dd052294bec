//! A page table in the machine's own RAM. Entries are changed only by compare-and-swap.
//!
//! # Protocol
//! A leaf is changed by read, decide, compare-and-swap, and retry if it changed meanwhile. So of a fault, an unmapping,
//! a move and the CPU's accessed or dirty mark, one wins, and the others see its result. Faults add tables at any time.
//! Only the exclusive holder of the address space removes tables, for ranges without mappings and reverse maps, and
//! moves them (`moving`); their frames are freed after the flush. So a walk is safe
//!
//! - under the address space's lock;
//! - under a reverse map's lock, within its range and while [`PageTable::keep_tables`] excludes moves;
//! - as a CPU, while the machine excludes flushes.

use alloc::sync::Arc;
use core::{marker::PhantomData, ops::Range};

use super::{
    Entry, Flags, FlushDebt, Format, Root, Slot, X86_64,
    format::{from_word, to_word},
    place::{BITS, Place, index, limit},
    slot::is_table,
};
use crate::{
    folio::FrozenFolio,
    frame::{Kind, Marks},
    port::Space,
    sync::{AtomicU64, Ordering, RwLock, RwLockReadGuard},
    units::{HUGE_ORDER, Order, PAGE_SHIFT, Pfn, VirtAddr, VirtRange},
    zone::{AllocError, Physical},
};

/// A page table tree, of format `F`.
pub struct PageTable<F: Format = X86_64> {
    root: Arc<Root>,
    /// Number of its address space, for moves of its tables; 0: they stay.
    pub(super) holder: u32,
    /// Held shared by walks without the address space's lock, and exclusively while tables move.
    pub(super) walks: RwLock<()>,
    format: PhantomData<F>,
}

/// Where a walk ends.
pub(super) enum Reached<'a, F: Format> {
    Table(Pfn),
    Huge(Slot<'a, F>),
}

impl<F: Format> PageTable<F> {
    /// The level of the top-level table; the lowest one is level 0.
    pub const TOP: u32 = F::LEVELS - 1;

    /// The first address that a process can't have in this format: the upper half of a top-level table is the kernel's.
    pub const LIMIT: u64 = limit::<F>();

    /// Makes an empty table, whose tables are moved by address space number `holder` (`TableHolder`).
    pub(crate) fn new(root: Arc<Root>, holder: u32) -> Self {
        let table = Self { root, holder, walks: RwLock::new(()), format: PhantomData };
        table.make_movable(table.root(), Place::root::<F>());
        table
    }

    /// Keeps all tables where they are, for a walk without the address space's lock. Innermost: the holder takes no other lock
    /// than those of allocations and flushes.
    pub(crate) fn keep_tables(&self) -> RwLockReadGuard<'_, ()> {
        self.walks.read()
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

    /// The frame of the top-level table (the value of CR3). A CPU that loads it does so in one step with the reading, as
    /// [`Machine::move_root`](crate::port::Machine::move_root) says.
    pub fn root(&self) -> Pfn {
        self.root.pfn()
    }

    /// Finds the leaf entry of `address`, if the tables reach one.
    pub(crate) fn slot(&self, address: VirtAddr) -> Option<Slot<'_, F>> {
        Some(match self.walk(address)? {
            Reached::Table(table) => Slot::new(self.word(table, index(address, 0)), 0),
            Reached::Huge(slot) => slot,
        })
    }

    /// Walks down to the lowest-level table of `address`, or to a 2 MiB entry on the way.
    pub(super) fn walk(&self, address: VirtAddr) -> Option<Reached<'_, F>> {
        if address.get() >= Self::LIMIT {
            // The tables would give those of another address.
            return None;
        }
        let mut table = self.root.pfn();
        for level in (1..F::LEVELS).rev() {
            let word = self.word(table, index(address, level));
            let entry = Self::entry(word, level, Ordering::Acquire);
            if entry.has(Flags::HUGE) {
                return Some(Reached::Huge(Slot::new(word, level)));
            }
            if !entry.is_present() {
                return None;
            }
            table = entry.pfn();
        }
        Some(Reached::Table(table))
    }

    /// Gives the frame of the lowest-level table of `address`, if the tables reach one.
    pub(crate) fn leaf_table(&self, address: VirtAddr) -> Option<Pfn> {
        match self.walk(address)? {
            Reached::Table(table) => Some(table),
            Reached::Huge(_) => None,
        }
    }

    /// Finds the leaf entry of `address`, adding missing tables. A 2 MiB entry on the way is the leaf.
    pub(crate) fn slot_or_create(&self, address: VirtAddr) -> Result<Slot<'_, F>, AllocError> {
        self.descend(address, 0)
    }

    /// Finds the second-level entry of `address`, adding missing tables: empty, a table, or a 2 MiB entry.
    pub(crate) fn huge_slot(&self, address: VirtAddr) -> Result<Slot<'_, F>, AllocError> {
        self.descend(address, 1)
    }

    /// Finds the base entries of `range`, which one lowest-level table serves, adding missing tables. `None` if a 2 MiB
    /// entry is there.
    pub(crate) fn slots_or_create(
        &self,
        range: VirtRange,
    ) -> Result<Option<impl Iterator<Item = Slot<'_, F>> + Clone>, AllocError> {
        if self.slot_or_create(range.start())?.order() > Order::ZERO {
            return Ok(None);
        }
        let Some(table) = self.leaf_table(range.start()) else { return Ok(None) };
        let words = &self.physical().ram_words(table)[index(range.start(), 0)..][..range.pages() as usize];
        Ok(Some(words.iter().map(|word| Slot::new(word, 0))))
    }

    fn descend(&self, address: VirtAddr, to: u32) -> Result<Slot<'_, F>, AllocError> {
        assert!(address.get() < Self::LIMIT, "{address} is beyond the addresses of the format {}", F::NAME);
        let mut table = self.root.pfn();
        for level in (to + 1..F::LEVELS).rev() {
            let word = self.word(table, index(address, level));
            let mut entry = Self::entry(word, level, Ordering::Acquire);
            if entry.is_none() {
                entry = self.add_table(word, Place::new(address, level - 1))?;
            }
            if entry.has(Flags::HUGE) {
                return Ok(Slot::new(word, level));
            }
            table = entry.pfn();
        }
        Ok(Slot::new(self.word(table, index(address, to)), to))
    }

    fn add_table(&self, word: &AtomicU64, place: Place) -> Result<Entry, AllocError> {
        let table = self.new_table(place)?;
        let entry = Entry::table(table.pfn());
        // Release publishes the cleared table.
        let new = to_word::<F>(entry, place.level + 1);
        match word.compare_exchange(0, new, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => {
                let _ = table.into_raw();
                Ok(entry)
            }
            Err(other) => Ok(from_word::<F>(other, place.level + 1)),
        }
    }

    /// Makes an empty lowest-level table for `address`, which isn't linked yet; `Self::fill_table` writes it.
    pub(crate) fn new_leaf_table(&self, address: VirtAddr) -> Result<FrozenFolio<'_>, AllocError> {
        self.new_table(Place::new(address, 0))
    }

    /// Writes the entries of a lowest-level table that isn't linked yet: for the frames from `first` on, with `flags`.
    pub(crate) fn fill_table(table: &FrozenFolio<'_>, first: Pfn, flags: Flags) {
        for (number, word) in (0..).zip(table.words(0)) {
            // Relaxed: published with the entry that points here.
            word.store(to_word::<F>(Entry::present(first.up(number), flags), 0), Ordering::Relaxed);
        }
    }

    fn new_table(&self, place: Place) -> Result<FrozenFolio<'_>, AllocError> {
        let table = self.physical().alloc(Order::ZERO, Kind::PageTable)?;
        // Relaxed: published with the entry that points here.
        table.words(0).iter().for_each(|word| word.store(0, Ordering::Relaxed));
        self.make_movable(table.pfn(), place);
        Ok(table)
    }

    /// Tells whether the table at `place` was made here.
    fn is_ours(&self, table: Pfn, place: Place) -> bool {
        let frame = self.physical().frames().get(table);
        let is_named =
            || frame.is_some_and(|frame| frame.state().is_space_table() && frame.key() == place.key(self.holder));
        self.holder == 0 || is_named()
    }

    fn is_empty(&self, table: Pfn) -> bool {
        self.physical().ram_words(table).iter().all(|word| word.load(Ordering::Relaxed) == 0)
    }

    /// Says whose table it is, so that it can be moved once it's linked.
    fn make_movable(&self, table: Pfn, place: Place) {
        if self.holder != 0 {
            let frame = self.physical().frame(table);
            frame.set_owner(0, place.key(self.holder));
            frame.mark(Marks::SPACE_TABLE);
            self.physical().update_class(table);
        }
    }

    /// Reads an entry in a table of `level`.
    #[inline]
    pub(super) fn entry(word: &AtomicU64, level: u32, ordering: Ordering) -> Entry {
        from_word::<F>(word.load(ordering), level)
    }

    pub(super) fn word(&self, table: Pfn, index: usize) -> &AtomicU64 {
        // `physical` keeps the machine alive, and so the direct map. The tree says that the frame is a table.
        &self.root.physical().ram_words(table)[index]
    }

    /// Calls `see` with the address and slot of each non-empty leaf of the range, in address order.
    pub(crate) fn for_each_leaf<'a>(&'a self, range: VirtRange, mut see: impl FnMut(VirtAddr, Slot<'a, F>)) {
        self.for_each_leaf_below(self.root.pfn(), Self::TOP, VirtAddr::default(), range, &mut see);
    }

    fn for_each_leaf_below<'a>(
        &'a self,
        table: Pfn,
        level: u32,
        base: VirtAddr,
        range: VirtRange,
        see: &mut impl FnMut(VirtAddr, Slot<'a, F>),
    ) {
        let pages = 1u64 << (BITS * level);
        let first = range.start().max(base).vpn().saturating_sub(base.vpn()) / pages;
        let behind = (range.end().vpn() - base.vpn()).div_ceil(pages).min(1 << BITS);
        for number in first..behind {
            let word = self.word(table, number as usize);
            let mut entry = Self::entry(word, level, Ordering::Acquire);
            if entry.is_none() {
                continue;
            }
            let Some(at) = VirtAddr::new(base.get() + ((number * pages) << PAGE_SHIFT)) else { return };
            if level == 0 {
                see(at, Slot::new(word, level));
                continue;
            }
            if entry.has(Flags::HUGE) {
                see(at, Slot::new(word, level));
                // A split of its folio may have put a table here, and `see` may have found that.
                entry = Self::entry(word, level, Ordering::Acquire);
            }
            if is_table(entry) {
                self.for_each_leaf_below(entry.pfn(), level - 1, at, range, see);
            }
        }
    }

    /// Unlinks the tables that cover only `gap`, virtual page numbers without leaves and mappings. The caller holds the
    /// address space exclusively. The frames are kept in the debt.
    ///
    /// A kernel's own tables stay, and so do tables that reach beyond `bounds`, those of all mappings, while they have entries there.
    pub(crate) fn prune(&self, gap: Range<u64>, bounds: VirtRange, debt: &mut FlushDebt<'_>) {
        self.prune_below(self.root.pfn(), Self::TOP, 0, &gap, bounds, debt);
    }

    /// Unlinks the lowest-level table of `address`, whatever entries are left in it, so that a 2 MiB entry can take its
    /// place once `debt`, which keeps it, is paid. The caller holds the address space and all reverse maps of its range
    /// exclusively.
    pub(crate) fn unlink_leaf_table(&self, address: VirtAddr, debt: &mut FlushDebt<'_>) {
        let Ok(slot) = self.huge_slot(address) else { return };
        if let Some(table) = slot.take_table() {
            debt.owe_table(&self.root, address.align_down_huge(), HUGE_ORDER.frames(), table);
        }
    }

    fn prune_below(
        &self,
        table: Pfn,
        level: u32,
        base: u64,
        gap: &Range<u64>,
        bounds: VirtRange,
        debt: &mut FlushDebt<'_>,
    ) {
        let pages = 1u64 << (BITS * level);
        let first = gap.start.saturating_sub(base) / pages;
        // The upper half of the top level is the kernel's.
        let behind = gap.end.min(Self::LIMIT >> PAGE_SHIFT).saturating_sub(base).div_ceil(pages).min(1 << BITS);
        for number in first..behind {
            let word = self.word(table, number as usize);
            // Relaxed, here and below: the address space's lock orders faults' additions, and the flush orders
            // removals.
            let entry = Self::entry(word, level, Ordering::Relaxed);
            if !entry.is_present() || entry.has(Flags::HUGE) {
                continue;
            }
            let at = base + number * pages;
            let start = VirtAddr::new(at << PAGE_SHIFT).unwrap_or_default();
            if !self.is_ours(entry.pfn(), Place::new(start, level - 1)) {
                continue;
            }
            if level > 1 {
                self.prune_below(entry.pfn(), level - 1, at, gap, bounds, debt);
            }
            let is_inside = bounds.start().vpn() <= at && at + pages <= bounds.end().vpn();
            let is_unused = || is_inside || self.is_empty(entry.pfn());
            if gap.start <= at && at + pages <= gap.end && is_unused() {
                word.store(0, Ordering::Relaxed);
                // A CPU may still walk through the table, so its frame is freed after the flush.
                debt.owe_table(&self.root, start, pages as u32, entry.pfn());
            }
        }
    }
}
