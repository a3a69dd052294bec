// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! The functions that the shim calls, by their C names.
//!
//! Takes a driver's type; gives a function for each `pmk_rust_` name of `shim.h`, which only forwards to
//! [`Calls`](crate::kernel::Calls).

/// Makes a kernel module of a driver: defines the functions that the shim calls, and the panic handler.
#[macro_export]
macro_rules! module {
    ($driver:ty) => {
        mod shim_calls {
            use core::ffi::{c_char, c_int, c_long, c_void};
            use $crate::kernel::{Calls, RawOpen, mode};
            use $crate::{IsolatedFolio, Migration};

            type Ours = Calls<$driver>;

            // SAFETY, of all: only the shim calls these, as `shim.h` says; no other symbol begins with `pmk_rust_`.

            #[unsafe(no_mangle)]
            extern "C" fn pmk_rust_name() -> *const c_char {
                Ours::name()
            }
            #[unsafe(no_mangle)]
            unsafe extern "C" fn pmk_rust_open(open: *mut RawOpen, error: *mut c_int) -> *mut c_void {
                unsafe { Ours::open(open, error) }
            }
            #[unsafe(no_mangle)]
            unsafe extern "C" fn pmk_rust_close(state: *mut c_void) {
                unsafe { Ours::close(state) }
            }
            #[unsafe(no_mangle)]
            unsafe extern "C" fn pmk_rust_free(state: *mut c_void) {
                unsafe { Ours::free(state) }
            }
            #[unsafe(no_mangle)]
            unsafe extern "C" fn pmk_rust_read(
                open: *mut RawOpen,
                state: *mut c_void,
                at: i64,
                to: *mut u8,
                bytes: usize,
            ) -> c_long {
                unsafe { Ours::read(open, state, at, to, bytes) }
            }
            #[unsafe(no_mangle)]
            unsafe extern "C" fn pmk_rust_write(
                open: *mut RawOpen,
                state: *mut c_void,
                at: i64,
                from: *mut u8,
                bytes: usize,
            ) -> c_long {
                unsafe { Ours::write(open, state, at, from, bytes) }
            }
            #[unsafe(no_mangle)]
            unsafe extern "C" fn pmk_rust_ioctl(
                open: *mut RawOpen,
                state: *mut c_void,
                command: u32,
                argument: *mut u8,
                bytes: usize,
            ) -> c_long {
                unsafe { Ours::ioctl(open, state, command, argument, bytes) }
            }
            #[unsafe(no_mangle)]
            unsafe extern "C" fn pmk_rust_isolate(state: *mut c_void, index: u64, pfn: u64, number: c_int) -> c_int {
                unsafe { Ours::isolate(state, IsolatedFolio { index, pfn, mode: mode(number) }) }
            }
            #[unsafe(no_mangle)]
            unsafe extern "C" fn pmk_rust_migrate(state: *mut c_void, index: u64, src: u64, dst: u64, number: c_int) {
                unsafe { Ours::migrate(state, Migration { index, src, dst, mode: mode(number) }) }
            }
            #[unsafe(no_mangle)]
            unsafe extern "C" fn pmk_rust_putback(state: *mut c_void, index: u64, pfn: u64, number: c_int) {
                unsafe { Ours::putback(state, IsolatedFolio { index, pfn, mode: mode(number) }) }
            }

            #[panic_handler]
            fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
                $crate::kernel::panic()
            }
        }
    };
}
