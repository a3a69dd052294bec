// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! What processes and the sample driver agree on: the device's name, its ioctls and their arguments.
//!
//! Takes and gives arguments as bytes; promises that any bytes of the right length are understood as something.

/// The device.
pub const DEVICE: &core::ffi::CStr = c"pagemove";

/// The size of a new open's buffer, in pages.
pub const FIRST_PAGES: u64 = 16;

/// The largest buffer: 4 GiB.
pub const MOST_PAGES: u64 = 1 << 20;

/// How many pins an open may have.
pub const MOST_PINS: usize = 32;

/// How many pages the device's own table can watch.
pub const WATCHED: usize = 64;

/// What the driver answers when asked to let a page move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Policy {
    /// Yes.
    Allow = 0,
    /// No.
    Refuse = 1,
    /// Every second time: later.
    Retry = 2,
}

const fn code(direction: u32, number: u32, bytes: usize) -> u32 {
    direction << 30 | (bytes as u32) << 16 | (b'p' as u32) << 8 | number
}

const WRITE: u32 = 1;
const READ: u32 = 2;

/// Sets the size. Argument: [`One`] with the pages.
pub const RESIZE: u32 = code(WRITE, 1, One::BYTES);
/// Frees pages. Argument: [`Range`].
pub const FREE: u32 = code(WRITE, 2, Range::BYTES);
/// Makes pages ahead of their first touch. Argument: [`Range`].
pub const FILL: u32 = code(WRITE, 3, Range::BYTES);
/// Counts. Argument: [`Counts`].
pub const COUNT: u32 = code(READ, 4, Counts::BYTES);
/// Pins a page. Argument: [`Named`].
pub const PIN: u32 = code(WRITE, 5, Named::BYTES);
/// Lets go of a pin. Argument: [`Named`].
pub const UNPIN: u32 = code(WRITE, 6, Named::BYTES);
/// Lists a pin: takes its place in the list, gives what is known of it; `ENOENT` past the last. Argument: [`Listed`].
pub const LIST: u32 = code(WRITE | READ, 7, Listed::BYTES);
/// Sets the answer to moves, for an administrator. Argument: [`One`] with a [`Policy`].
pub const POLICY: u32 = code(WRITE, 8, One::BYTES);
/// Puts a page into the device's own table. Argument: [`One`] with the page.
pub const WATCH: u32 = code(WRITE, 9, One::BYTES);
/// Tells the frame that the device's own table has for a page. Argument: [`Watched`].
pub const LOOK: u32 = code(WRITE | READ, 10, Watched::BYTES);

/// Declares an argument: a struct of fields that stand one after the other, each with its bytes in the machine's order.
macro_rules! argument {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty = $bytes:expr, $get:expr, $put:expr;)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $name { $($(#[$field_doc])* pub $field: $type,)* }

        impl $name {
            /// Its size.
            pub const BYTES: usize = 0 $(+ $bytes)*;

            /// Understands an argument; `None` if its length is wrong.
            pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
                let bytes: &[u8; Self::BYTES] = bytes.try_into().ok()?;
                let rest = &bytes[..];
                $(let (first, rest) = rest.split_first_chunk::<{ $bytes }>()?; let $field = $get(*first);)*
                let _ = rest;
                Some(Self { $($field,)* })
            }

            /// Gives it as an argument.
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
    /// Some pages.
    Range {
        /// The first.
        first: u64 = 8, u64::from_ne_bytes, u64::to_ne_bytes;
        /// How many.
        pages: u64 = 8, u64::from_ne_bytes, u64::to_ne_bytes;
    }
}

argument! {
    /// What there is, and what has happened in this open.
    Counts {
        /// The size.
        size: u64 = 8, u64::from_ne_bytes, u64::to_ne_bytes;
        /// Pages in memory.
        pages: u64 = 8, u64::from_ne_bytes, u64::to_ne_bytes;
        /// Pins.
        pins: u64 = 8, u64::from_ne_bytes, u64::to_ne_bytes;
        /// Moves that the driver was asked about: those granted and those refused.
        asked: u64 = 8, u64::from_ne_bytes, u64::to_ne_bytes;
        /// Moves.
        moved: u64 = 8, u64::from_ne_bytes, u64::to_ne_bytes;
        /// Moves that were granted, and are over.
        over: u64 = 8, u64::from_ne_bytes, u64::to_ne_bytes;
        /// Moves that were granted, and failed.
        failed: u64 = 8, u64::from_ne_bytes, u64::to_ne_bytes;
        /// Moves that the driver has refused or put off.
        refused: u64 = 8, u64::from_ne_bytes, u64::to_ne_bytes;
    }
}

argument! {
    /// A page, and the name of a pin, padded with zeros.
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
        /// Its place in the list: asked for.
        place: u64 = 8, u64::from_ne_bytes, u64::to_ne_bytes;
        /// The page.
        index: u64 = 8, u64::from_ne_bytes, u64::to_ne_bytes;
        /// Since when, in nanoseconds since the machine started.
        since_ns: u64 = 8, u64::from_ne_bytes, u64::to_ne_bytes;
        /// The process that asked for it.
        pid: u64 = 8, u64::from_ne_bytes, u64::to_ne_bytes;
        /// That process's name.
        by: [u8; 16] = 16, core::convert::identity, core::convert::identity;
        /// Its own name.
        name: [u8; 24] = 24, core::convert::identity, core::convert::identity;
    }
}

argument! {
    /// An entry of the device's own table.
    Watched {
        /// The page: asked for.
        index: u64 = 8, u64::from_ne_bytes, u64::to_ne_bytes;
        /// Its frame.
        pfn: u64 = 8, u64::from_ne_bytes, u64::to_ne_bytes;
    }
}
