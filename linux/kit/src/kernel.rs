// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! The kit on a stock Linux: [`Store`] on a private inode's page cache, and the functions that the C shim calls.
//!
//! Passes the shim's calls to the driver, and the driver's calls to the shim. The only module with `unsafe`. It relies
//! on the signatures in `shim.h` (repeated in the list below), and on:
//!
//! - **Pages.** `pmk_page_get` gives a reference, which `Held`'s drop puts once. A page with such a reference isn't
//!   moved, freed or reused, so its address is valid for 4096 bytes. Processes write to it at any time, so it is
//!   accessed by `volatile` reads and writes of bytes and words, never by references.
//! - **State.** `open` makes it, `close` drops the driver, `free` drops the rest. The shim calls each once, in this
//!   order. `read`, `write` and `ioctl` of an open run under the shim's mutex, and `close` comes after them, so the
//!   driver may be borrowed mutably. `isolate`, `migrate` and `putback` run at any time between, on any CPU. They use
//!   only the other field, shared, so [`Moves`] requires `Sync`.
//! - **User memory** is accessed only by the kernel's own copy functions, which check addresses.
//! - **Layout.** `kvzalloc` aligns blocks larger than a machine word to at least eight bytes; checked at compile time.
#![allow(unsafe_code)]

use core::cell::UnsafeCell;
use core::ffi::{c_char, c_int, c_long, c_void};
use core::marker::PhantomData;
use core::ptr::NonNull;

use crate::{
    Absent, Caller, Driver, Errno, IsolatedFolio, Migration, Mode, Moves, PAGE_BYTES, Page, Pin, PinInfo, Refusal,
    Store, UserMemory,
};

/// The shim's `struct pmk_open`.
#[repr(C)]
pub struct RawOpen {
    _opaque: [u8; 0],
}

// SAFETY: as `shim.h` declares them. Those marked safe have no preconditions.
unsafe extern "C" {
    fn pmk_page_get(open: *mut RawOpen, index: u64, create: bool, error: *mut c_int) -> *mut c_void;
    fn pmk_page_put(page: *mut c_void);
    fn pmk_page_address(page: *mut c_void) -> *mut u8;
    fn pmk_page_pfn(page: *mut c_void) -> u64;
    fn pmk_pin_list(open: *mut RawOpen, page: *mut c_void, info: *const PinInfo) -> *mut c_void;
    fn pmk_pin_unlist(listed: *mut c_void);
    fn pmk_resize(open: *mut RawOpen, pages: u64);
    fn pmk_free_range(open: *mut RawOpen, first: u64, pages: u64);
    fn pmk_len(open: *mut RawOpen) -> u64;
    fn pmk_count(open: *mut RawOpen) -> u64;
    fn pmk_alloc(bytes: usize) -> *mut c_void;
    fn pmk_free(memory: *mut c_void);
    fn pmk_copy_to_user(to: *mut u8, from: *const u8, bytes: usize) -> usize;
    fn pmk_copy_from_user(to: *mut u8, from: *const u8, bytes: usize) -> usize;
    safe fn pmk_now_ns() -> u64;
    fn pmk_caller(name: *mut u8) -> u32;
    safe fn pmk_caller_is_administrator() -> bool;
    safe fn pmk_panic() -> !;
}

/// A driver's panic: `BUG()`.
pub fn panic() -> ! {
    pmk_panic()
}

/// The largest size of a store in pages: a file offset must be able to express it.
const MOST_PAGES: u64 = i64::MAX as u64 / PAGE_BYTES as u64;

/// The pages of one open.
pub struct Pages<'a> {
    open: NonNull<RawOpen>,
    _call: PhantomData<&'a RawOpen>,
}

/// A page with a reference.
#[derive(Debug)]
pub struct Held(NonNull<c_void>);

// SAFETY: a reference to a folio may be put from any thread.
unsafe impl Send for Held {}

/// A page with a reference, listed in debugfs until dropped.
#[derive(Debug)]
pub struct Kept {
    held: Held,
    listed: NonNull<c_void>,
}

// SAFETY: the list has its own lock.
unsafe impl Send for Kept {}

/// A page with a reference, limited to one call.
#[derive(Debug)]
pub struct Guard<'a> {
    held: Held,
    _store: PhantomData<&'a ()>,
}

impl Pages<'_> {
    /// # Safety
    /// `open` must come from the shim, and stay open while this lives.
    unsafe fn new(open: *mut RawOpen) -> Self {
        // SAFETY: the shim's pointers to opens are never null.
        Self { open: unsafe { NonNull::new_unchecked(open) }, _call: PhantomData }
    }

    fn hold(&self, index: u64, absent: Absent) -> Result<Held, Errno> {
        let mut error = 0;
        // SAFETY: the open is live (`new`).
        let page = unsafe { pmk_page_get(self.open.as_ptr(), index, absent == Absent::Create, &mut error) };
        NonNull::new(page).map(Held).ok_or(Errno::from_negative(error))
    }
}

impl Store for Pages<'_> {
    type Guard<'a>
        = Guard<'a>
    where
        Self: 'a;
    type Held = Kept;

    fn len(&self) -> u64 {
        // SAFETY: the open is live (`new`); so in all calls below.
        unsafe { pmk_len(self.open.as_ptr()) }
    }

    fn resize(&self, pages: u64) {
        // SAFETY: as above; the size in bytes fits a file offset.
        unsafe { pmk_resize(self.open.as_ptr(), pages.min(MOST_PAGES)) }
    }

    fn free(&self, first: u64, pages: u64) {
        let first = first.min(self.len());
        let pages = pages.min(self.len() - first);
        // SAFETY: as above; the range ends within the store.
        unsafe { pmk_free_range(self.open.as_ptr(), first, pages) }
    }

    fn count(&self) -> u64 {
        // SAFETY: as above.
        unsafe { pmk_count(self.open.as_ptr()) }
    }

    fn page(&self, index: u64, absent: Absent) -> Result<Guard<'_>, Errno> {
        Ok(Guard { held: self.hold(index, absent)?, _store: PhantomData })
    }

    fn caller_is_administrator(&self) -> bool {
        pmk_caller_is_administrator()
    }

    fn pin(&self, index: u64, name: &[u8]) -> Result<Pin<Kept>, Errno> {
        let mut by = Caller { pid: 0, name: [0; 16] };
        // SAFETY: the name has 16 bytes.
        by.pid = unsafe { pmk_caller(by.name.as_mut_ptr()) };
        let info = PinInfo::new(index, name, by, pmk_now_ns())?;
        let held = self.hold(index, Absent::Create)?;
        // SAFETY: the open is live (`new`). `Kept` unlists the page before it drops `held`, so the page outlives its
        // list entry.
        let listed = unsafe { pmk_pin_list(self.open.as_ptr(), held.0.as_ptr(), &info) };
        let listed = NonNull::new(listed).ok_or(Errno::ENOMEM)?;
        Ok(Pin::new(Kept { held, listed }, info))
    }
}

impl Held {
    fn address(&self) -> *mut u8 {
        // SAFETY: we hold a reference to the page.
        unsafe { pmk_page_address(self.0.as_ptr()) }
    }
}

/// Splits a copy at byte `at` of a page at eight-byte words: gives the number of bytes before the first word, and the
/// number of bytes within the page.
fn words(at: usize, bytes: usize) -> (usize, usize) {
    let bytes = bytes.min(PAGE_BYTES.saturating_sub(at));
    ((at.wrapping_neg() % 8).min(bytes), bytes)
}

impl Page for Held {
    fn read(&self, at: usize, to: &mut [u8]) {
        let (before, bytes) = words(at, to.len());
        let (head, rest) = to.get_mut(..bytes).unwrap_or_default().split_at_mut_checked(before).unwrap_or_default();
        let (middle, tail) = rest.as_chunks_mut();
        // `bytes` is cut to the page's end for any `at`.
        let mut from = self.address().wrapping_add(at);
        for byte in head {
            // SAFETY: within the page, to which we hold a reference; so in all of these.
            *byte = unsafe { from.read_volatile() };
            from = from.wrapping_add(1);
        }
        for word in middle {
            // SAFETY: as above, and aligned: pages are, and `head` ends at a multiple of eight.
            *word = unsafe { from.cast::<u64>().read_volatile() }.to_ne_bytes();
            from = from.wrapping_add(8);
        }
        for byte in tail {
            // SAFETY: as above.
            *byte = unsafe { from.read_volatile() };
            from = from.wrapping_add(1);
        }
    }

    fn write(&self, at: usize, from: &[u8]) {
        let (before, bytes) = words(at, from.len());
        let (head, rest) = from.get(..bytes).unwrap_or_default().split_at_checked(before).unwrap_or_default();
        let (middle, tail) = rest.as_chunks();
        let mut to = self.address().wrapping_add(at);
        for byte in head {
            // SAFETY: as in `read`.
            unsafe { to.write_volatile(*byte) };
            to = to.wrapping_add(1);
        }
        for word in middle {
            // SAFETY: as in `read`.
            unsafe { to.cast::<u64>().write_volatile(u64::from_ne_bytes(*word)) };
            to = to.wrapping_add(8);
        }
        for byte in tail {
            // SAFETY: as in `read`.
            unsafe { to.write_volatile(*byte) };
            to = to.wrapping_add(1);
        }
    }

    fn pfn(&self) -> u64 {
        // SAFETY: we hold a reference to the page.
        unsafe { pmk_page_pfn(self.0.as_ptr()) }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // SAFETY: our reference, put once.
        unsafe { pmk_page_put(self.0.as_ptr()) }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // SAFETY: listed by `pin`, unlisted once; allowed after its open is gone.
        unsafe { pmk_pin_unlist(self.listed.as_ptr()) }
    }
}

/// Forwards [`Page`] to the field `held`.
macro_rules! page_by_held {
    ($type:ty) => {
        impl Page for $type {
            fn read(&self, at: usize, to: &mut [u8]) {
                self.held.read(at, to);
            }

            fn write(&self, at: usize, from: &[u8]) {
                self.held.write(at, from);
            }

            fn pfn(&self) -> u64 {
                self.held.pfn()
            }
        }
    };
}

page_by_held!(Guard<'_>);
page_by_held!(Kept);

/// The calling process's buffer.
struct User {
    at: *mut u8,
    left: usize,
}

impl User {
    fn copied(&mut self, bytes: usize, failed: usize) -> Result<(), Errno> {
        self.at = self.at.wrapping_add(bytes);
        self.left -= bytes;
        if failed == 0 { Ok(()) } else { Err(Errno::EFAULT) }
    }
}

impl UserMemory for User {
    fn left(&self) -> usize {
        self.left
    }

    fn put(&mut self, from: &[u8]) -> Result<(), Errno> {
        let bytes = from.len().min(self.left);
        // SAFETY: `from` has that many bytes; the kernel checks the user side.
        let failed = unsafe { pmk_copy_to_user(self.at, from.as_ptr(), bytes) };
        self.copied(bytes, failed)
    }

    fn get(&mut self, to: &mut [u8]) -> Result<(), Errno> {
        let bytes = to.len().min(self.left);
        // SAFETY: `to` has that many bytes; the kernel checks the user side.
        let failed = unsafe { pmk_copy_from_user(to.as_mut_ptr(), self.at, bytes) };
        self.copied(bytes, failed)
    }
}

/// The state of an open.
struct State<D, M> {
    driver: UnsafeCell<Option<D>>,
    moves: M,
}

/// The functions that the shim calls, for a driver `D`; [`module!`](crate::module) gives them their names.
///
/// All have the same safety contract: `open` and `state` come from the shim, in the order described at the top.
pub struct Calls<D>(PhantomData<D>);

#[expect(clippy::missing_safety_doc, reason = "told once, at the type")]
impl<D, M> Calls<D>
where
    D: for<'a> Driver<Pages<'a>, Moves = M>,
    M: Moves,
{
    const FITS: () = {
        assert!(align_of::<State<D, M>>() <= 8 && size_of::<State<D, M>>() >= 8);
        // `Driver::open` returns both by value, so they pass over the kernel's 16 KiB stack, sometimes twice. A large
        // stack frame can step over the guard page into another stack unnoticed.
        assert!(
            size_of::<State<D, M>>() <= 4096,
            "a driver and its Moves are at most 4096 bytes: they pass over the stack"
        );
    };

    /// The device's name.
    pub fn name() -> *const c_char {
        <D as Driver<Pages<'_>>>::NAME.as_ptr()
    }

    /// Opens the device: gives the state, or null and an error.
    pub unsafe fn open(open: *mut RawOpen, error: *mut c_int) -> *mut c_void {
        let () = Self::FITS;
        // SAFETY: by this function's contract.
        let made = D::open(&unsafe { Pages::new(open) });
        let (state, errno) = match made {
            Ok((driver, moves)) => {
                // SAFETY: any size is allowed.
                let memory = unsafe { pmk_alloc(size_of::<State<D, M>>()) }.cast::<State<D, M>>();
                if !memory.is_null() {
                    // SAFETY: fresh memory of the right size and alignment (`FITS`).
                    unsafe { memory.write(State { driver: UnsafeCell::new(Some(driver)), moves }) };
                }
                (memory.cast(), Errno::ENOMEM)
            }
            Err(errno) => (core::ptr::null_mut(), errno),
        };
        // SAFETY: a variable of the shim's.
        unsafe { error.write(errno.negative()) };
        state
    }

    /// Drops the driver with its pins.
    pub unsafe fn close(state: *mut c_void) {
        // SAFETY: nothing else uses the driver now.
        unsafe { *(*state.cast::<State<D, M>>()).driver.get() = None };
    }

    /// Frees the state.
    pub unsafe fn free(state: *mut c_void) {
        // SAFETY: made by `open`, and no longer used.
        unsafe {
            state.cast::<State<D, M>>().drop_in_place();
            pmk_free(state);
        }
    }

    unsafe fn call_driver(state: *mut c_void, call: impl FnOnce(&mut D, &M) -> Result<usize, Errno>) -> c_long {
        // SAFETY: the shim's mutex excludes other users of the driver; `moves` is only shared.
        let (driver, moves) = unsafe {
            let state = state.cast::<State<D, M>>();
            (&mut *(*state).driver.get(), &(*state).moves)
        };
        let result = driver.as_mut().ok_or(Errno::ENXIO).and_then(|driver| call(driver, moves));
        match result {
            Ok(number) => number as c_long,
            Err(error) => c_long::from(error.negative()),
        }
    }

    /// Reads from the store into the process.
    pub unsafe fn read(open: *mut RawOpen, state: *mut c_void, at: i64, to: *mut u8, bytes: usize) -> c_long {
        let mut user = User { at: to, left: bytes };
        // SAFETY: by this function's contract.
        unsafe {
            let pages = Pages::new(open);
            // At most what was asked for, whatever the driver returns: programs index their buffers with it.
            Self::call_driver(state, |driver, _| Ok(driver.read(&pages, offset(at)?, &mut user)?.min(bytes)))
        }
    }

    /// Writes from the process to the store.
    pub unsafe fn write(open: *mut RawOpen, state: *mut c_void, at: i64, from: *mut u8, bytes: usize) -> c_long {
        let mut user = User { at: from, left: bytes };
        // SAFETY: by this function's contract.
        unsafe {
            let pages = Pages::new(open);
            Self::call_driver(state, |driver, _| Ok(driver.write(&pages, offset(at)?, &mut user)?.min(bytes)))
        }
    }

    /// Carries out an ioctl.
    pub unsafe fn ioctl(open: *mut RawOpen, state: *mut c_void, command: u32, at: *mut u8, bytes: usize) -> c_long {
        // SAFETY: by this function's contract; the argument is the shim's copy, of `bytes` bytes.
        unsafe {
            let pages = Pages::new(open);
            let argument = core::slice::from_raw_parts_mut(at, bytes);
            Self::call_driver(state, |driver, moves| Ok(driver.ioctl(&pages, moves, command, argument)? as usize))
        }
    }

    /// Asks the driver whether a page may move.
    pub unsafe fn isolate(state: *mut c_void, folio: IsolatedFolio) -> c_int {
        // SAFETY: by this function's contract.
        match unsafe { Self::moves(state) }.isolate(folio) {
            Ok(()) => 0,
            Err(Refusal::No) => Errno::EBUSY.negative(),
            Err(Refusal::Retry) => Errno::EAGAIN.negative(),
        }
    }

    /// Tells the driver that a page has moved.
    pub unsafe fn migrate(state: *mut c_void, folio: Migration) {
        // SAFETY: by this function's contract.
        unsafe { Self::moves(state) }.migrate(folio);
    }

    /// Tells the driver that a move is over.
    pub unsafe fn putback(state: *mut c_void, folio: IsolatedFolio) {
        // SAFETY: by this function's contract.
        unsafe { Self::moves(state) }.putback(folio);
    }

    unsafe fn moves<'a>(state: *mut c_void) -> &'a M {
        // SAFETY: this field is only shared until `free`.
        unsafe { &(*state.cast::<State<D, M>>()).moves }
    }
}

fn offset(at: i64) -> Result<u64, Errno> {
    u64::try_from(at).map_err(|_| Errno::EINVAL)
}

/// Converts the kernel's `enum migrate_mode`.
pub fn mode(number: c_int) -> Mode {
    match number {
        0 => Mode::Async,
        1 => Mode::SyncLight,
        _ => Mode::Sync,
    }
}
