//! The compressed part of the load: a zram device with real data, this program's own pages. Each has its word, as all pages of a run have.
//!
//! The words don't depend on the policy: else pages would compress to other lengths, and memory differ before compaction.

use std::fs;

use pagemove::{Engine, units::PAGE_SIZE};
use pagemove_drivers::zram::{self, Lz4, Page, Zram, ZramError};

use super::words::{self, FIRST};

/// Pages of data, at most; the device has each of them several times, with other words.
const DATA: usize = 2048;

/// The device, and what its pages are made of.
pub(crate) struct Compressed {
    device: Zram,
    data: Vec<Page>,
}

impl Compressed {
    /// Makes an empty device of so many pages.
    pub(crate) fn new(engine: &Engine, pages: u32) -> Option<Self> {
        let program = std::env::current_exe().and_then(fs::read).unwrap_or_default();
        let (whole, _) = program.as_chunks::<PAGE_SIZE>();
        let mut data: Vec<Page> = whole.iter().take(DATA).copied().collect();
        if data.is_empty() {
            data.push([0; PAGE_SIZE]);
        }
        let device = Zram::new(engine, zram::Options::new("zram0", pages, Box::new(Lz4::default())))?;
        Some(Self { device, data })
    }

    /// Gives the number of pages.
    pub(crate) fn pages(&self) -> u32 {
        self.device.pages()
    }

    /// Gives the page with this tag.
    fn page(&self, tag: u32) -> Page {
        let mut page = self.data[tag as usize % self.data.len()];
        let (words, _) = page.as_chunks_mut::<8>();
        words[words::place(tag)] = words::word(tag, FIRST).to_ne_bytes();
        page
    }

    /// Writes the page with this tag.
    pub(crate) fn write(&self, page: u32, tag: u32) -> Result<(), ZramError> {
        self.device.write(page, &self.page(tag))
    }

    /// Reads a page; gives its word, or 0 if another byte of it is wrong.
    pub(crate) fn word(&self, page: u32, tag: u32) -> Result<u64, ZramError> {
        let mut found = [0; PAGE_SIZE];
        self.device.read(page, &mut found)?;
        let (words, _) = found.as_chunks::<8>();
        let word = u64::from_ne_bytes(words[words::place(tag)]);
        Ok(if word != words::word(tag, FIRST) || found == self.page(tag) { word } else { 0 })
    }

    /// Moves objects together until so many pages are free.
    pub(crate) fn compact(&self, pages: u64) {
        self.device.compact(pages);
    }

    /// Forgets pages.
    pub(crate) fn free(&self, first: u32, pages: u32) {
        self.device.discard(first..first + pages);
    }
}
