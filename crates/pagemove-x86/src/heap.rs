//! A kernel's heap: begins with memory of the boot, and grows from the engine.
//!
//! It doesn't sleep and masks interrupts, so handlers may use it, and drop pins. It grows by folios of [`Kind::Kernel`], with
//! [`Effort::Lists`]; it never gives them back. It grows early, and so keeps [`RESERVE`] for the time when processes have taken all
//! memory: a process that ends then needs some. A call that makes objects sets aside what it may take ([`Heap::reserve`]), before it takes any.
//!
//! `unsafe`: gives memory to the allocator. Relies on the contract of [`Heap::add`], and on folios that nobody else has.
#![allow(unsafe_code)]

use alloc::sync::Arc;
use core::{
    alloc::{GlobalAlloc, Layout},
    marker::PhantomData,
    ptr::{NonNull, null_mut},
};

use pagemove::{
    frame::Kind,
    units::{Order, PAGE_SIZE},
    zone::{Effort, Physical, Request},
};
use spin::Mutex;
use talc::{
    DefaultBinning,
    base::{Talc, binning::Binning},
    source::Source,
};

use crate::platform::{Instructions, Privileged, masked};

/// The folios that a heap takes, if a request needs no larger ones: 256 KiB.
const USUAL: Order = Order::new(6).unwrap();

/// Bytes that a heap has free, as long as memory isn't full.
pub const RESERVE: usize = 1 << 20;

/// What reservations leave of it.
const KEPT: usize = RESERVE / 2;

/// A heap, for `#[global_allocator]`.
pub struct Heap<I = Privileged> {
    talc: Mutex<Talc<Grow, DefaultBinning>>,
    _instructions: PhantomData<fn() -> I>,
}

/// Where more memory comes from. The heap keeps the engine: it has folios of it for good.
struct Grow {
    physical: Option<Arc<Physical>>,
    frames: usize,
    /// The bytes of all reservations.
    reserved: usize,
}

impl core::fmt::Debug for Grow {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(out, "{} frames of the engine", self.frames)
    }
}

impl Grow {
    const NOT: Self = Self { physical: None, frames: 0, reserved: 0 };
}

// SAFETY: the engine's allocation doesn't use the heap, except for a vector of a list's frames, whose capacity it has from its boot.
unsafe impl Source for Grow {
    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, layout: Layout) -> Result<(), ()> {
        let physical = talc.source.physical.clone().ok_or(())?;
        // Room for the allocator's own words at both ends.
        let pages = (layout.size() + layout.align() + PAGE_SIZE / 2).div_ceil(PAGE_SIZE);
        let needed = Order::new(pages.next_power_of_two().trailing_zeros() as u8).ok_or(())?;
        let usual = (needed < USUAL).then_some(USUAL);
        if usual.into_iter().chain([needed]).any(|order| take(talc, &physical, order)) { Ok(()) } else { Err(()) }
    }
}

/// Takes a folio from the engine, for good; tells whether there was one.
fn take<B: Binning>(talc: &mut Talc<Grow, B>, physical: &Arc<Physical>, order: Order) -> bool {
    let Ok(folio) = physical.alloc_with(&Request::new(order, Kind::Kernel).with_effort(Effort::Lists)) else {
        return false;
    };
    let start = NonNull::from(folio.words(0)).cast::<u8>().as_ptr();
    let _ = folio.into_raw();
    talc.source.frames += order.frames() as usize;
    // SAFETY: the folio is ours, and its frames follow each other in the direct map.
    unsafe { talc.claim(start, order.frames() as usize * PAGE_SIZE) }.is_some()
}

/// Bytes of a heap that other reservations don't get, until this is dropped. Allocations don't name it: they are at most as many bytes.
#[must_use = "the bytes are given back when this is dropped"]
pub struct Reservation<'h, I: Instructions = Privileged> {
    heap: &'h Heap<I>,
    bytes: usize,
}

impl<I: Instructions> Drop for Reservation<'_, I> {
    fn drop(&mut self) {
        self.heap.with(|talc| talc.source.reserved -= self.bytes);
    }
}

impl<I: Instructions> Heap<I> {
    /// Makes an empty heap.
    pub const fn new() -> Self {
        Self { talc: Mutex::new(Talc::new(Grow::NOT)), _instructions: PhantomData }
    }

    /// Gives it memory; needed before the engine boots. The first piece must have at least 4 KiB. Tells whether it can be used.
    ///
    /// # Safety
    /// Nobody else uses this memory, and it stays.
    pub unsafe fn add(&self, start: *mut u8, bytes: usize) -> bool {
        // SAFETY: the caller's contract.
        self.with(|talc| unsafe { talc.claim(start, bytes) }.is_some())
    }

    /// Lets it grow from the engine, which then doesn't end before the heap. The largest piece has 2 MiB, but for one request that is larger:
    /// up to 4 MiB.
    pub fn grow_from(&self, physical: &Arc<Physical>) {
        let physical = Some(physical.clone());
        let before = self.with(|talc| core::mem::replace(&mut talc.source.physical, physical));
        // Without the lock: it may free memory of this heap.
        drop(before);
    }

    /// Gives the frames that it has taken from the engine.
    pub fn grown_frames(&self) -> usize {
        self.with(|talc| talc.source.frames)
    }

    /// Sets `bytes` aside for what the caller will allocate; grows if need be. `None` if memory is full: half of [`RESERVE`] is for those who
    /// don't ask, such as processes that end.
    pub fn reserve(&self, bytes: usize) -> Option<Reservation<'_, I>> {
        self.with(|talc| {
            let reserved = talc.source.reserved.checked_add(bytes)?;
            let needed = reserved.checked_add(KEPT)?;
            while talc.counters().available_bytes < needed {
                let physical = talc.source.physical.clone()?;
                take(talc, &physical, USUAL).then_some(())?;
            }
            talc.source.reserved = reserved;
            Some(Reservation { heap: self, bytes })
        })
    }

    /// Gives the bytes that it has free: less than [`RESERVE`] only if memory is full.
    pub fn free_bytes(&self) -> usize {
        self.with(|talc| talc.counters().available_bytes)
    }

    fn with<T>(&self, deed: impl FnOnce(&mut Talc<Grow, DefaultBinning>) -> T) -> T {
        masked::<I, _>(|| deed(&mut self.talc.lock()))
    }
}

impl<I: Instructions> Default for Heap<I> {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: `Talc` gives memory that it was given, as the layout asks, and the lock keeps callers apart.
unsafe impl<I: Instructions> GlobalAlloc for Heap<I> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let start = self.with(|talc| {
            // SAFETY: the caller's contract: the size isn't 0.
            let start = unsafe { talc.allocate(layout) };
            if talc.counters().available_bytes < RESERVE.max(KEPT + talc.source.reserved)
                && let Some(physical) = talc.source.physical.clone()
            {
                // In vain if memory is full: then the reserve is used.
                take(talc, &physical, USUAL);
            }
            start
        });
        start.map_or(null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract.
        self.with(|talc| unsafe { talc.deallocate(start, layout) });
    }
}
