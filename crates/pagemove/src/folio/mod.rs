//! Handles of folios: the handle's type says what the caller may do.
//!
//! | handle | means | dropping it gives back |
//! | --- | --- | --- |
//! | [`FrozenFolio`] | no reference exists: only the holder uses contents, owner and key | the frames |
//! | [`FolioRef`] | a reference: not freed, reused or moved; contents as atomics | the reference |
//! | [`LockedFolio`] | a reference and the lock: not mapped, truncated or taken over either | both |
//! | [`FrozenReferences`] | the only reference to a locked folio, but for its owner's; nobody can take another one | the freeze |
//! | [`PinnedPage`] | a device's long-term reference, by name | the pin |
//! | [`Writeback`] | a reference, while the contents are written to a backing store | the mark, then the reference |
//!
//! All but a pin dereference to [`Folio`]. [`Migration`] is the state of a folio's move.
//!
//! A handle borrows its [`Physical`](crate::zone::Physical); a pin owns an `Arc` of it. Calls that turn a handle into
//! another one consume it. Containers that keep a frame number instead of a handle use `into_raw` and the unsafe
//! `from_raw`.

use core::fmt;

mod bytes;
mod frozen;
mod locked;
mod migration;
mod named;
mod pinned;
mod shared;

pub use frozen::FrozenFolio;
pub use locked::{FrozenReferences, LockedFolio};
pub use migration::Migration;
pub use named::Folio;
pub use pinned::PinnedPage;
pub use shared::{FolioRef, Writeback};

macro_rules! shows_its_number {
    ($($handle:ident),*) => {$(
        // Only the number, since a folio's fields may change meanwhile.
        impl fmt::Debug for $handle<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_tuple(stringify!($handle)).field(&self.pfn()).finish()
            }
        }
    )*};
}

shows_its_number!(FrozenFolio, FolioRef, LockedFolio, Writeback);
