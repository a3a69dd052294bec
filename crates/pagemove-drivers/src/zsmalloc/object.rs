//! Objects: owning values, and the guards by which they are read and written.

use alloc::sync::Arc;
use core::{fmt, ops::Deref};

use arrayvec::ArrayVec;
use pagemove::{
    folio::{Folio, FolioRef},
    movable::{TokenCell, TokenError},
    units::{PAGE_SIZE, Pfn},
};

use super::{
    handle::Location,
    pool::{Inner, Pool, StoreError},
};

/// An object of a pool; dropping it frees it. Nothing else refers to it, so nobody reads it after that.
///
/// May be dropped while its pages move: that waits for its class's lock only. (But the last object of a pool that was dropped ends the
/// pool, which waits for moves.) Not in an interrupt.
pub struct Object {
    /// `None`: it has become a token.
    pool: Option<Arc<Inner>>,
    handle: u32,
}

/// An object as plain data of 8 bytes, for tables of many. Its pool turns it back into the object; it can't be copied.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "an object whose token is lost is freed only with its pool"]
pub struct ObjectToken {
    pool: u32,
    handle: u32,
}

impl Object {
    fn pool(&self) -> &Inner {
        self.pool.as_ref().expect("an object that became a token is gone")
    }

    /// Gives its size: at least the length that it was allocated for.
    pub fn size(&self) -> usize {
        self.pool().size(self.handle)
    }

    /// Takes the object to read it. Waits while a page of it moves.
    pub fn read(&self) -> ReadGuard<'_> {
        ReadGuard(self.pool().hold(self.handle))
    }

    /// Takes the object to write it. Waits while a page of it moves.
    pub fn write(&mut self) -> WriteGuard<'_> {
        WriteGuard(self.pool().hold(self.handle))
    }

    /// Gives its token; the object lives on.
    pub fn into_token(mut self) -> ObjectToken {
        let pool = self.pool.take().map_or(0, |pool| pool.number);
        ObjectToken { pool, handle: self.handle }
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Object").field(&self.handle).finish()
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        if let Some(pool) = &self.pool {
            pool.free(self.handle);
        }
    }
}

impl Pool {
    /// Allocates an object of at least `length` bytes; what is in it is left from others. Sleeps only with [`Effort::Compact`](pagemove::zone::Effort::Compact).
    pub fn alloc(&self, length: usize) -> Result<Object, StoreError> {
        Ok(Object { pool: Some(self.inner.clone()), handle: self.inner.alloc(length)? })
    }

    /// Allocates an object and writes `data` into it.
    pub fn store(&self, data: &[u8]) -> Result<Object, StoreError> {
        let mut object = self.alloc(data.len())?;
        object.write().copy_from(0, data);
        Ok(object)
    }

    /// Gives the object of a token. Panics if it's another pool's.
    pub fn object(&self, token: ObjectToken) -> Object {
        self.check(&token);
        Object { pool: Some(self.inner.clone()), handle: token.handle }
    }

    /// As [`Object::read`], by a token. Panics if it's another pool's.
    pub fn read<'o>(&'o self, token: &'o ObjectToken) -> ReadGuard<'o> {
        self.check(token);
        ReadGuard(self.inner.hold(token.handle))
    }

    /// As [`Self::read`], but doesn't wait, so it may be called with a lock that spins.
    pub fn try_read<'o>(&'o self, token: &'o ObjectToken) -> Result<ReadGuard<'o>, Moving> {
        self.check(token);
        self.inner.hold_now(token.handle).map(ReadGuard)
    }

    /// Waits for the end of a move that [`Self::try_read`] has met.
    pub fn wait(&self, moving: Moving) {
        self.inner.registration.wait_for_move(moving.0);
    }

    fn check(&self, token: &ObjectToken) {
        assert_eq!(token.pool, self.inner.number, "zsmalloc: a token was given to another pool than its own");
    }
}

/// A page of the object is moving: let go of your locks, wait for it ([`Pool::wait`]), and try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moving(Pfn);

/// An object that is being read. Its pages don't move until this is dropped; it may be held across sleeps.
pub struct ReadGuard<'o>(Held<'o>);

/// An object that is being written; see [`ReadGuard`].
pub struct WriteGuard<'o>(Held<'o>);

impl ReadGuard<'_> {
    /// Copies bytes from byte `offset` on. Panics beyond the object's end.
    ///
    /// They are copied, and not only shown, since an object may be in two pages, which are adjacent for nobody.
    pub fn copy_to(&self, offset: usize, out: &mut [u8]) {
        self.0.read(offset, out);
    }
}

impl WriteGuard<'_> {
    /// Copies bytes from byte `offset` on. Panics beyond the object's end.
    pub fn copy_to(&self, offset: usize, out: &mut [u8]) {
        self.0.read(offset, out);
    }

    /// Writes bytes from byte `offset` on. Panics beyond the object's end.
    pub fn copy_from(&mut self, offset: usize, data: &[u8]) {
        self.0.write(offset, data);
    }
}

/// The pages of an object: one, or two.
pub(super) struct Held<'p> {
    pages: ArrayVec<FolioRef<'p>, 2>,
    /// The number of the first in the zspage.
    first: u32,
    /// Its first byte in the first page.
    start: usize,
    size: usize,
}

impl Held<'_> {
    pub(super) fn size(&self) -> usize {
        self.size
    }

    pub(super) fn read(&self, offset: usize, out: &mut [u8]) {
        self.check(offset, out.len());
        read(&self.pages, self.start + offset, out);
    }

    pub(super) fn write(&self, offset: usize, mut data: &[u8]) {
        self.check(offset, data.len());
        let mut start = self.start + offset;
        while !data.is_empty() {
            let (now, rest) = data.split_at(data.len().min(PAGE_SIZE - start % PAGE_SIZE));
            self.pages[start / PAGE_SIZE].write(start % PAGE_SIZE, now);
            (start, data) = (start + now.len(), rest);
        }
    }

    fn check(&self, offset: usize, length: usize) {
        let fits = offset.checked_add(length).is_some_and(|end| end <= self.size);
        assert!(fits, "zsmalloc: an object has {} bytes; {length} from {offset} on are too many", self.size);
    }
}

/// Reads from byte `start` of some pages on.
pub(super) fn read<'p>(pages: &[impl Deref<Target = Folio<'p>>], mut start: usize, mut out: &mut [u8]) {
    while !out.is_empty() {
        let (now, rest) = out.split_at_mut(out.len().min(PAGE_SIZE - start % PAGE_SIZE));
        pages[start / PAGE_SIZE].read(start % PAGE_SIZE, now);
        (start, out) = (start + now.len(), rest);
    }
}

impl Inner {
    fn size(&self, handle: u32) -> usize {
        self.classes[self.handles.load(handle).class()].size.size as usize
    }

    /// Takes references to the pages of an object; waits while one moves.
    fn hold(&self, handle: u32) -> Held<'_> {
        loop {
            match self.hold_now(handle) {
                Ok(held) => return held,
                Err(Moving(pfn)) => self.registration.wait_for_move(pfn),
            }
        }
    }

    /// Takes references to the pages of an object, if none of them moves.
    fn hold_now(&self, handle: u32) -> Result<Held<'_>, Moving> {
        loop {
            let location = self.handles.load(handle);
            let held = self.try_hold(location);
            // The object may have moved to another zspage before the references were taken. Now it can't any more.
            if self.handles.load(handle) != location {
                continue;
            }
            // It may even have moved there and back, to another page: its zspage was freed and made anew meanwhile. A page that is out of
            // its cell doesn't come back while it's referenced.
            if held.as_ref().is_ok_and(|held| !self.are_in_cells(held, location)) {
                continue;
            }
            return held.map_err(|error| match error {
                TokenError::Moving(pfn) => Moving(pfn),
                error => panic!("zsmalloc: a page of an object is lost: {error}"),
            });
        }
    }

    fn are_in_cells(&self, held: &Held<'_>, location: Location) -> bool {
        let cells = location.cell() + held.first..;
        cells.zip(&held.pages).all(|(cell, page)| self.pages.cell(cell).and_then(TokenCell::pfn) == Some(page.pfn()))
    }

    /// Takes references to the pages of the object at `location`, if none of them moves.
    pub(super) fn try_hold(&self, location: Location) -> Result<Held<'_>, TokenError> {
        let size = self.classes[location.class()].size.size as usize;
        let start = location.object() as usize * size;
        let (first, last) = (start / PAGE_SIZE, (start + size - 1) / PAGE_SIZE);
        let mut pages = ArrayVec::new();
        for page in first..=last {
            pages.push(self.pages.get(&self.registration, location.cell() + page as u32)?);
        }
        Ok(Held { pages, first: first as u32, start: start % PAGE_SIZE, size })
    }
}
