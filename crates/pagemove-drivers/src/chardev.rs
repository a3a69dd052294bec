//! A character device with private pages for each open file, mapped by `mmap` and `fault`: the founding case.
//!
//! Its pages have the driver's operations **and** the file's reverse map. Several processes can map them at once, at
//! different addresses and with different protections, and the driver itself can access them; they move meanwhile.

use alloc::{string::String, sync::Arc};
use core::sync::atomic::{AtomicU64, Ordering};

use pagemove::{
    Engine,
    folio::{FrozenFolio, LockedFolio},
    frame::Kind,
    movable::{MigrationRun, MovableOps, PageIndex, Registration},
    rmap::RangeMap,
    space::{FileError, Mappable},
    units::{Orders, Pfn},
    zone::AllocError,
};

/// A character device.
pub struct CharDevice {
    engine: Arc<Engine>,
    name: String,
}

/// An open file of the device, with private pages. They exist until it is dropped: closed, and not mapped any more.
pub struct DeviceFile {
    driver: Arc<Driver>,
    registration: Registration,
    pages: u32,
}

/// The owner of a file's pages.
struct Driver {
    name: String,
    index: Arc<PageIndex>,
    moves: AtomicU64,
}

impl MovableOps for Driver {
    fn name(&self) -> &str {
        &self.name
    }

    fn splits(&self) -> bool {
        true
    }

    fn migrate(&self, run: &mut MigrationRun<'_>) {
        self.index.repoint(run);
        self.moves.fetch_add(run.exchanged().count() as u64, Ordering::Relaxed);
    }
}

impl CharDevice {
    /// Makes the device.
    pub fn new(engine: &Arc<Engine>, name: impl Into<String>) -> Self {
        Self { engine: engine.clone(), name: name.into() }
    }

    /// Opens the device: a file of `pages` pages, each allocated and cleared at first use.
    pub fn open(&self, pages: u32) -> Arc<DeviceFile> {
        self.open_with(pages, Orders::BASE)
    }

    /// As [`Self::open`], with folios of `orders` where they fit.
    pub fn open_with(&self, pages: u32, orders: Orders) -> Arc<DeviceFile> {
        let index = self.engine.new_index(Kind::Driver, self.name.clone());
        let driver = Arc::new(Driver { name: self.name.clone(), index, moves: AtomicU64::new(0) });
        let registration = self.engine.owners().register(driver.clone());
        driver.index.set_owner(&registration);
        driver.index.set_orders(orders, pages);
        Arc::new(DeviceFile { driver, registration, pages })
    }
}

impl DeviceFile {
    fn page(&self, page: u32) -> Result<LockedFolio<'_>, FileError> {
        self.check(page)?;
        Ok(self.driver.index.lock_or_insert(page)?)
    }

    fn check(&self, page: u32) -> Result<(), FileError> {
        if page < self.pages { Ok(()) } else { Err(FileError::BeyondEnd(page)) }
    }

    /// Gives the folio of a page, and the page's number in it.
    fn page_and_number(&self, page: u32) -> Result<(LockedFolio<'_>, u32), FileError> {
        let folio = self.page(page)?;
        let number = folio.number_of(page).ok_or(FileError::BeyondEnd(page))?;
        Ok((folio, number))
    }

    /// Reads a word, as the driver's own access. The page can't move meanwhile.
    pub fn read(&self, page: u32, word: usize) -> Result<u64, FileError> {
        let (folio, number) = self.page_and_number(page)?;
        Ok(folio.words(number).get(word).ok_or(FileError::BeyondEnd(page))?.load(Ordering::Acquire))
    }

    /// Writes a word, as the driver's own access.
    pub fn write(&self, page: u32, word: usize, value: u64) -> Result<(), FileError> {
        let (folio, number) = self.page_and_number(page)?;
        let words = folio.words(number);
        words.get(word).ok_or(FileError::BeyondEnd(page))?.store(value, Ordering::Release);
        folio.mark_dirty();
        Ok(())
    }

    /// Allocates all pages now, not at first use.
    pub fn populate(&self) -> Result<(), AllocError> {
        (0..self.pages).try_for_each(|page| self.driver.index.lock_or_insert(page).map(drop))
    }

    /// Inserts a folio allocated as [`Kind::Driver`] at `page`, to rebuild a layout. False, and the folio is freed, if
    /// there is a page already, or `page` is after the end.
    pub fn adopt(&self, page: u32, folio: FrozenFolio<'_>) -> bool {
        page < self.pages && self.driver.index.insert(page, folio).is_ok()
    }

    /// Frees a page, also while it is mapped or being moved; the next use gets a cleared one.
    pub fn free(&self, page: u32) -> bool {
        self.driver.index.remove(page)
    }

    /// Gives the number of folios that have moved.
    pub fn moves(&self) -> u64 {
        self.driver.moves.load(Ordering::Relaxed)
    }

    /// Gives the current frame of a page.
    pub fn peek(&self, page: u32) -> Option<Pfn> {
        self.driver.index.peek(page)
    }

    /// Gives the number of pages.
    pub fn pages(&self) -> u32 {
        self.pages
    }

    /// Gives the registration, to unregister while the file is open: then its pages can't move any more.
    pub fn registration(&self) -> &Registration {
        &self.registration
    }
}

impl Mappable for DeviceFile {
    fn name(&self) -> &str {
        &self.driver.name
    }

    fn reverse_map(&self) -> &Arc<RangeMap> {
        self.driver.index.reverse_map()
    }

    fn orders(&self) -> Orders {
        self.driver.index.orders()
    }

    fn fault(&self, index: u32) -> Result<LockedFolio<'_>, FileError> {
        self.check(index)?;
        Ok(self.driver.index.try_lock_or_insert(index)?)
    }

    fn bring(&self, index: u32) -> Result<(), FileError> {
        self.page(index).map(drop)
    }
}
