//! The device: reading, writing and discarding pages.

use alloc::{boxed::Box, string::String, sync::Arc, vec::Vec};
use core::ops::Range;

use pagemove::{
    Engine,
    sync::{AtomicBool, Mutex, Ordering},
    units::PAGE_SIZE,
};

use super::{
    BackingError, BackingStore, BdStat, Compressor, CompressorError, IoStat, MmStat, Page, Room,
    backing::Backing,
    slot::{Flags, RAW, Slot, Stored, fill, same_word},
    spares::{Spare, Spares},
    stats::{Count, Counts},
};
use crate::zsmalloc::{self, Moving, ObjectToken, Pool, StoreError};

/// Settings of a device.
pub struct Options {
    /// The name, for reports.
    pub name: String,
    /// Its size.
    pub pages: u32,
    /// The most pages of a zspage; see [`zsmalloc::Options`].
    pub chain: u32,
    /// The first compresses what is written; the others are for [`Zram::recompress`], by their numbers.
    pub compressors: Vec<Box<dyn Compressor>>,
    /// Where idle pages can go.
    pub backing: Option<Arc<dyn BackingStore>>,
}

impl Options {
    /// A device of so many pages, chains of 8, without a backing store.
    pub fn new(name: impl Into<String>, pages: u32, compressor: Box<dyn Compressor>) -> Self {
        Self { name: name.into(), pages, chain: 8, compressors: alloc::vec![compressor], backing: None }
    }
}

/// Why a page can't be written or read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ZramError {
    /// There is no such page.
    #[error("zram: page {page} is beyond the end; there are {pages}")]
    BeyondEnd {
        /// The page.
        page: u32,
        /// How many there are.
        pages: u32,
    },
    /// No memory for it.
    #[error("zram: no memory for page {page}: {cause}")]
    OutOfMemory {
        /// The page.
        page: u32,
        /// Why.
        cause: StoreError,
    },
    /// The device has as much memory as it may have.
    #[error("zram: page {page} doesn't fit into the limit of {limit} bytes")]
    LimitReached {
        /// The page.
        page: u32,
        /// The limit.
        limit: u64,
    },
    /// What is stored of it isn't what was written. Only this page is lost.
    #[error("zram: what is stored of page {page} is damaged")]
    Corrupt {
        /// The page.
        page: u32,
    },
    /// The backing store failed.
    #[error("zram: page {page}: {cause}")]
    Backing {
        /// The page.
        page: u32,
        /// Why.
        cause: BackingError,
    },
    /// Another recompression or writeback is under way.
    #[error("zram: the device is being compressed again or written back; try again")]
    Busy,
    /// There is none.
    #[error("zram: the device has no backing store")]
    NoBacking,
    /// There is none.
    #[error("zram: the device has no compressor number {0} to compress again with")]
    NoCompressor(usize),
}

/// A call's buffers.
pub(super) struct Buffers {
    pub(super) page: Box<Page>,
    pub(super) room: Box<Room>,
}

impl Buffers {
    /// `None` without memory.
    fn new() -> Option<Self> {
        Some(Self { page: zeros()?, room: zeros()? })
    }
}

/// Makes an array on the heap.
fn zeros<const N: usize>() -> Option<Box<[u8; N]>> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(N).ok()?;
    bytes.resize(N, 0);
    bytes.into_boxed_slice().try_into().ok()
}

/// What was copied of an object.
#[derive(Clone, Copy)]
struct Packed {
    length: usize,
    algorithm: u8,
}

/// The device. All calls may come from several threads at once, and may sleep.
pub struct Zram {
    pub(super) pool: Pool,
    pub(super) slots: Box<[Mutex<Slot>]>,
    pub(super) compressors: Vec<Box<dyn Compressor>>,
    pub(super) backing: Option<Backing>,
    pub(super) buffers: Spares<Buffers>,
    pub(super) counts: Counts,
    limit: Count,
    is_worked_on: AtomicBool,
}

/// A recompression or writeback that is under way.
pub(super) struct Working<'z>(&'z AtomicBool);

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Zram {
    /// Makes an empty device. `None` without memory for its slots, of 16 bytes and a lock for each page.
    ///
    /// Panics without a compressor, with more than 254, or if the chain isn't of 1 to 16 pages.
    pub fn new(engine: &Engine, options: Options) -> Option<Self> {
        let compressors = options.compressors.len();
        assert!((1..usize::from(RAW)).contains(&compressors), "zram: 1 to 254 compressors, not {compressors}");
        let mut slots = Vec::new();
        slots.try_reserve_exact(options.pages as usize).ok()?;
        slots.extend((0..options.pages).map(|_| Mutex::new(Slot::default())));
        Some(Self {
            pool: Pool::new(engine, zsmalloc::Options::new(options.name).with_chain(options.chain)),
            slots: slots.into_boxed_slice(),
            compressors: options.compressors,
            backing: options.backing.map(Backing::new),
            buffers: Spares::default(),
            counts: Counts::default(),
            limit: Count::default(),
            is_worked_on: AtomicBool::new(false),
        })
    }

    /// Gives the number of pages.
    pub fn pages(&self) -> u32 {
        self.slots.len() as u32
    }

    /// Gives the pool of its objects.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Bounds the memory of its objects, in bytes; 0: no bound (Linux: `mem_limit`). What is stored already stays.
    pub fn set_limit(&self, bytes: u64) {
        self.limit.set(bytes);
    }

    /// Writes a page. After a failure it has its old contents.
    pub fn write(&self, page: u32, data: &Page) -> Result<(), ZramError> {
        let slot = self.slot(page)?;
        let stored = self.store(page, data).inspect_err(|_| self.counts.failed_writes.add(1))?;
        self.count(&stored, Count::add);
        if matches!(stored, Stored::Object { algorithm: RAW, .. }) {
            self.counts.huge_since.add(1);
        }
        let old = slot.lock().replace(stored);
        self.discard_stored(old);
        Ok(())
    }

    /// Reads a page; zeros, if it wasn't written. What is damaged gives an error, and other pages can be read.
    pub fn read(&self, page: u32, out: &mut Page) -> Result<(), ZramError> {
        let slot = self.slot(page)?;
        self.load(page, slot, out).inspect_err(|_| self.counts.failed_reads.add(1))
    }

    /// Forgets pages, which are zeros from now on. Pages beyond the end are passed over.
    pub fn discard(&self, pages: Range<u32>) {
        let end = (pages.end as usize).min(self.slots.len());
        for slot in self.slots.get(pages.start as usize..end).unwrap_or_default() {
            let old = slot.lock().replace(Stored::Nothing);
            if !matches!(old, Stored::Nothing) {
                self.counts.freed.add(1);
            }
            self.discard_stored(old);
        }
    }

    /// Marks all stored pages as idle, until they are read or written (Linux: `idle`).
    pub fn mark_idle(&self) {
        for slot in &self.slots {
            let mut slot = slot.lock();
            if !matches!(slot.stored, Stored::Nothing | Stored::Same(_)) {
                slot.flags |= Flags::IDLE;
            }
        }
    }

    /// Moves objects together until `pages` pages are free; gives their number (Linux: `compact`).
    pub fn compact(&self, pages: u64) -> u64 {
        let freed = self.pool.compact(pages).pages;
        self.counts.compacted.add(freed);
        freed
    }

    /// Gives a page's state by letters (Linux: `block_state`).
    pub fn state(&self, page: u32) -> Result<String, ZramError> {
        Ok(self.slot(page)?.lock().letters().into_iter().collect())
    }

    /// Gives the figures of its memory.
    pub fn mm_stat(&self) -> MmStat {
        let counts = &self.counts;
        MmStat {
            orig_data_size: counts.stored.get() * PAGE_SIZE as u64,
            compr_data_size: counts.compressed.get(),
            mem_used_total: self.used(),
            mem_limit: self.limit.get(),
            mem_used_max: counts.most_used.get(),
            same_pages: counts.same.get(),
            pages_compacted: counts.compacted.get(),
            huge_pages: counts.huge.get(),
            huge_pages_since: counts.huge_since.get(),
        }
    }

    /// Gives the figures of its backing store.
    pub fn bd_stat(&self) -> BdStat {
        let counts = &self.counts;
        BdStat {
            bd_count: counts.backed.get(),
            bd_reads: counts.backing_reads.get(),
            bd_writes: counts.backing_writes.get(),
        }
    }

    /// Gives the figures of failures and discards.
    pub fn io_stat(&self) -> IoStat {
        let counts = &self.counts;
        IoStat {
            failed_reads: counts.failed_reads.get(),
            failed_writes: counts.failed_writes.get(),
            invalid_io: counts.invalid.get(),
            notify_free: counts.freed.get(),
        }
    }

    fn slot(&self, page: u32) -> Result<&Mutex<Slot>, ZramError> {
        self.slots.get(page as usize).ok_or_else(|| {
            self.counts.invalid.add(1);
            ZramError::BeyondEnd { page, pages: self.pages() }
        })
    }

    fn used(&self) -> u64 {
        self.pool.pages() * PAGE_SIZE as u64
    }

    /// Makes what is stored of `data`.
    fn store(&self, page: u32, data: &Page) -> Result<Stored, ZramError> {
        if let Some(word) = same_word(data) {
            return Ok(Stored::Same(word));
        }
        let mut buffers = self.buffers(page)?;
        let length = self.compress(page, 0, data, &mut buffers.room)?;
        match length.filter(|&length| self.is_smaller_than_a_page(length)) {
            Some(length) => Ok(Stored::Object {
                token: self.object(page, &buffers.room[..length])?,
                length: length as u16,
                algorithm: 0,
            }),
            None => Ok(Stored::Object { token: self.object(page, data)?, length: PAGE_SIZE as u16, algorithm: RAW }),
        }
    }

    /// Tells whether an object of so many bytes takes less than a page.
    pub(super) fn is_smaller_than_a_page(&self, length: usize) -> bool {
        self.pool.usable_size(length).is_some_and(|size| size < PAGE_SIZE)
    }

    /// Makes an object, within the limit.
    pub(super) fn object(&self, page: u32, data: &[u8]) -> Result<ObjectToken, ZramError> {
        let object = self.pool.store(data).map_err(|cause| ZramError::OutOfMemory { page, cause })?;
        let (used, limit) = (self.used(), self.limit.get());
        if limit > 0 && used > limit {
            return Err(ZramError::LimitReached { page, limit });
        }
        self.counts.most_used.raise(used);
        Ok(object.into_token())
    }

    fn load(&self, page: u32, slot: &Mutex<Slot>, out: &mut Page) -> Result<(), ZramError> {
        let mut buffers = self.buffers(page)?;
        loop {
            let mut locked = slot.lock();
            locked.flags -= Flags::IDLE;
            match locked.stored {
                Stored::Nothing => out.fill(0),
                Stored::Same(word) => fill(out, word),
                Stored::Backed(block) => {
                    let reading = self.backing.as_ref().ok_or(ZramError::NoBacking)?.begin_read(block);
                    drop(locked);
                    let reading = reading.ok_or(ZramError::OutOfMemory { page, cause: StoreError::NoTables })?;
                    self.counts.backing_reads.add(1);
                    reading.read(out).map_err(|cause| ZramError::Backing { page, cause })?;
                }
                Stored::Object { ref token, length, algorithm } => {
                    let packed = Packed { length: usize::from(length), algorithm };
                    let copied = self.copy(token, packed, &mut buffers.room, out);
                    drop(locked);
                    if let Err(moving) = copied {
                        self.pool.wait(moving);
                        continue;
                    }
                    self.unpack(page, packed, &buffers.room, out)?;
                }
            }
            return Ok(());
        }
    }

    /// Copies an object: a page that is stored as it is to `page`, a compressed one to `room`. Doesn't wait.
    fn copy(&self, token: &ObjectToken, packed: Packed, room: &mut Room, page: &mut Page) -> Result<(), Moving> {
        let object = self.pool.try_read(token)?;
        object.copy_to(0, if packed.algorithm == RAW { page } else { &mut room[..packed.length] });
        Ok(())
    }

    /// Restores what was copied.
    fn unpack(&self, number: u32, packed: Packed, room: &Room, page: &mut Page) -> Result<(), ZramError> {
        if packed.algorithm == RAW {
            return Ok(());
        }
        let restored = self.compressors[usize::from(packed.algorithm)].decompress(&room[..packed.length], page);
        restored.map_err(|error| match error {
            CompressorError::NoMemory => ZramError::OutOfMemory { page: number, cause: StoreError::NoTables },
            CompressorError::Data => ZramError::Corrupt { page: number },
        })
    }

    /// Compresses by compressor number `by`; `None` if it can't.
    pub(super) fn compress(
        &self,
        page: u32,
        by: usize,
        data: &Page,
        room: &mut Room,
    ) -> Result<Option<usize>, ZramError> {
        match self.compressors[by].compress(data, room) {
            Ok(length) => Ok(Some(length)),
            Err(CompressorError::Data) => Ok(None),
            Err(CompressorError::NoMemory) => Err(ZramError::OutOfMemory { page, cause: StoreError::NoTables }),
        }
    }

    /// Begins a recompression or writeback: one at a time, or one could take another one's mark for its own.
    pub(super) fn begin(&self) -> Result<Working<'_>, ZramError> {
        match self.is_worked_on.swap(true, Ordering::Acquire) {
            true => Err(ZramError::Busy),
            false => Ok(Working(&self.is_worked_on)),
        }
    }

    /// Begins work without a slot's lock, if the slot has an object and it's wanted: marks the slot, and gives its contents in the page of `buffers`.
    /// [`Self::end_work`], [`Self::end_work_with`] or a change of the slot ends it.
    pub(super) fn begin_work(
        &self,
        page: u32,
        mut wanted: impl FnMut(&Slot) -> bool,
        buffers: &mut Buffers,
    ) -> Result<bool, ZramError> {
        let slot = &self.slots[page as usize];
        loop {
            let mut locked = slot.lock();
            let Stored::Object { token, length, algorithm } = &locked.stored else { return Ok(false) };
            if !wanted(&locked) {
                return Ok(false);
            }
            let packed = Packed { length: usize::from(*length), algorithm: *algorithm };
            if let Err(moving) = self.copy(token, packed, &mut buffers.room, &mut buffers.page) {
                drop(locked);
                self.pool.wait(moving);
                continue;
            }
            locked.flags |= Flags::WORKED_ON;
            drop(locked);
            let unpacked = self.unpack(page, packed, &buffers.room, &mut buffers.page);
            return unpacked.map(|()| true).inspect_err(|_| self.end_work(page, Flags::empty()));
        }
    }

    /// Ends work on a slot, and adds `flags` unless it has changed meanwhile.
    pub(super) fn end_work(&self, page: u32, flags: Flags) {
        let mut slot = self.slots[page as usize].lock();
        if slot.end_work() {
            slot.flags |= flags;
        }
    }

    /// Ends work on a slot: stores `new`, and of the flags keeps `kept`, unless it has changed meanwhile. Tells whether it has not; frees what isn't
    /// stored any more.
    pub(super) fn end_work_with(&self, page: u32, new: Stored, kept: Flags) -> bool {
        self.count(&new, Count::add);
        let mut slot = self.slots[page as usize].lock();
        let is_unchanged = slot.end_work();
        let left = if is_unchanged {
            let flags = slot.flags & kept;
            let old = slot.replace(new);
            slot.flags = flags;
            old
        } else {
            new
        };
        drop(slot);
        self.discard_stored(left);
        is_unchanged
    }

    pub(super) fn buffers(&self, page: u32) -> Result<Spare<'_, Buffers>, ZramError> {
        self.buffers.take(Buffers::new).ok_or(ZramError::OutOfMemory { page, cause: StoreError::NoTables })
    }

    /// Counts what is stored, or what was.
    pub(super) fn count(&self, stored: &Stored, change: fn(&Count, u64)) {
        let counts = &self.counts;
        match stored {
            Stored::Nothing => return,
            Stored::Same(_) => change(&counts.same, 1),
            Stored::Backed(_) => change(&counts.backed, 1),
            Stored::Object { length, algorithm, .. } => {
                change(&counts.compressed, u64::from(*length));
                if *algorithm == RAW {
                    change(&counts.huge, 1);
                }
            }
        }
        change(&counts.stored, 1);
    }

    /// Frees what was stored. Without the slot's lock.
    pub(super) fn discard_stored(&self, old: Stored) {
        self.count(&old, Count::sub);
        match old {
            Stored::Nothing | Stored::Same(_) => (),
            Stored::Object { token, .. } => drop(self.pool.object(token)),
            Stored::Backed(block) => {
                if let Some(backing) = &self.backing {
                    backing.give_back(block);
                }
            }
        }
    }
}

impl Drop for Zram {
    /// Frees all objects: the pool may have other users.
    fn drop(&mut self) {
        for slot in &self.slots {
            let old = slot.lock().replace(Stored::Nothing);
            self.discard_stored(old);
        }
    }
}
