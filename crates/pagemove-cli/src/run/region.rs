//! A region: pages that belong together (a mapping's, a file's, a device file's), which of them are there, and who maps
//! them. Every page that is there holds its word ([`super::words`]).

use std::sync::{Arc, atomic::Ordering};

use pagemove::{space::PageCache, units::VirtAddr};
use pagemove_drivers::DeviceFile;

use super::{
    error::EngineError,
    words::{self, Words},
    world::Host,
};

/// Where a region's pages come from.
pub(crate) enum Backing {
    /// A process's own memory; one view.
    Anonymous,
    /// A process's copies of a file's pages; one view. The file's own pages are there, too.
    Private(Arc<PageCache>),
    /// The page cache.
    Cache(Arc<PageCache>),
    /// A driver.
    Device(Arc<DeviceFile>),
}

/// A mapping of all the region's pages in one process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View {
    /// Which process.
    pub(crate) process: usize,
    /// Where the region's first page is.
    pub(crate) start: VirtAddr,
    /// It may be written through.
    pub(crate) writable: bool,
}

impl View {
    /// Gives the address of a word.
    pub(crate) fn word(&self, page: u32, place: usize) -> Result<VirtAddr, EngineError> {
        let address = VirtAddr::new(self.start.up(page).get() + place as u64 * 8);
        address.ok_or_else(|| EngineError::Lost("a mapping beyond the last address".into()))
    }
}

/// Pages that belong together.
pub(crate) struct Region {
    /// Its number, which is in its pages' tags.
    pub(crate) number: u32,
    /// Where its pages come from.
    pub(crate) backing: Backing,
    /// Who maps them; the first view is writable. None: nobody does.
    pub(crate) views: Vec<View>,
    /// Which pages are there.
    pub(crate) live: Vec<bool>,
    /// Pages below this one were there once.
    pub(crate) filled: u32,
}

/// What became of a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Compared {
    /// Words compared.
    pub(crate) words: u64,
    /// Those that weren't what was stored last.
    pub(crate) wrong: u64,
}

impl Compared {
    /// Compares one word.
    pub(crate) fn compare(&mut self, found: u64, expected: u64) {
        self.words += 1;
        self.wrong += u64::from(found != expected);
    }
}

/// Marks the numbers of a private mapping's file, so that its pages differ from the copies.
const FILE: u32 = 1 << 31;

impl Region {
    /// Makes a region of `pages` pages, none of which is there yet.
    pub(crate) fn new(number: u32, backing: Backing, views: Vec<View>, pages: u32) -> Self {
        Self { number, backing, views, live: vec![false; pages as usize], filled: 0 }
    }

    /// Gives the file of a private mapping: what is read from it are its words.
    pub(crate) fn store_of(number: u32, words: Words) -> Box<pagemove::space::ReadPage> {
        Box::new(move |page, contents| {
            let tag = words.tag(number | FILE, page);
            contents[words::place(tag)].store(words::word(tag, words::FIRST), Ordering::Release);
        })
    }

    /// Tells whether all pages were there once.
    pub(crate) fn is_full(&self) -> bool {
        self.filled as usize == self.live.len()
    }

    /// Tells whether the pages are a driver's.
    pub(crate) fn is_device(&self) -> bool {
        matches!(self.backing, Backing::Device(_))
    }

    /// Brings a page in and writes its word; all views map it.
    pub(crate) fn populate(&mut self, host: &Host, page: u32) -> Result<(), EngineError> {
        let tag = host.words.tag(self.number, page);
        let (place, word) = (words::place(tag), words::word(tag, words::FIRST));
        for view in &self.views {
            host.fault(view, page)?;
        }
        match (&self.backing, self.views.first()) {
            (_, Some(view)) => host.poke(view, page, place, word)?,
            (Backing::Device(file), None) => file.write(page, place, word)?,
            (Backing::Cache(file) | Backing::Private(file), None) => {
                file.index().lock_or_insert(page)?.words()[place].store(word, Ordering::Release);
            }
            (Backing::Anonymous, None) => return Err(EngineError::Lost("anonymous memory without a process".into())),
        }
        self.live[page as usize] = true;
        self.filled = self.filled.max(page + 1);
        Ok(())
    }

    /// Frees the pages of a range that are there, as their kind is freed: unmapped, truncated, or by the driver.
    pub(crate) fn free(&mut self, host: &Host, first: u32, pages: u32) -> Result<(), EngineError> {
        match (&self.backing, self.views.first()) {
            (Backing::Anonymous, Some(view)) => host.unmap(view, first, pages)?,
            (Backing::Private(file), Some(view)) => {
                host.unmap(view, first, pages)?;
                file.index().truncate(first..first + pages);
            }
            (Backing::Cache(file) | Backing::Private(file), _) => file.index().truncate(first..first + pages),
            (Backing::Device(file), _) => (first..first + pages).for_each(|page| {
                file.free(page);
            }),
            (Backing::Anonymous, None) => {}
        }
        self.live[first as usize..(first + pages) as usize].fill(false);
        Ok(())
    }

    /// Compares a page's word after store number `sequence`, in every way in which it can be reached: by each view,
    /// with `loads` through the TLB and else by its page table; else by its file. Only while nothing moves or writes.
    pub(crate) fn check(
        &self,
        host: &Host,
        page: u32,
        sequence: u32,
        loads: bool,
        compared: &mut Compared,
    ) -> Result<(), EngineError> {
        let tag = host.words.tag(self.number, page);
        let (place, word) = (words::place(tag), words::word(tag, sequence));
        let gone = || EngineError::Lost(format!("page {page} of a file is gone"));
        for view in &self.views {
            let found = if loads { host.load(view, page, place)? } else { host.peek(view, page, place)? };
            compared.compare(found, word);
        }
        match &self.backing {
            Backing::Anonymous => {}
            Backing::Private(file) => {
                let tag = host.words.tag(self.number | FILE, page);
                let found = file.index().lock_page(page).ok_or_else(gone)?;
                let found = found.words()[words::place(tag)].load(Ordering::Acquire);
                compared.compare(found, words::word(tag, words::FIRST));
            }
            Backing::Cache(file) => {
                let found = file.index().lock_page(page).ok_or_else(gone)?;
                compared.compare(found.words()[place].load(Ordering::Acquire), word);
            }
            Backing::Device(file) => compared.compare(file.read(page, place)?, word),
        }
        Ok(())
    }
}
