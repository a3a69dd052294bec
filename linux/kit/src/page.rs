// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! Access to a page under a guard.

/// The size of a page in bytes.
pub const PAGE_BYTES: usize = 4096;

/// A page that can't move while this lives.
///
/// Processes that map the page may write to it at any time, so each byte read is from some moment during the call. For
/// the same reason there are no references to the contents.
pub trait Page {
    /// Copies out of the page, from byte `at`, up to the page's end.
    fn read(&self, at: usize, to: &mut [u8]);
    /// Copies into the page, at byte `at`, up to the page's end.
    fn write(&self, at: usize, from: &[u8]);
    /// The page's frame (PFN).
    fn pfn(&self) -> u64;
}
