//! A zram device of few pages, each of whose contents are known by one word.

use alloc::{
    boxed::Box,
    format,
    string::{String, ToString},
    vec,
};
use core::ops::Range;

use pagemove::{Engine, units::PAGE_SIZE};
use pagemove_drivers::zram::{Lz4, Options, Page, Zram, ZramError};

use crate::call::Answer;

/// Pages of the device.
pub(crate) const PAGES: u32 = 24;

/// The device, and a buffer: a page is too large for some kernels' stacks.
pub(crate) struct Store {
    zram: Zram,
    page: Box<Page>,
    /// What stands for each page that was written; 0: none.
    words: [u64; PAGES as usize],
}

impl Store {
    /// Makes an empty device.
    pub(crate) fn new(engine: &Engine) -> Result<Self, String> {
        let options = Options::new("zram0", PAGES, Box::new(Lz4::default()));
        let zram = Zram::new(engine, options).ok_or("no memory for zram's table")?;
        let page = vec![0; PAGE_SIZE].into_boxed_slice().try_into().map_err(|_| "no page")?;
        Ok(Self { zram, page, words: [0; _] })
    }

    /// Stores pages. Without memory for all of them, none is.
    pub(crate) fn write(&mut self, page: u32, pages: u32, value: u64) -> Result<Answer, String> {
        let before = self.words;
        for at in page..page + pages {
            match self.write_page(at, word_of(at, value)) {
                Ok(()) => (),
                Err(ZramError::OutOfMemory { .. }) => return self.restore(page..at, &before),
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(Answer::Done)
    }

    fn write_page(&mut self, page: u32, word: u64) -> Result<(), ZramError> {
        fill(&mut self.page, word);
        self.zram.write(page, &self.page)?;
        self.words[page as usize] = word;
        Ok(())
    }

    /// Stores pages as they were before: first all are forgotten, so that there is memory.
    fn restore(&mut self, pages: Range<u32>, before: &[u64; PAGES as usize]) -> Result<Answer, String> {
        self.discard(pages.start, pages.len() as u32);
        for page in pages.filter(|&page| before[page as usize] != 0) {
            self.write_page(page, before[page as usize]).map_err(|error| error.to_string())?;
        }
        Ok(Answer::OutOfMemory)
    }

    /// Restores a page, and finds the word that it stands for.
    pub(crate) fn read(&mut self, page: u32) -> Result<Answer, String> {
        self.page.fill(1);
        self.zram.read(page, &mut self.page).map_err(|error| format!("{error}"))?;
        let (words, _) = self.page.as_chunks::<8>();
        let word = u64::from_le_bytes(words[0]);
        let is_whole = words.iter().enumerate().all(|(at, found)| u64::from_le_bytes(*found) == word_at(word, at));
        if is_whole { Ok(Answer::Word(word)) } else { Err(format!("page {page} of zram is no page that was written")) }
    }

    /// Forgets pages.
    pub(crate) fn discard(&mut self, page: u32, pages: u32) {
        let pages = page..(page + pages).min(PAGES);
        self.zram.discard(pages.clone());
        pages.for_each(|page| self.words[page as usize] = 0);
    }

    /// Moves objects together.
    pub(crate) fn compact(&self, pages: u32) {
        self.zram.compact(pages.into());
    }
}

fn fill(page: &mut Page, word: u64) {
    let (words, _) = page.as_chunks_mut::<8>();
    words.iter_mut().enumerate().for_each(|(at, place)| *place = word_at(word, at).to_le_bytes());
}

/// Gives the word that stands for a page's contents once `value` is written to it and its neighbours. Never 0.
pub(crate) fn word_of(page: u32, value: u64) -> u64 {
    (value + 8) << 8 | u64::from(page) << 3 | (value & 7)
}

/// Gives a word of the page that `word` stands for: by its low bits as compressible as can be, not at all, or so that three take two frames.
fn word_at(word: u64, at: usize) -> u64 {
    let dense = match word % 8 {
        0 => 0,
        1 => 512,
        _ => 320,
    };
    let noise = (word ^ (at as u64) << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29).wrapping_mul(word | 1);
    if at == 0 || at >= dense { word } else { noise }
}
