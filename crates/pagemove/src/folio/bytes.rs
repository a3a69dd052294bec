//! Bytes of a folio. Others may access the same words as atomics, so each word is read and written whole. Relaxed: that orders nothing,
//! which is up to the callers.

use super::Folio;
use crate::{
    sync::{AtomicU64, Ordering},
    units::{PAGE_SHIFT, PAGE_SIZE},
};

const WORD: usize = size_of::<u64>();

impl Folio<'_> {
    /// Reads bytes from byte `offset` on. Each word is read at once, the whole is not. Panics beyond the folio's end.
    pub fn read(&self, mut offset: usize, mut out: &mut [u8]) {
        while !out.is_empty() {
            let (words, within) = self.page(offset);
            let (now, rest) = out.split_at_mut(out.len().min(PAGE_SIZE - within));
            read(words, within, now);
            offset += now.len();
            out = rest;
        }
    }

    /// Writes bytes from byte `offset` on. Other bytes of the first and last word keep what others write there meanwhile. Panics
    /// beyond the folio's end. Marks nothing dirty.
    pub fn write(&self, mut offset: usize, mut data: &[u8]) {
        while !data.is_empty() {
            let (words, within) = self.page(offset);
            let (now, rest) = data.split_at(data.len().min(PAGE_SIZE - within));
            write(words, within, now);
            offset += now.len();
            data = rest;
        }
    }

    /// Gives the page with the byte at `offset`, and the byte's place in it.
    fn page(&self, offset: usize) -> (&[AtomicU64; 512], usize) {
        let page = u32::try_from(offset >> PAGE_SHIFT).unwrap_or(u32::MAX);
        (self.words(page), offset % PAGE_SIZE)
    }
}

/// Reads bytes of one page.
fn read(words: &[AtomicU64; 512], at: usize, out: &mut [u8]) {
    let (first, out) = out.split_at_mut(out.len().min(at.wrapping_neg() % WORD));
    read_part(words, at, first);
    let (at, length) = (at + first.len(), out.len());
    let (whole, last) = out.as_chunks_mut::<WORD>();
    for (part, word) in whole.iter_mut().zip(&words[at / WORD..]) {
        *part = word.load(Ordering::Relaxed).to_ne_bytes();
    }
    read_part(words, at + length - last.len(), last);
}

/// Reads less than a word, within one.
fn read_part(words: &[AtomicU64; 512], at: usize, out: &mut [u8]) {
    if !out.is_empty() {
        let bytes = words[at / WORD].load(Ordering::Relaxed).to_ne_bytes();
        out.copy_from_slice(&bytes[at % WORD..][..out.len()]);
    }
}

/// Writes bytes of one page.
fn write(words: &[AtomicU64; 512], at: usize, data: &[u8]) {
    let (first, data) = data.split_at(data.len().min(at.wrapping_neg() % WORD));
    write_part(words, at, first);
    let at = at + first.len();
    let (whole, last) = data.as_chunks::<WORD>();
    for (part, word) in whole.iter().zip(&words[at / WORD..]) {
        word.store(u64::from_ne_bytes(*part), Ordering::Relaxed);
    }
    write_part(words, at + data.len() - last.len(), last);
}

/// Writes less than a word, within one.
fn write_part(words: &[AtomicU64; 512], at: usize, data: &[u8]) {
    if data.is_empty() {
        return;
    }
    let with = |old: u64| {
        let mut bytes = old.to_ne_bytes();
        bytes[at % WORD..][..data.len()].copy_from_slice(data);
        u64::from_ne_bytes(bytes)
    };
    let _ = words[at / WORD].fetch_update(Ordering::Relaxed, Ordering::Relaxed, |old| Some(with(old)));
}
