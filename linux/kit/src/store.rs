// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! A driver's pages, and the calling process's memory, as the driver sees them.
//!
//! Takes indexes of pages; gives guards. Every implementation guarantees: a new page is zeroed. A page with a guard or
//! pin is not moved, its driver is not asked about it, and its frame is not reused even if the page is freed. A guard
//! can't outlive the call that took it.

use crate::{Errno, PAGE_BYTES, Page, Pin};

/// What to do if there is no page at the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absent {
    /// Allocate a zeroed one.
    Create,
    /// Fail with `ENODATA`.
    Fail,
}

/// The pages of one open of the device.
pub trait Store {
    /// A page that can't move while this lives; limited to one call.
    type Guard<'a>: Page
    where
        Self: 'a;
    /// A page that can't move while this lives, without limit; only a [`Pin`] has one.
    type Held: Page + Send;

    /// The size in pages: what can be mapped and accessed.
    fn len(&self) -> u64;

    /// Tells whether the size is 0.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Changes the size. Pages past the new end are unmapped everywhere and freed; access through a mapping raises
    /// SIGBUS.
    fn resize(&self, pages: u64);

    /// Unmaps `pages` pages from `first` on everywhere, and frees them; pinned ones when unpinned. The next access
    /// allocates a new, zeroed page.
    fn free(&self, first: u64, pages: u64);

    /// The number of pages in memory.
    fn count(&self) -> u64;

    /// Takes a guard of a page. `ENXIO` past the end.
    fn page(&self, index: u64, absent: Absent) -> Result<Self::Guard<'_>, Errno>;

    /// Tells whether the caller is an administrator (Linux: `CAP_SYS_ADMIN`).
    fn caller_is_administrator(&self) -> bool;

    /// Keeps a page in place beyond the call, for a device that reads or writes it.
    fn pin(&self, index: u64, name: &[u8]) -> Result<Pin<Self::Held>, Errno>;
}

/// The calling process's buffer in a `read` or `write`.
pub trait UserMemory {
    /// The number of bytes not copied yet.
    fn left(&self) -> usize;
    /// Copies to the process. `EFAULT` if not all could be copied.
    fn put(&mut self, from: &[u8]) -> Result<(), Errno>;
    /// Copies from the process. `EFAULT` if not all could be copied.
    fn get(&mut self, to: &mut [u8]) -> Result<(), Errno>;
}

/// Bytes copied at once, limited by the kernel's small stack.
const CHUNK: usize = 256;

/// Copies from byte `at` of the store to the process, until either side ends; gives the number of bytes. Absent pages
/// read as zeros.
pub fn copy_out<S: Store>(pages: &S, at: u64, user: &mut impl UserMemory) -> Result<usize, Errno> {
    each_chunk(pages, at, user, |index, offset, bytes, user| {
        let mut chunk = [0; CHUNK];
        let chunk = chunk.get_mut(..bytes).ok_or(Errno::EINVAL)?;
        match pages.page(index, Absent::Fail) {
            Ok(page) => page.read(offset, chunk),
            Err(Errno::ENODATA) => {}
            Err(error) => return Err(error),
        }
        user.put(chunk)
    })
}

/// Copies from the process to byte `at` of the store, until either side ends; gives the number of bytes. `ENOSPC` if
/// `at` is past the end.
pub fn copy_in<S: Store>(pages: &S, at: u64, user: &mut impl UserMemory) -> Result<usize, Errno> {
    let done = each_chunk(pages, at, user, |index, offset, bytes, user| {
        let mut chunk = [0; CHUNK];
        let chunk = chunk.get_mut(..bytes).ok_or(Errno::EINVAL)?;
        user.get(chunk)?;
        pages.page(index, Absent::Create)?.write(offset, chunk);
        Ok(())
    })?;
    if done == 0 && user.left() > 0 { Err(Errno::ENOSPC) } else { Ok(done) }
}

/// Calls `copy` for each chunk. After a partial copy, an error is dropped and the bytes before it are returned.
fn each_chunk<S: Store, U: UserMemory>(
    pages: &S,
    at: u64,
    user: &mut U,
    mut copy: impl FnMut(u64, usize, usize, &mut U) -> Result<(), Errno>,
) -> Result<usize, Errno> {
    let end = pages.len().saturating_mul(PAGE_BYTES as u64);
    let mut done = 0usize;
    loop {
        let from = at.saturating_add(done as u64);
        let offset = (from % PAGE_BYTES as u64) as usize;
        let room = end.saturating_sub(from).min(CHUNK as u64) as usize;
        // A chunk must not cross a page's end.
        let bytes = room.min(user.left()).min(PAGE_BYTES - offset);
        if bytes == 0 {
            return Ok(done);
        }
        match copy(from / PAGE_BYTES as u64, offset, bytes, user) {
            Ok(()) => done += bytes,
            Err(error) if done == 0 => return Err(error),
            Err(_) => return Ok(done),
        }
    }
}
