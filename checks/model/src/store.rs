//! A zram device of few pages, each of whose contents are known by one word.

use alloc::{
    boxed::Box,
    format,
    string::{String, ToString},
    vec,
    vec::Vec,
};

use pagemove::{Engine, units::PAGE_SIZE};
use pagemove_drivers::zram::{Lz4, Options, Page, Zram, ZramError};

use crate::call::Answer;

/// Pages of the device.
pub(crate) const PAGES: u32 = 24;

/// The device, and a buffer: a page is too large for some kernels' stacks.
pub(crate) struct Store {
    zram: Zram,
    page: Box<Page>,
}

impl Store {
    /// Makes an empty device.
    pub(crate) fn new(engine: &Engine) -> Result<Self, String> {
        let options = Options::new("zram0", PAGES, Box::new(Lz4::default()));
        let zram = Zram::new(engine, options).ok_or("no memory for zram's table")?;
        let page = vec![0; PAGE_SIZE].into_boxed_slice().try_into().map_err(|_| "no page")?;
        Ok(Self { zram, page })
    }

    /// Stores pages. Without memory for all of them, none is.
    pub(crate) fn write(&mut self, page: u32, pages: u32, value: u64) -> Result<Answer, String> {
        let mut before = Vec::new();
        for page in page..page + pages {
            let Answer::Word(word) = self.read(page)? else { continue };
            before.push((page, word));
            match self.write_page(page, word_of(page, value)) {
                Ok(()) => (),
                Err(ZramError::OutOfMemory { .. }) => {
                    before.pop();
                    return self.restore(&before);
                }
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(Answer::Done)
    }

    fn write_page(&mut self, page: u32, word: u64) -> Result<(), ZramError> {
        fill(&mut self.page, word);
        self.zram.write(page, &self.page)
    }

    /// Stores pages as they were before: first all are forgotten, so that there is memory.
    fn restore(&mut self, before: &[(u32, u64)]) -> Result<Answer, String> {
        before.iter().for_each(|&(page, _)| self.discard(page, 1));
        for &(page, word) in before.iter().filter(|(_, word)| *word != 0) {
            self.write_page(page, word).map_err(|error| error.to_string())?;
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
    pub(crate) fn discard(&self, page: u32, pages: u32) {
        self.zram.discard(page..page + pages);
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
