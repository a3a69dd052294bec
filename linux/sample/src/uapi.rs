// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! The interface between processes and the sample driver: the device's name, its ioctls and their arguments.
//!
//! Arguments are converted from and to bytes; any bytes of the right length are valid.

/// The device's name.
pub const DEVICE: &core::ffi::CStr = c"pagemove";

/// The size of a new open's buffer, in pages.
pub const FIRST_PAGES: u64 = 16;

/// The largest buffer: 4 GiB.
pub const MOST_PAGES: u64 = 1 << 20;

/// How many pins an open may have.
pub const MOST_PINS: usize = 32;

/// How many pages the device's own table has entries for.
pub const WATCHED: usize = 64;

/// The driver's answer to `isolate`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Policy {
    /// Allow.
    Allow = 0,
    /// Refuse.
    Refuse = 1,
    /// Answer `Retry` every second time.
    Retry = 2,
}

const fn code(direction: u32, number: u32, bytes: usize) -> u32 {
    direction << 30 | (bytes as u32) << 16 | (b'p' as u32) << 8 | number
}

const WRITE: u32 = 1;
const READ: u32 = 2;

/// Sets the size. Argument: [`One`] with the number of pages.
pub const RESIZE: u32 = code(WRITE, 1, One::BYTES);
/// Frees pages. Argument: [`Range`].
pub const FREE: u32 = code(WRITE, 2, Range::BYTES);
/// Allocates pages before their first access. Argument: [`Range`].
pub const FILL: u32 = code(WRITE, 3, Range::BYTES);
/// Reads the counters. Argument: [`Counts`].
pub const COUNT: u32 = code(READ, 4, Counts::BYTES);
/// Pins a page. Argument: [`Named`].
pub const PIN: u32 = code(WRITE, 5, Named::BYTES);
/// Releases a pin. Argument: [`Named`].
pub const UNPIN: u32 = code(WRITE, 6, Named::BYTES);
/// Reads the pin at a place in the list; `ENOENT` past the last. Argument: [`Listed`].
pub const LIST: u32 = code(WRITE | READ, 7, Listed::BYTES);
/// Sets the answer to moves; administrators only. Argument: [`One`] with a [`Policy`].
pub const POLICY: u32 = code(WRITE, 8, One::BYTES);
/// Adds a page to the device's own table. Argument: [`One`] with the page.
pub const WATCH: u32 = code(WRITE, 9, One::BYTES);
/// Reads a page's frame from the device's own table. Argument: [`Watched`].
pub const LOOK: u32 = code(WRITE | READ, 10, Watched::BYTES);

/// Declares an argument: a struct of consecutive fields in native byte order.
macro_rules! argument {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty = $bytes:expr, $get:expr, $put:expr;)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $name { $($(#[$field_doc])* pub $field: $type,)* }

        impl $name {
            /// The size in bytes.
            pub const BYTES: usize = 0 $(+ $bytes)*;

            /// Parses an argument; `None` if its length is wrong.
            pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
                let bytes: &[u8; Self::BYTES] = bytes.try_into().ok()?;
                let rest = &bytes[..];
                $(let (first, rest) = rest.split_first_chunk::<{ $bytes }>()?; let $field = $get(*first);)*
                let _ = rest;
                Some(Self { $($field,)* })
            }

            /// Converts to bytes.
            pub fn to_bytes(&self) -> [u8; Self::BYTES] {
                let mut bytes = [0; Self::BYTES];
                let mut rest = &mut bytes[..];
                $(if let Some((first, after)) = core::mem::take(&mut rest).split_first_chunk_mut::<{ $bytes }>() {
                    *first = $put(self.$field);
                    rest = after;
                })*
                let _ = rest;
                bytes
            }
        }
    };
}

argument! {
    /// One number.
    One {
        /// The number.
        number: u64 = 8, u64::from_ne_bytes, u64::to_ne_bytes;
    }
}

argument! {
    /// A range of pages.
    Range {
        /// The first page.
        first: u64 = 8, u64::from_ne_bytes, u64::to_ne_bytes;
        /// The number of pages.
        pages: u64 = 8, u64::from_ne_bytes, u64::to_ne_bytes;
    }
}

argument! {
    /// State and counters of an open.
    Counts {
        /// The size in pages.
        size: u64 = 8, u64::from_ne_bytes, u64::to_ne_bytes;
        /// Pages in memory.
        pages: u64 = 8, u64::from_ne_bytes, u64::to_ne_bytes;
        /// Pins.
        pins: u64 = 8, u64::from_ne_bytes, u64::to_ne_bytes;
        /// Calls of `isolate`, granted and refused.
        asked: u64 = 8, u64::from_ne_bytes, u64::to_ne_bytes;
        /// Completed moves.
        moved: u64 = 8, u64::from_ne_bytes, u64::to_ne_bytes;
        /// Calls of `putback`: granted moves that are over.
        over: u64 = 8, u64::from_ne_bytes, u64::to_ne_bytes;
        /// Granted moves that failed.
        failed: u64 = 8, u64::from_ne_bytes, u64::to_ne_bytes;
        /// Moves that the driver refused or put off.
        refused: u64 = 8, u64::from_ne_bytes, u64::to_ne_bytes;
    }
}

argument! {
    /// A page, and a pin's name, padded with zeros.
    Named {
        /// The page.
        index: u64 = 8, u64::from_ne_bytes, u64::to_ne_bytes;
        /// The name.
        name: [u8; 24] = 24, core::convert::identity, core::convert::identity;
    }
}

argument! {
    /// A pin in the list.
    Listed {
        /// Its place in the list (input).
        place: u64 = 8, u64::from_ne_bytes, u64::to_ne_bytes;
        /// The page.
        index: u64 = 8, u64::from_ne_bytes, u64::to_ne_bytes;
        /// Start time, in nanoseconds since boot.
        since_ns: u64 = 8, u64::from_ne_bytes, u64::to_ne_bytes;
        /// The process that pinned it.
        pid: u64 = 8, u64::from_ne_bytes, u64::to_ne_bytes;
        /// That process's name.
        by: [u8; 16] = 16, core::convert::identity, core::convert::identity;
        /// The pin's name.
        name: [u8; 24] = 24, core::convert::identity, core::convert::identity;
    }
}

argument! {
    /// An entry of the device's own table.
    Watched {
        /// The page (input).
        index: u64 = 8, u64::from_ne_bytes, u64::to_ne_bytes;
        /// Its frame (PFN).
        pfn: u64 = 8, u64::from_ne_bytes, u64::to_ne_bytes;
    }
}
