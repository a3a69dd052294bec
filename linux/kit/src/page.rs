// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! A page under a guard: how it is read and written.

/// The size of a page.
pub const PAGE_BYTES: usize = 4096;

/// A page that stays where it is.
///
/// Processes that map the page may write to it at any time: what is read is what stood there at some moment, byte by
/// byte. So there are no references to its contents.
pub trait Page {
    /// Copies out of the page, from byte `at`; what is past the page's end is left.
    fn read(&self, at: usize, to: &mut [u8]);
    /// Copies into the page, at byte `at`; what is past the page's end is left out.
    fn write(&self, at: usize, from: &[u8]);
    /// Gives the number of the frame it is in.
    fn pfn(&self) -> u64;
}
