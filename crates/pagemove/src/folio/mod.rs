//! Folios, by handles: what a caller may do with an allocation follows from what it holds.
//!
//! | handle | means | gives back when dropped |
//! | --- | --- | --- |
//! | [`FrozenFolio`] | no reference exists: contents, owner and key are the holder's alone | the frames |
//! | [`FolioRef`] | a reference: not freed, reused or moved; contents as atomics | the reference |
//! | [`LockedFolio`] | a reference and the lock: not mapped, truncated or taken over either | both |
//! | [`PinnedPage`] | a reference of a device's, by name, for long | the pin |
//! | [`Writeback`] | a reference, while the contents are written to a backing store | the mark, then the reference |
//!
//! All but a pin show the [`Folio`] itself. [`Migration`] is one on its way from one place to another.
//!
//! A handle borrows the [`Physical`](crate::zone::Physical) that it belongs to, except for a pin, which keeps it. Calls that change a
//! handle into another one consume it. Containers that keep a number instead of a handle use `into_raw` and the unsafe `from_raw`.

use core::fmt;

mod frozen;
mod locked;
mod migration;
mod named;
mod pinned;
mod shared;

pub use frozen::FrozenFolio;
pub use locked::LockedFolio;
pub use migration::Migration;
pub use named::Folio;
pub use pinned::PinnedPage;
pub use shared::{FolioRef, Writeback};

macro_rules! shows_its_number {
    ($($handle:ident),*) => {$(
        // By its number alone: what a folio holds changes meanwhile.
        impl fmt::Debug for $handle<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_tuple(stringify!($handle)).field(&self.pfn()).finish()
            }
        }
    )*};
}

shows_its_number!(FrozenFolio, FolioRef, LockedFolio, Writeback);
