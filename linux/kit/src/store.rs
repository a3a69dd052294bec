// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! A driver's pages, and the calling process's memory, as the driver sees them.
//!
//! Takes indexes of pages; gives guards. Promises, for every implementation: a page that is new is cleared; a page under
//! a guard or pin is not moved, nor is the driver asked about it, nor is it reused though it be freed; guards can't outlive
//! the call that they were made in.

use crate::{Errno, PAGE_BYTES, Page, Pin};

/// What to do where there is no page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absent {
    /// Puts a cleared one there.
    Create,
    /// Fails with `ENODATA`.
    Fail,
}

/// The pages of one open of the device.
pub trait Store {
    /// A page that stays where it is while this lives.
    type Guard<'a>: Page
    where
        Self: 'a;
    /// The same, without end; only a [`Pin`] has one.
    type Held: Page + Send;

    /// Gives the size in pages: of what can be mapped and reached.
    fn len(&self) -> u64;

    /// Tells whether nothing can be mapped.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Changes the size. Pages past the new end are unmapped everywhere and freed; a mapping of them yields SIGBUS.
    fn resize(&self, pages: u64);

    /// Unmaps `pages` pages from `first` on everywhere, and frees them; those pinned when let go. The next touch of such
    /// a page finds a new, cleared one.
    fn free(&self, first: u64, pages: u64);

    /// Gives how many pages there are.
    fn count(&self) -> u64;

    /// Reaches a page. Past the end: `ENXIO`.
    fn page(&self, index: u64, absent: Absent) -> Result<Self::Guard<'_>, Errno>;

    /// Tells whether the calling process may administrate the machine (Linux: `CAP_SYS_ADMIN`).
    fn caller_is_administrator(&self) -> bool;

    /// Keeps a page where it is after the call, for a device that reads or writes it.
    fn pin(&self, index: u64, name: &[u8]) -> Result<Pin<Self::Held>, Errno>;
}

/// The calling process's side of a `read` or `write`.
pub trait UserMemory {
    /// Gives the bytes yet to be copied.
    fn left(&self) -> usize;
    /// Copies to the process. `EFAULT` if it can't all be.
    fn put(&mut self, from: &[u8]) -> Result<(), Errno>;
    /// Copies from the process. `EFAULT` if it can't all be.
    fn get(&mut self, to: &mut [u8]) -> Result<(), Errno>;
}

/// What is copied at once: on the kernel's small stack.
const CHUNK: usize = 256;

/// Copies from byte `at` of the store to the process, as far as there is room on both sides; gives the number of bytes.
/// Where there is no page, zeros.
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

/// Copies from the process to byte `at` of the store, as far as there is room; gives the number of bytes. No room at all:
/// `ENOSPC`.
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

/// Calls `copy` for one chunk after the other; an error after the first bytes is told as the bytes before it.
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
        // A chunk ends with its page.
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
