//! Owning a folio: its owner keeps a token of 8 bytes for each, in whatever table it likes.
//!
//! # Protocol
//! The frame's `owner` field says whose reference it is, and is changed under the folio's lock only. A token can't be copied, and
//! every use of it checks that field. It names its memory as well, since a program may have several.

use alloc::sync::Arc;

use super::{FolioToken, Registration};
use crate::{
    folio::{FolioRef, FrozenFolio, LockedFolio},
    frame::{Key, Kind, Marks},
    units::Pfn,
    zone::Physical,
};

/// Why a token gives no reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The folio is being moved, and its token will be another one: let go of the lock of your table, wait with
    /// [`Registration::wait_for_move`], and look again.
    #[error("folio {0} is being moved")]
    Moving(Pfn),
    /// The registration owns no folio there.
    #[error("folio {0} belongs to somebody else")]
    NotOwned(Pfn),
}

impl Registration {
    /// Takes over a folio, allocated as [`Kind::Driver`] or [`Kind::File`]: from now on it can be moved, by the callbacks of this
    /// registration. Its mappings are found by `key`, if that names a reverse map.
    ///
    /// Gives the token, and the folio locked, so that it can't move before the owner has put the token where its callbacks find it.
    /// Panics if the folio is of another kind or memory, or above the owner's bound.
    pub fn own<'p>(&self, folio: FrozenFolio<'p>, key: Key) -> (FolioToken, LockedFolio<'p>) {
        let state = folio.physical().frame(folio.pfn()).state();
        let fits = matches!(state.kind(), Kind::Driver | Kind::File) && self.is_of(folio.physical());
        let end = folio.pfn().up(state.order().frames());
        let is_within = self.below().is_none_or(|below| end <= below);
        assert!(
            fits && is_within,
            "folio {} can't be owned: it's of kind {:?}, of another memory, or above the owner's bound",
            folio.pfn(),
            state.kind()
        );
        let token = FolioToken::new(self.physical(), folio.pfn());
        (token, folio.publish_owned(self.number(), key))
    }

    /// Takes a reference to the folio that `token` stands for. Doesn't wait, so it may be called under the lock of the owner's table.
    pub fn get(&self, token: &FolioToken) -> Result<FolioRef<'_>, TokenError> {
        let physical = self.physical();
        let not_owned = TokenError::NotOwned(token.pfn());
        if !token.names(physical, token.pfn()) {
            return Err(not_owned);
        }
        let Some(folio) = physical.get(token.pfn()) else { return Err(TokenError::Moving(token.pfn())) };
        self.owns(physical, folio.pfn(), token).then_some(folio).ok_or(not_owned)
    }

    /// Waits until nobody moves the folio at `pfn`, as [`TokenError::Moving`] named it. The caller holds no lock.
    pub fn wait_for_move(&self, pfn: Pfn) {
        self.physical().frames().wait_unlocked(pfn);
    }

    /// Gives up a folio: it's freed once nobody has a reference to it. Mappings must have been removed
    /// ([`crate::rmap::ReverseMap::unmap`]), or it stays until they are.
    ///
    /// Panics if `folio` isn't the one that `token` stands for, or isn't this registration's.
    pub fn release(&self, token: FolioToken, folio: &LockedFolio<'_>) {
        let is_ours = self.owns(folio.physical(), folio.pfn(), &token);
        assert!(is_ours, "folio {} is released by the token of {}, or by another owner", folio.pfn(), token.pfn());
        folio.give_up();
    }

    fn owns(&self, physical: &Arc<Physical>, pfn: Pfn, token: &FolioToken) -> bool {
        self.is_of(physical) && token.names(physical, pfn) && physical.frame(pfn).owner() == self.number()
    }
}

impl LockedFolio<'_> {
    /// Ends the ownership: takes owner and key away, and gives the owner's reference back. The caller is the owner.
    pub(crate) fn give_up(&self) {
        let (physical, pfn) = (self.physical(), self.pfn());
        let frame = physical.frame(pfn);
        frame.set_owner(0, Key::default());
        // There are others than the owner's reference and ours: the folio belongs to nobody now, and can't move.
        if frame.refs() > 2 {
            frame.mark(Marks::TRUNCATED);
            physical.update_class(pfn);
        }
        physical.put(pfn);
    }
}
