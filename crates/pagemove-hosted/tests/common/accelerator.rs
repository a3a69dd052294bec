//! A device with a page table of its own (a GPU, an IOMMU), which sees a driver's pages alone or together with processes: the
//! reverse map that it brings, and its accesses, which wait while a page moves.
#![allow(unsafe_code, reason = "a reverse map is an unsafe trait")]

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

#[cfg(feature = "shuttle")]
use shuttle::sync::{Condvar, Mutex, MutexGuard};
#[cfg(not(feature = "shuttle"))]
use std::sync::{Condvar, Mutex, MutexGuard};

use pagemove::{
    Engine,
    folio::{LockedFolio, Migration},
    movable::PageIndex,
    paging::FlushDebt,
    rmap::{
        RangeMap, Registered, ReverseMap, SplitError, device_mapped, device_unmapped, mapping_rebound, mapping_removed,
    },
    sync::{AtomicU64, Ordering},
    units::Pfn,
    zone::Physical,
};

use super::raw;

/// An entry of the device's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceEntry {
    Runs(Pfn),
    /// The page moves: who needs it waits.
    Stopped(Pfn),
}

/// The device. An access holds the lock of its table, so that blocking an entry waits for the accesses under way.
pub struct Accelerator {
    engine: Arc<Engine>,
    index: Arc<PageIndex>,
    processes: Arc<RangeMap>,
    table: Mutex<BTreeMap<u32, DeviceEntry>>,
    running: Condvar,
    stops: AtomicU64,
    registered: Mutex<Option<Registered<dyn ReverseMap>>>,
}

impl Accelerator {
    /// Makes a device that shares with processes the pages that `index` gets from now on.
    pub fn attach(engine: &Arc<Engine>, index: &Arc<PageIndex>) -> Arc<Self> {
        let this = Arc::new(Self {
            engine: engine.clone(),
            processes: index.reverse_map().clone(),
            index: index.clone(),
            table: Mutex::default(),
            running: Condvar::new(),
            stops: AtomicU64::new(0),
            registered: Mutex::default(),
        });
        let map: Weak<Self> = Arc::downgrade(&this);
        let registered = engine.reverse_maps().add(map);
        this.index.set_reverse_map(registered.number());
        *this.registered.lock().unwrap() = Some(registered);
        this
    }

    fn physical(&self) -> &Physical {
        self.engine.physical()
    }

    /// Puts a page, made if there is none, into the device's table.
    pub fn map(&self, page: u32) {
        let held = self.index.lock_or_insert(page).unwrap();
        let mut table = self.table.lock().unwrap();
        let number = held.number_of(page).unwrap();
        let entry = DeviceEntry::Runs(held.pfn().up(number));
        assert_eq!(table.insert(page, entry), None, "the device maps page {page} already");
        device_mapped(&held, number).unwrap();
    }

    /// Takes a page out of the device's table, also in the midst of its move; false if it isn't there.
    pub fn unmap(&self, page: u32) -> bool {
        let mut table = self.table.lock().unwrap();
        let Some(entry) = table.remove(&page) else { return false };
        if let DeviceEntry::Runs(pfn) = entry {
            // SAFETY: counted by `map` or `rebind`; taken out of the table just now, under its lock.
            unsafe { device_unmapped(self.physical(), pfn) };
        }
        true
    }

    /// Takes all pages out of the device's table, as closing it does.
    pub fn close(&self) {
        let pages: Vec<u32> = self.table.lock().unwrap().keys().copied().collect();
        for page in pages {
            self.unmap(page);
        }
    }

    pub fn entry(&self, page: u32) -> Option<DeviceEntry> {
        self.table.lock().unwrap().get(&page).copied()
    }

    /// How many entries have been stopped.
    pub fn stops(&self) -> u64 {
        self.stops.load(Ordering::SeqCst)
    }

    /// Waits until a page runs; `None` if the device does not map it.
    fn running(&self, page: u32) -> Option<(MutexGuard<'_, BTreeMap<u32, DeviceEntry>>, Pfn)> {
        let mut table = self.table.lock().unwrap();
        loop {
            match table.get(&page).copied()? {
                DeviceEntry::Runs(pfn) => return Some((table, pfn)),
                DeviceEntry::Stopped(_) => table = self.running.wait(table).unwrap(),
            }
        }
    }

    fn access<R>(&self, page: u32, word: usize, act: impl FnOnce(&AtomicU64) -> R) -> Option<R> {
        let (_table, pfn) = self.running(page)?;
        Some(act(&raw::words(self.physical(), pfn)[word]))
    }

    pub fn load(&self, page: u32, word: usize) -> Option<u64> {
        self.access(page, word, |word| word.load(Ordering::SeqCst))
    }

    pub fn add(&self, page: u32, word: usize, by: u64) -> Option<u64> {
        self.access(page, word, |word| word.fetch_add(by, Ordering::SeqCst))
    }
}

// SAFETY: an access holds the table's lock, and uses a frame only by an entry that runs; such an entry is counted.
unsafe impl ReverseMap for Accelerator {
    fn block(&self, physical: &Physical, pages: &mut [Migration], wait: bool, debt: &mut FlushDebt<'_>) {
        self.processes.block(physical, pages, wait, debt);
        let mut table = self.table.lock().unwrap();
        for page in pages.iter_mut().filter(|page| !page.stays()) {
            for number in 0..page.order().frames() {
                let src = page.src().up(number);
                if let Some(entry) = table.get_mut(&(page.key().index + number))
                    && *entry == DeviceEntry::Runs(src)
                {
                    *entry = DeviceEntry::Stopped(src);
                    // SAFETY: just blocked; an entry that is stopped already isn't counted again.
                    unsafe { mapping_removed(physical, src) };
                    page.set_blocked();
                    self.stops.fetch_add(1, Ordering::SeqCst);
                }
            }
        }
    }

    fn rebind(&self, physical: &Physical, pages: &[Migration]) {
        self.processes.rebind(physical, pages);
        let mut table = self.table.lock().unwrap();
        for (page, number) in pages.iter().flat_map(|page| (0..page.order().frames()).map(move |number| (page, number)))
        {
            if let Some(entry) = table.get_mut(&(page.key().index + number))
                && *entry == DeviceEntry::Stopped(page.src().up(number))
            {
                // SAFETY: was blocked by this move, and runs from now on.
                unsafe { mapping_rebound(physical, page.target().up(number)) };
                *entry = DeviceEntry::Runs(page.target().up(number));
            }
        }
        self.running.notify_all();
    }

    fn unmap(&self, folio: &LockedFolio<'_>, debt: &mut FlushDebt<'_>) {
        self.processes.unmap(folio, debt);
        let (index, mut table) = (folio.key().index, self.table.lock().unwrap());
        for number in 0..folio.order().frames() {
            let pfn = folio.pfn().up(number);
            if table.get(&(index + number)) == Some(&DeviceEntry::Runs(pfn)) {
                table.remove(&(index + number));
                // SAFETY: as in `Self::unmap`.
                unsafe { device_unmapped(folio.physical(), pfn) };
            }
        }
    }

    fn split(&self, folio: &LockedFolio<'_>) -> Result<(), SplitError> {
        self.processes.split(folio)
    }
}

impl Drop for Accelerator {
    fn drop(&mut self) {
        self.close();
    }
}
