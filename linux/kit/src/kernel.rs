// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! The kit on a stock Linux: [`Store`] on a private inode's page cache, and what the C shim calls.
//!
//! Takes the shim's calls; gives them to the driver, and the driver's calls to the shim. This is the only module with
//! `unsafe`. What it relies on, beyond the signatures in `shim.h` (which the list below repeats):
//!
//! - **Pages.** What `pmk_page_get` gives has a reference, which is given back once, by `Held`'s drop. A page with such a
//!   reference isn't moved, freed or reused, so its address stays good for 4096 bytes. Processes write to it at any
//!   time, so it is read and written by `volatile` accesses of bytes and words, never by references.
//! - **State.** `open` makes it, `close` drops the driver, `free` drops the rest; the shim calls each once, in this order.
//!   `read`, `write`, `ioctl` and `close` come one at a time for each open (the shim's mutex; and closing is last), so
//!   the driver may be borrowed mutably. `isolate`, `migrate` and `putback` come at any time between, on any processor,
//!   and see the other field only, shared, which [`Moves`] asks to be `Sync`.
//! - **User memory** is touched by the kernel's own copying only, which checks addresses and fails on bad ones.
//! - **Layout.** `kvzalloc` aligns what is larger than a machine word to eight bytes and more; checked at compile time.
#![allow(unsafe_code)]

use core::cell::UnsafeCell;
use core::ffi::{c_char, c_int, c_long, c_void};
use core::marker::PhantomData;
use core::ptr::NonNull;

use crate::{
    Absent, Caller, Driver, Errno, Mode, Moves, OwnedMove, OwnedPage, PAGE_BYTES, Page, Pin, PinInfo, Refusal, Store,
    UserMemory,
};

/// The shim's `struct pmk_open`.
#[repr(C)]
pub struct RawOpen {
    _opaque: [u8; 0],
}

// SAFETY: as `shim.h` declares them. Those marked safe take nothing that could be wrong.
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

/// Ends the kernel's patience: what a panic of the driver comes to.
pub fn panic() -> ! {
    pmk_panic()
}

/// The largest number of pages in a store: what a file offset can express.
const MOST_PAGES: u64 = i64::MAX as u64 / PAGE_BYTES as u64;

/// The pages of one open.
pub struct Pages<'a> {
    open: NonNull<RawOpen>,
    _call: PhantomData<&'a RawOpen>,
}

/// A page with a reference.
#[derive(Debug)]
pub struct Held(NonNull<c_void>);

// SAFETY: a reference to a page may be given back from any thread.
unsafe impl Send for Held {}

/// The same, listed in debugfs for as long as it lives.
#[derive(Debug)]
pub struct Kept {
    held: Held,
    listed: NonNull<c_void>,
}

// SAFETY: the list has a lock of its own.
unsafe impl Send for Kept {}

/// The same, for the time of a call at most.
#[derive(Debug)]
pub struct Guard<'a> {
    held: Held,
    _store: PhantomData<&'a ()>,
}

impl Pages<'_> {
    /// # Safety
    /// `open` is the shim's, and not closed while this lives.
    unsafe fn new(open: *mut RawOpen) -> Self {
        // SAFETY: the shim's pointers to opens aren't null.
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
        // SAFETY: the open is live (`new`); so in all of these.
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
        // SAFETY: the open is live (`new`), and so is the page until `held` is dropped, which is after the unlisting.
        let listed = unsafe { pmk_pin_list(self.open.as_ptr(), held.0.as_ptr(), &info) };
        let listed = NonNull::new(listed).ok_or(Errno::ENOMEM)?;
        Ok(Pin::new(Kept { held, listed }, info))
    }
}

impl Held {
    fn address(&self) -> *mut u8 {
        // SAFETY: the page has our reference.
        unsafe { pmk_page_address(self.0.as_ptr()) }
    }
}

/// Splits what is copied from or to byte `at` of a page at the page's words of eight bytes: gives how many bytes lie
/// before the first of them, and how many are within the page.
fn words(at: usize, bytes: usize) -> (usize, usize) {
    let bytes = bytes.min(PAGE_BYTES.saturating_sub(at));
    ((at.wrapping_neg() % 8).min(bytes), bytes)
}

impl Page for Held {
    fn read(&self, at: usize, to: &mut [u8]) {
        let (before, bytes) = words(at, to.len());
        let (head, rest) = to.get_mut(..bytes).unwrap_or_default().split_at_mut_checked(before).unwrap_or_default();
        let (middle, tail) = rest.as_chunks_mut();
        // Whatever `at` is, only what is within the page is reached.
        let mut from = self.address().wrapping_add(at);
        for byte in head {
            // SAFETY: within the page, which stays (see above); so in all of these.
            *byte = unsafe { from.read_volatile() };
            from = from.wrapping_add(1);
        }
        for word in middle {
            // SAFETY: as above, and aligned, since a page is and `head` ends at a multiple of eight.
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
        // SAFETY: the page has our reference.
        unsafe { pmk_page_pfn(self.0.as_ptr()) }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // SAFETY: our reference, given back once.
        unsafe { pmk_page_put(self.0.as_ptr()) }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // SAFETY: listed by `pin`, and unlisted once, which may be after its open has gone.
        unsafe { pmk_pin_unlist(self.listed.as_ptr()) }
    }
}

/// What has a page is one.
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
        // SAFETY: as much as `from` has; the other side is checked by the kernel.
        let failed = unsafe { pmk_copy_to_user(self.at, from.as_ptr(), bytes) };
        self.copied(bytes, failed)
    }

    fn get(&mut self, to: &mut [u8]) -> Result<(), Errno> {
        let bytes = to.len().min(self.left);
        // SAFETY: as much as `to` has room for; the other side is checked by the kernel.
        let failed = unsafe { pmk_copy_from_user(to.as_mut_ptr(), self.at, bytes) };
        self.copied(bytes, failed)
    }
}

/// What an open has.
struct State<D, M> {
    driver: UnsafeCell<Option<D>>,
    moves: M,
}

/// What the shim calls, for a driver `D`; [`module!`](crate::module) gives these their names.
///
/// All are unsafe to call for the same reason: `open` and `state` must be the shim's own, in the order told above.
pub struct Calls<D>(PhantomData<D>);

#[expect(clippy::missing_safety_doc, reason = "told once, at the type")]
impl<D, M> Calls<D>
where
    D: for<'a> Driver<Pages<'a>, Moves = M>,
    M: Moves,
{
    const FITS: () = {
        assert!(align_of::<State<D, M>>() <= 8 && size_of::<State<D, M>>() >= 8);
        // `Driver::open` gives both by value: they pass over the kernel's stack, twice at times, which has 16 KiB. Past its
        // end are other stacks, and nothing looks whether a large frame has stepped over the guard between.
        assert!(
            size_of::<State<D, M>>() <= 4096,
            "a driver and its Moves are at most 4096 bytes: they pass over the stack"
        );
    };

    /// Names the device.
    pub fn name() -> *const c_char {
        <D as Driver<Pages<'_>>>::NAME.as_ptr()
    }

    /// Opens: gives the state, or null and an error.
    pub unsafe fn open(open: *mut RawOpen, error: *mut c_int) -> *mut c_void {
        let () = Self::FITS;
        // SAFETY: this function's caller.
        let made = D::open(&unsafe { Pages::new(open) });
        let (state, errno) = match made {
            Ok((driver, moves)) => {
                // SAFETY: any size will do.
                let memory = unsafe { pmk_alloc(size_of::<State<D, M>>()) }.cast::<State<D, M>>();
                if !memory.is_null() {
                    // SAFETY: fresh memory of the right size and alignment (`FITS`).
                    unsafe { memory.write(State { driver: UnsafeCell::new(Some(driver)), moves }) };
                }
                (memory.cast(), Errno::ENOMEM)
            }
            Err(errno) => (core::ptr::null_mut(), errno),
        };
        // SAFETY: the shim's variable.
        unsafe { error.write(errno.negative()) };
        state
    }

    /// Drops the driver, and its pins with it.
    pub unsafe fn close(state: *mut c_void) {
        // SAFETY: nothing else uses the driver now.
        unsafe { *(*state.cast::<State<D, M>>()).driver.get() = None };
    }

    /// Frees the state.
    pub unsafe fn free(state: *mut c_void) {
        // SAFETY: made by `open`, and of no use to anybody any more.
        unsafe {
            state.cast::<State<D, M>>().drop_in_place();
            pmk_free(state);
        }
    }

    unsafe fn with(state: *mut c_void, call: impl FnOnce(&mut D, &M) -> Result<usize, Errno>) -> c_long {
        // SAFETY: the shim's mutex makes this the only one that uses the driver; `moves` is shared by all.
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

    /// Reads.
    pub unsafe fn read(open: *mut RawOpen, state: *mut c_void, at: i64, to: *mut u8, bytes: usize) -> c_long {
        let mut user = User { at: to, left: bytes };
        // SAFETY: this function's caller.
        unsafe {
            let pages = Pages::new(open);
            // Never more than were asked for, whatever the driver says: programs index their buffers with it.
            Self::with(state, |driver, _| Ok(driver.read(&pages, offset(at)?, &mut user)?.min(bytes)))
        }
    }

    /// Writes.
    pub unsafe fn write(open: *mut RawOpen, state: *mut c_void, at: i64, from: *mut u8, bytes: usize) -> c_long {
        let mut user = User { at: from, left: bytes };
        // SAFETY: this function's caller.
        unsafe {
            let pages = Pages::new(open);
            Self::with(state, |driver, _| Ok(driver.write(&pages, offset(at)?, &mut user)?.min(bytes)))
        }
    }

    /// Carries out an ioctl.
    pub unsafe fn ioctl(open: *mut RawOpen, state: *mut c_void, command: u32, at: *mut u8, bytes: usize) -> c_long {
        // SAFETY: this function's caller; the argument is the shim's own copy, of so many bytes.
        unsafe {
            let pages = Pages::new(open);
            let argument = core::slice::from_raw_parts_mut(at, bytes);
            Self::with(state, |driver, moves| Ok(driver.ioctl(&pages, moves, command, argument)? as usize))
        }
    }

    /// Asks whether a page may move.
    pub unsafe fn isolate(state: *mut c_void, page: OwnedPage) -> c_int {
        // SAFETY: this function's caller.
        match unsafe { Self::moves(state) }.isolate(page) {
            Ok(()) => 0,
            Err(Refusal::No) => Errno::EBUSY.negative(),
            Err(Refusal::Retry) => Errno::EAGAIN.negative(),
        }
    }

    /// Tells that a page has moved.
    pub unsafe fn migrate(state: *mut c_void, page: OwnedMove) {
        // SAFETY: this function's caller.
        unsafe { Self::moves(state) }.migrate(page);
    }

    /// Tells that a move is over.
    pub unsafe fn putback(state: *mut c_void, page: OwnedPage) {
        // SAFETY: this function's caller.
        unsafe { Self::moves(state) }.putback(page);
    }

    unsafe fn moves<'a>(state: *mut c_void) -> &'a M {
        // SAFETY: this field is only ever shared until `free`.
        unsafe { &(*state.cast::<State<D, M>>()).moves }
    }
}

fn offset(at: i64) -> Result<u64, Errno> {
    u64::try_from(at).map_err(|_| Errno::EINVAL)
}

/// Understands the kernel's `enum migrate_mode`.
pub fn mode(number: c_int) -> Mode {
    match number {
        0 => Mode::Async,
        1 => Mode::SyncLight,
        _ => Mode::Sync,
    }
}
