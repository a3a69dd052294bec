//! A balloon: pages given to the hypervisor, owned by a driver and not mapped. They move like any other page.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering};

use pagemove::{
    Engine,
    folio::FrozenFolio,
    frame::Kind,
    movable::{PageIndex, Registration},
    zone::AllocError,
};

/// A balloon.
pub struct Balloon {
    pages: Arc<PageIndex>,
    _registration: Registration,
    next: AtomicU32,
}

impl Balloon {
    /// Makes an empty balloon.
    pub fn new(engine: &Engine) -> Self {
        let pages = engine.new_index(Kind::Driver, "balloon");
        let registration = engine.owners().register(pages.clone());
        pages.set_owner(&registration);
        Self { pages, _registration: registration, next: AtomicU32::new(0) }
    }

    /// Takes `pages` pages from the machine; if there are too few, returns those taken.
    pub fn inflate(&self, pages: u32) -> Result<(), AllocError> {
        for taken in 0..pages {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            if let Err(error) = self.pages.lock_or_insert(index) {
                self.deflate(taken);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Inserts a page allocated as [`Kind::Driver`], to rebuild a layout.
    pub fn adopt(&self, page: FrozenFolio<'_>) -> bool {
        self.pages.insert(self.next.fetch_add(1, Ordering::Relaxed), page).is_ok()
    }

    /// Returns up to `pages` pages, waiting for moves of them; gives their number.
    pub fn deflate(&self, pages: u32) -> u32 {
        let mut freed = 0;
        while freed < pages
            && let Some(index) = self.pages.next_index(0)
        {
            freed += u32::from(self.pages.remove(index));
        }
        freed
    }

    /// Gives the number of pages in the balloon.
    pub fn pages(&self) -> usize {
        self.pages.len()
    }
}
