//! The pool: allocating and freeing objects, and the zspages for them.

use alloc::{boxed::Box, string::String, sync::Arc, vec::Vec};

use arrayvec::ArrayVec;
use pagemove::{
    Engine,
    folio::{FrozenFolio, LockedFolio},
    frame::{Key, Kind},
    movable::Registration,
    sync::{AtomicU64, Mutex, MutexGuard, Ordering},
    units::{Order, PAGE_SIZE},
    zone::{AllocError, Effort, Request},
};

use super::{
    SizeClass,
    class::{CHAINS, Classes, LONGEST},
    handle::{BLOCK, Handles, Location},
    pages::{Pages, SLAB},
    zspages::{Place, Zspages, free_objects},
};
use crate::chunks::NoRoom;

/// Empty zspages that are looked at, at most.
const SOME: usize = 8;

/// Settings of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The name, for reports.
    pub name: String,
    /// The most pages of a zspage, from 1 to 16: the more, the less is left over at its end.
    pub chain: u32,
    /// What may be done to get a page. [`Effort::Compact`] sleeps.
    pub effort: Effort,
}

impl Options {
    /// Chains of 8 pages, as Linux has them, and all CPUs' lists.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), chain: 8, effort: Effort::Drain }
    }

    /// Chains of at most `pages`.
    pub fn with_chain(self, pages: u32) -> Self {
        Self { chain: pages, ..self }
    }

    /// Sets what may be done to get a page.
    pub fn with_effort(self, effort: Effort) -> Self {
        Self { effort, ..self }
    }
}

/// Why an object can't be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// There is no object of no byte, or of more than a page.
    #[error("zsmalloc: an object has 1 to {PAGE_SIZE} bytes, not {0}")]
    BadLength(usize),
    /// No page.
    #[error("zsmalloc: {0}")]
    OutOfMemory(#[from] AllocError),
    /// No memory for the pool's own tables; or they are full, at 2^29 objects.
    #[error("zsmalloc: no memory for the pool's tables, or they are full")]
    NoTables,
}

impl From<NoRoom> for StoreError {
    fn from(_: NoRoom) -> Self {
        Self::NoTables
    }
}

/// A pool of objects. Cheap to clone: all clones are the same pool, which ends with the last of them and of its objects.
#[derive(Clone)]
pub struct Pool {
    pub(super) inner: Arc<Inner>,
}

/// What a pool's clones and objects share.
pub(super) struct Inner {
    /// By which tokens of other pools are recognized.
    pub(super) number: u32,
    pub(super) registration: Registration,
    pub(super) pages: Arc<Pages>,
    pub(super) handles: Handles,
    pub(super) sizes: Classes,
    pub(super) classes: Box<[Class]>,
    effort: Effort,
    /// Pages of all zspages. Relaxed: it orders nothing.
    page_count: AtomicU64,
}

/// A class's part of the pool.
pub(super) struct Class {
    pub(super) number: usize,
    pub(super) size: SizeClass,
    pub(super) state: Mutex<ClassState>,
}

/// What the class's lock protects.
pub(super) struct ClassState {
    pub(super) zspages: Zspages,
    /// The first cells of the class's slabs.
    pub(super) slabs: Vec<u32>,
    /// The first free handle; each has the next one.
    free_handle: Option<u32>,
}

impl Class {
    /// Gives a zspage's first cell.
    pub(super) fn first_cell(&self, state: &ClassState, zspage: u32) -> u32 {
        let of_slab = SLAB / self.size.pages;
        state.slabs[(zspage / of_slab) as usize] + zspage % of_slab * self.size.pages
    }

    /// Gives the number of the zspage whose first cell this is.
    fn zspage_at(&self, pages: &Pages, cell: u32) -> u32 {
        let (slab, at) = pages.place(cell).expect("a cell of a zspage with objects");
        slab * (SLAB / self.size.pages) + at / self.size.pages
    }
}

impl Pool {
    /// Makes an empty pool.
    ///
    /// Panics if the chain isn't of 1 to 16 pages.
    pub fn new(engine: &Engine, options: Options) -> Self {
        assert!(CHAINS.contains(&options.chain), "zsmalloc: a zspage has 1 to 16 pages, not {}", options.chain);
        let pages = Pages::new(options.name);
        let sizes = Classes::new(options.chain);
        let class = |(number, &size): (usize, &SizeClass)| Class {
            number,
            size,
            state: Mutex::new(ClassState { zspages: Zspages::new(size), slabs: Vec::new(), free_handle: None }),
        };
        let inner = Inner {
            number: next_number(),
            registration: engine.owners().register(pages.clone()),
            pages,
            handles: Handles::new(),
            classes: sizes.iter().enumerate().map(class).collect(),
            sizes,
            effort: options.effort,
            page_count: AtomicU64::new(0),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Gives the largest length that takes as much memory as `length`; `None` for 0, and above a page.
    pub fn usable_size(&self, length: usize) -> Option<usize> {
        self.inner.sizes.number_for(length).map(|number| self.inner.sizes.get(number).size as usize)
    }

    /// Gives the number of pages, without a lock.
    pub fn pages(&self) -> u64 {
        self.inner.page_count.load(Ordering::Relaxed)
    }

    /// Gives the registration, to unregister while the pool is used: then its pages can't move any more.
    pub fn registration(&self) -> &Registration {
        &self.inner.registration
    }
}

impl Inner {
    /// Allocates an object; gives its handle.
    pub(super) fn alloc(&self, length: usize) -> Result<u32, StoreError> {
        let class = &self.classes[self.sizes.number_for(length).ok_or(StoreError::BadLength(length))?];
        let mut state = class.state.lock();
        loop {
            let handle = self.free_handle(&mut state)?;
            if let Some(place) = state.zspages.take(handle) {
                state.free_handle = Some(self.handles.next(handle)).filter(|&next| next != handle);
                self.handles
                    .store(handle, Location::new(class.first_cell(&state, place.zspage), class.number, place.object));
                return Ok(handle);
            }
            state = self.add_zspage(class, state)?;
        }
    }

    /// Frees an object.
    pub(super) fn free(&self, handle: u32) {
        let class = &self.classes[self.handles.load(handle).class()];
        let mut state = class.state.lock();
        // Under the lock, since objects move.
        let location = self.handles.load(handle);
        let zspage = class.zspage_at(&self.pages, location.cell());
        state.zspages.give_back(Place { zspage, object: location.object() }, handle);
        self.list_handle(&mut state, handle);
        self.free_empty(class, &mut state);
    }

    /// Frees the pages of empty zspages, of which there may be some that moves were in the way of; gives their number.
    pub(super) fn free_empty(&self, class: &Class, state: &mut ClassState) -> u32 {
        let some: ArrayVec<u32, SOME> = state.zspages.empty().take(SOME).collect();
        some.into_iter().map(|zspage| self.free_zspage(class, state, zspage)).sum()
    }

    /// Frees the pages of an empty zspage, if none of them is moving; gives their number.
    fn free_zspage(&self, class: &Class, state: &mut ClassState, zspage: u32) -> u32 {
        let first = class.first_cell(state, zspage);
        let mut pages = ArrayVec::<LockedFolio<'_>, LONGEST>::new();
        for cell in first..first + class.size.pages {
            // Otherwise it stays on its list, for the next to come.
            let Some(page) = self.pages.try_lock(&self.registration, cell) else { return 0 };
            pages.push(page);
        }
        for (page, cell) in pages.iter().zip(first..) {
            self.pages.release(&self.registration, cell, page);
        }
        state.zspages.remove(zspage);
        self.page_count.fetch_sub(u64::from(class.size.pages), Ordering::Relaxed);
        class.size.pages
    }

    /// Gives the first free handle, and leaves it there.
    fn free_handle(&self, state: &mut ClassState) -> Result<u32, NoRoom> {
        if state.free_handle.is_none() {
            // As many as there is memory for.
            let some = (0..BLOCK).map_while(|_| self.handles.add().ok());
            some.for_each(|handle| self.list_handle(state, handle));
        }
        state.free_handle.ok_or(NoRoom)
    }

    /// Puts a handle on the list of the free ones; the last of them names itself.
    fn list_handle(&self, state: &mut ClassState, handle: u32) {
        self.handles.set_next(handle, state.free_handle.unwrap_or(handle));
        state.free_handle = Some(handle);
    }

    /// Adds a zspage to the class. Lets go of the lock while it allocates.
    fn add_zspage<'c>(
        &self,
        class: &'c Class,
        mut state: MutexGuard<'c, ClassState>,
    ) -> Result<MutexGuard<'c, ClassState>, StoreError> {
        let zspage = match state.zspages.reserve() {
            Some(zspage) => zspage,
            None => {
                self.add_slab(class, &mut state)?;
                state.zspages.reserve().ok_or(NoRoom)?
            }
        };
        let first = class.first_cell(&state, zspage);
        drop(state);
        let filled = self.fill(class, first);
        let mut state = class.state.lock();
        match filled {
            Ok(objects) => {
                state.zspages.insert(zspage, objects);
                self.page_count.fetch_add(u64::from(class.size.pages), Ordering::Relaxed);
            }
            Err(error) => {
                state.zspages.unreserve(zspage);
                return Err(error);
            }
        }
        Ok(state)
    }

    fn add_slab(&self, class: &Class, state: &mut ClassState) -> Result<(), NoRoom> {
        state.slabs.try_reserve(1).map_err(|_| NoRoom)?;
        state.zspages.make_room(SLAB / class.size.pages)?;
        let first = self.pages.add_slab(state.slabs.len() as u32)?;
        state.slabs.push(first);
        state.zspages.add(SLAB / class.size.pages);
        Ok(())
    }

    /// Allocates a zspage's pages, and gives the list of its objects. After a failure there are none.
    fn fill(&self, class: &Class, first: u32) -> Result<Box<[u32]>, StoreError> {
        let objects = free_objects(&class.size)?;
        let request = Request::new(Order::ZERO, Kind::Driver).with_effort(self.effort);
        let cells = || (first..first + class.size.pages).map(|number| Some((number, self.pages.cell(number)?)));
        // All at first: an allocation may wait for moves, so it's made without a folio's lock.
        let mut pages = ArrayVec::<FrozenFolio<'_>, LONGEST>::new();
        for cell in cells() {
            cell.ok_or(NoRoom)?;
            pages.push(self.registration.physical().alloc_with(&request)?);
        }
        for ((number, cell), page) in cells().flatten().zip(pages) {
            // Locked until the token is there: it may move from then on.
            let (token, _page) = self.registration.own(page, Key { rmap: 0, index: number });
            cell.put(token);
        }
        Ok(objects)
    }
}

impl Drop for Inner {
    /// Frees all pages, also of objects whose tokens were lost. Waits for moves of them.
    fn drop(&mut self) {
        for class in &self.classes {
            // One by one: waits are without the lock, and without memory.
            let first_cell = |zspage| {
                let state = class.state.lock();
                state.zspages.next_with_pages(zspage).map(|zspage| (zspage, class.first_cell(&state, zspage)))
            };
            let all = core::iter::successors(first_cell(0), |(last, _)| first_cell(last + 1));
            let cells = all.flat_map(|(_, first)| first..first + class.size.pages);
            for cell in cells.filter_map(|cell| self.pages.cell(cell)) {
                if let Some(page) = self.registration.lock_in(cell) {
                    self.registration.release_in(cell, &page);
                }
            }
        }
    }
}

/// Gives the number of a new pool.
fn next_number() -> u32 {
    // Not of the engine's: it orders nothing.
    use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
    static NEXT: AtomicU32 = AtomicU32::new(1);
    NEXT.fetch_add(1, Relaxed)
}
