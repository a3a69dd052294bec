//! Mappable objects: a file or device provides a page for each offset. Also the page cache, a plain file.

use alloc::{boxed::Box, string::String, sync::Arc};

use crate::{
    engine::Engine,
    folio::LockedFolio,
    frame::Kind,
    movable::{LookUpError, NotCollapsed, PageIndex, Registration},
    rmap::RangeMap,
    units::Orders,
    zone::AllocError,
};

/// Why a file provides no page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// The offset is past the end (`SIGBUS`).
    #[error("the file has no page at offset {0}")]
    BeyondEnd(u32),
    /// Out of memory.
    #[error(transparent)]
    OutOfMemory(#[from] AllocError),
    /// The page can't be had without sleeping.
    #[error("the file's page is locked, or not read yet")]
    NotReady,
}

impl From<LookUpError> for FileError {
    fn from(error: LookUpError) -> Self {
        match error {
            LookUpError::NotReady => Self::NotReady,
            LookUpError::OutOfMemory(error) => Self::OutOfMemory(error),
        }
    }
}

/// A file or device that processes map: like `mmap` and `fault` of Linux's `file_operations`, with its `f_mapping`.
pub trait Mappable: Send + Sync {
    /// The name used in reports.
    fn name(&self) -> &str;

    /// The reverse map of its pages. Must be the same at every call, and the one that its pages' keys name.
    fn reverse_map(&self) -> &Arc<RangeMap>;

    /// The orders of its folios: shared mappings of it are aligned to the largest.
    fn orders(&self) -> Orders {
        Orders::BASE
    }

    /// Gives the folio of the page at offset `index`, locked, so that it can't move before it is mapped. May allocate it.
    /// One larger than a page begins at the index of its key. All its pages near the fault are mapped.
    ///
    /// Called with the address space locked, so it doesn't sleep: if it would have to wait for the page, or read it, it gives
    /// [`FileError::NotReady`]. (Linux: `FAULT_FLAG_ALLOW_RETRY`.)
    fn fault(&self, index: u32) -> Result<LockedFolio<'_>, FileError>;

    /// Waits until [`Self::fault`] can give the page at offset `index`, or reads it. Called without locks after `fault` has
    /// said [`FileError::NotReady`]; then `fault` is called again.
    fn bring(&self, index: u32) -> Result<(), FileError>;

    /// Makes the aligned 2 MiB around page `index` one folio, for [`AddressSpace::collapse`](super::AddressSpace::collapse). Called
    /// without locks; sleeps. A file that keeps its pages in a [`PageIndex`] passes it on to [`PageIndex::collapse`].
    fn collapse(&self, index: u32) -> Result<(), NotCollapsed> {
        let _ = index;
        Err(NotCollapsed::Unsuitable)
    }

    /// As [`Self::fault`], but sleeps until the page is ready.
    fn lock_page(&self, index: u32) -> Result<LockedFolio<'_>, FileError> {
        loop {
            match self.fault(index) {
                Err(FileError::NotReady) => self.bring(index)?,
                result => return result,
            }
        }
    }
}

pub use crate::movable::ReadPage;

/// A file with pages in the page cache, on the LRU: a memory file, or one that reads from a backing store.
pub struct PageCache {
    index: Arc<PageIndex>,
    registration: Registration,
    pages: u32,
}

impl PageCache {
    /// Makes a memory file of `pages` pages.
    pub fn new(engine: &Engine, name: impl Into<String>, pages: u32) -> Arc<Self> {
        Self::with_store(engine, name, pages, None)
    }

    /// Makes a file of `pages` pages, each filled by `read` at its first use.
    pub fn with_store(engine: &Engine, name: impl Into<String>, pages: u32, read: Option<Box<ReadPage>>) -> Arc<Self> {
        let index = engine.new_index_with_store(Kind::File, name, read);
        let registration = engine.owners().register(index.clone());
        index.set_owner(&registration);
        Arc::new(Self { index, registration, pages })
    }

    /// Gives the pages.
    pub fn index(&self) -> &Arc<PageIndex> {
        &self.index
    }

    /// The owner number in its pages' frames.
    pub fn owner(&self) -> u32 {
        self.registration.number()
    }
}

impl Mappable for PageCache {
    fn name(&self) -> &str {
        crate::movable::MovableOps::name(&*self.index)
    }

    fn reverse_map(&self) -> &Arc<RangeMap> {
        self.index.reverse_map()
    }

    fn orders(&self) -> Orders {
        self.index.orders()
    }

    fn fault(&self, index: u32) -> Result<LockedFolio<'_>, FileError> {
        if index >= self.pages {
            return Err(FileError::BeyondEnd(index));
        }
        Ok(self.index.try_lock_or_insert(index)?)
    }

    fn bring(&self, index: u32) -> Result<(), FileError> {
        Ok(self.index.lock_or_insert(index).map(drop)?)
    }

    fn collapse(&self, index: u32) -> Result<(), NotCollapsed> {
        self.index.collapse(&self.registration, index, self.pages)
    }
}
