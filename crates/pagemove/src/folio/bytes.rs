//! Bytes of a folio. Others may access the same words as atomics, so each word is read and written whole. Relaxed: that orders nothing,
//! which is up to the callers.

use super::Folio;
use crate::{
    sync::Ordering,
    units::{PAGE_SHIFT, PAGE_SIZE},
};

const WORD: usize = size_of::<u64>();

impl Folio<'_> {
    /// Reads bytes from byte `offset` on. Each word is read at once, the whole is not. Panics beyond the folio's end.
    pub fn read(&self, mut offset: usize, mut out: &mut [u8]) {
        while !out.is_empty() {
            let (word, within) = self.word(offset);
            let bytes = word.load(Ordering::Relaxed).to_ne_bytes();
            let (now, rest) = out.split_at_mut(out.len().min(WORD - within));
            now.copy_from_slice(&bytes[within..within + now.len()]);
            offset += now.len();
            out = rest;
        }
    }

    /// Writes bytes from byte `offset` on. Other bytes of the first and last word keep what others write there meanwhile. Panics
    /// beyond the folio's end. Marks nothing dirty.
    pub fn write(&self, mut offset: usize, mut data: &[u8]) {
        while !data.is_empty() {
            let (word, within) = self.word(offset);
            let (now, rest) = data.split_at(data.len().min(WORD - within));
            let with = |old: u64| {
                let mut bytes = old.to_ne_bytes();
                bytes[within..within + now.len()].copy_from_slice(now);
                u64::from_ne_bytes(bytes)
            };
            if now.len() == WORD {
                word.store(with(0), Ordering::Relaxed);
            } else {
                let _ = word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |old| Some(with(old)));
            }
            offset += now.len();
            data = rest;
        }
    }

    /// Gives the word with the byte at `offset`, and the byte's place in it.
    fn word(&self, offset: usize) -> (&crate::sync::AtomicU64, usize) {
        let word = &self.words((offset >> PAGE_SHIFT) as u32)[offset % PAGE_SIZE / WORD];
        (word, offset % WORD)
    }
}
