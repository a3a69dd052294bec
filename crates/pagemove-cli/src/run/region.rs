//! A region: pages that belong together (a mapping's, a file's, a device file's), which of them are there, and who maps
//! them. Every page that is there holds its word ([`super::words`]).

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
};

use pagemove::space::PageCache;
use pagemove_drivers::DeviceFile;

use super::{
    compressed::Compressed,
    error::EngineError,
    host::{Host, View},
    words::{self, Words},
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
    /// Compressed; the region's first page is this one of the device.
    Compressed(Arc<Compressed>, u32),
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

/// A page of a compressed region.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CompressedPage {
    /// Its region.
    pub(crate) region: u32,
    /// Its page in the region.
    pub(crate) page: u32,
    /// The device's page.
    pub(crate) slot: u32,
    /// The tag, the same for all policies.
    pub(crate) tag: u32,
}

/// What became of a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Compared {
    /// Words compared, each once however many ways lead to it.
    pub(crate) words: u64,
    /// Those whose last store was lost.
    pub(crate) lost: u64,
    /// Those whose last store is there, though a load saw something else.
    pub(crate) stale: u64,
    /// The first that was wrong.
    pub(crate) first: Option<Wrong>,
}

/// A word that isn't what was stored last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wrong {
    /// Its region.
    pub(crate) region: u32,
    /// Its page in the region.
    pub(crate) page: u32,
    /// What was loaded.
    pub(crate) found: u64,
    /// What was stored last.
    pub(crate) expected: u64,
    /// The store is lost, and not only a load stale.
    pub(crate) lost: bool,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { region, page, found, expected, lost } = self;
        let what = if *lost { "lost write" } else { "stale read" };
        write!(f, "{what} in region {region}, page {page}: found {found:#x}, expected {expected:#x}")
    }
}

impl Compared {
    /// Counts a word, and what is wrong with it.
    pub(crate) fn count(&mut self, wrong: Option<Wrong>) {
        self.words += 1;
        if let Some(wrong) = wrong {
            self.lost += u64::from(wrong.lost);
            self.stale += u64::from(!wrong.lost);
            self.first.get_or_insert(wrong);
        }
    }

    /// Adds what others compared.
    pub(crate) fn add(&mut self, other: Self) {
        self.words += other.words;
        self.lost += other.lost;
        self.stale += other.stale;
        self.first = self.first.or(other.first);
    }
}

/// What the ways to one word gave.
struct Ways {
    expected: u64,
    right: bool,
    wrong: Option<u64>,
}

impl Ways {
    fn new(expected: u64) -> Self {
        Self { expected, right: false, wrong: None }
    }

    fn gave(&mut self, found: u64) {
        if found == self.expected {
            self.right = true;
        } else {
            self.wrong.get_or_insert(found);
        }
    }

    /// Judges the word: its store is lost if no way leads to it any more.
    fn wrong(&self, region: u32, page: u32) -> Option<Wrong> {
        let &Self { expected, right, wrong } = self;
        wrong.map(|found| Wrong { region, page, found, expected, lost: !right })
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
        matches!(self.backing, Backing::Device(_) | Backing::Compressed(..))
    }

    /// Gives the pages of a compressed region that are there, with the device's pages and the tags.
    pub(crate) fn compressed(&self, words: Words) -> impl Iterator<Item = CompressedPage> {
        let first = if let Backing::Compressed(_, first) = self.backing { Some(first) } else { None };
        let live = (0..).zip(&self.live).filter(|(_, live)| **live).map(|(page, _)| page);
        first.into_iter().flat_map(move |first| {
            let region = self.number;
            live.clone().map(move |page| CompressedPage {
                region,
                page,
                slot: first + page,
                tag: words.common_tag(region, page),
            })
        })
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
            (Backing::Compressed(store, first), None) => {
                store.write(first + page, host.words.common_tag(self.number, page))?
            }
            (Backing::Cache(file) | Backing::Private(file), None) => {
                file.index().lock_or_insert(page)?.words(0)[place].store(word, Ordering::Release);
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
            (Backing::Compressed(store, at), _) => store.free(at + first, pages),
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
        let mut ways = Ways::new(word);
        for view in &self.views {
            ways.gave(if loads { host.load(view, page, place)? } else { host.peek(view, page, place)? });
        }
        match &self.backing {
            Backing::Anonymous => {}
            Backing::Private(file) => {
                let tag = host.words.tag(self.number | FILE, page);
                let found = file.index().lock_page(page).ok_or_else(gone)?;
                // A word of its own, which nobody writes.
                let mut store = Ways::new(words::word(tag, words::FIRST));
                store.gave(found.words(0)[words::place(tag)].load(Ordering::Acquire));
                compared.count(store.wrong(self.number, page));
            }
            Backing::Cache(file) => {
                let found = file.index().lock_page(page).ok_or_else(gone)?;
                ways.gave(found.words(0)[place].load(Ordering::Acquire));
            }
            Backing::Device(file) => ways.gave(file.read(page, place)?),
            Backing::Compressed(store, first) => {
                let tag = host.words.common_tag(self.number, page);
                ways = Ways::new(words::word(tag, words::FIRST));
                ways.gave(store.word(first + page, tag)?);
            }
        }
        compared.count(ways.wrong(self.number, page));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_counts_once_and_is_lost_only_if_no_way_leads_to_it() {
        let mut compared = Compared::default();
        for found in [[5, 5, 5], [5, 4, 5], [3, 4, 4]] {
            let mut ways = Ways::new(5);
            found.into_iter().for_each(|found| ways.gave(found));
            compared.count(ways.wrong(7, 8));
        }
        assert_eq!((compared.words, compared.lost, compared.stale), (3, 1, 1));
        let mut all = Compared::default();
        all.add(compared);
        all.add(Compared { words: 1, lost: 1, ..Default::default() });
        assert_eq!((all.words, all.lost, all.stale), (4, 2, 1));
        let first = all.first.unwrap().to_string();
        assert_eq!(first, "stale read in region 7, page 8: found 0x4, expected 0x5");
    }
}
