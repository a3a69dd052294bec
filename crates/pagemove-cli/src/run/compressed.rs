//! The compressed part of the load: a zram device with real data, this program's own pages. Each has its word, as all pages of a run have.
//!
//! The words don't depend on the policy: else pages would compress to other lengths, and memory differ before compaction.

use std::{
    fs,
    sync::Arc,
    thread::{Scope, ScopedJoinHandle},
};

use pagemove::{Engine, units::PAGE_SIZE};
use pagemove_drivers::zram::{self, Lz4, Page, Zram, ZramError};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{
    error::{EngineError, RunError},
    region::{Compared, Wrong},
    words::{self, FIRST},
    writers::{OnWrong, Shared},
};

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
        let device = Zram::new(engine, zram::Options::new("zram0", pages, Box::new(Lz4)))?;
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

/// Pages that a user reads and writes.
pub(crate) struct User {
    store: Arc<Compressed>,
    /// Region, page, the device's page, and the tag.
    pages: Vec<(u32, u32, u32, u32)>,
}

impl User {
    /// Makes one for these pages.
    pub(crate) fn new(store: &Arc<Compressed>, pages: Vec<(u32, u32, u32, u32)>) -> Self {
        Self { store: store.clone(), pages }
    }

    /// Reads and compares pages until all writers end, and writes some anew, as they were.
    pub(crate) fn start<'scope>(
        self,
        scope: &'scope Scope<'scope, '_>,
        shared: &'scope Shared,
        seed: u64,
        on_wrong: OnWrong<'scope>,
    ) -> ScopedJoinHandle<'scope, Result<Compared, RunError>> {
        scope.spawn(move || {
            let _end = shared.stop_on_drop();
            let used = self.use_all(shared, seed, on_wrong);
            used.map_err(|error| error.with_seed(seed))
        })
    }

    fn use_all(&self, shared: &Shared, seed: u64, on_wrong: OnWrong<'_>) -> Result<Compared, EngineError> {
        let (mut rng, mut compared) = (ChaCha8Rng::seed_from_u64(seed ^ 0x7a72), Compared::default());
        while !shared.is_over() {
            if self.pages.is_empty() {
                std::thread::sleep(std::time::Duration::from_millis(1));
                continue;
            }
            let (region, page, slot, tag) = self.pages[rng.random_range(0..self.pages.len())];
            let (expected, found) = (words::word(tag, FIRST), self.store.word(slot, tag)?);
            // Nobody writes other contents, so what is wrong is lost.
            let wrong = (found != expected).then_some(Wrong { region, page, found, expected, lost: true });
            wrong.into_iter().for_each(on_wrong);
            compared.count(wrong);
            if rng.random_bool(0.25) {
                // It needs memory for both at once; without, it stays as it is.
                match self.store.write(slot, tag) {
                    Ok(()) | Err(ZramError::OutOfMemory { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(compared)
    }
}
