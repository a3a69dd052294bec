//! Owning folios: the owner keeps a token of 8 bytes for each, in a table of its own.
//!
//! # Protocol
//! The frame's `owner` field names the holder of the owner's reference, and changes only under the folio's lock. A
//! token can't be copied, and each use checks that field. It also names its memory, since a program may have several.

use alloc::sync::Arc;

use super::{FolioToken, Registration, TokenCell};
use crate::{
    folio::{FolioRef, FrozenFolio, LockedFolio},
    frame::{Key, Kind, Marks},
    units::Pfn,
    zone::Physical,
};

/// Why a token gives no reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The folio is being moved, and its token will change: release your table's lock, wait with
    /// [`Registration::wait_for_move`], and look up again.
    #[error("folio {0} is being moved")]
    Moving(Pfn),
    /// The registration doesn't own that folio.
    #[error("folio {0} belongs to somebody else")]
    NotOwned(Pfn),
    /// The cell has no token.
    #[error("there is no folio")]
    Empty,
}

impl Registration {
    /// Makes the registration the owner of a folio allocated as [`Kind::Driver`] or [`Kind::File`]: from now on it can
    /// move, by the owner's callbacks. Its mappings are found by `key`, if that names a reverse map.
    ///
    /// Gives the token, and the folio locked, so that it can't move before the token is where the callbacks find it.
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

    /// Takes a reference to the folio of `token`. Doesn't wait, so it may be called under the lock of the owner's
    /// table.
    pub fn get(&self, token: &FolioToken) -> Result<FolioRef<'_>, TokenError> {
        let physical = self.physical();
        let not_owned = TokenError::NotOwned(token.pfn());
        if !token.names(physical, token.pfn()) {
            return Err(not_owned);
        }
        let Some(folio) = physical.get(token.pfn()) else { return Err(TokenError::Moving(token.pfn())) };
        self.owns(physical, folio.pfn(), token).then_some(folio).ok_or(not_owned)
    }

    /// As [`Self::get`], for the token in a cell, which moves may exchange meanwhile. As long as the reference is held the folio is that of
    /// the cell, unless the token is taken out.
    pub fn get_in(&self, cell: &TokenCell) -> Result<FolioRef<'_>, TokenError> {
        let physical = self.physical();
        let mut found = cell.load();
        loop {
            let token = found.ok_or(TokenError::Empty)?;
            let pfn = token.pfn();
            let folio = token.names(physical, pfn).then(|| physical.get(pfn));
            // The folio may have moved, and its frame be another's, before the reference was taken. While that is held the frame isn't
            // freed, so the token can't come back.
            found = cell.load();
            if found.as_ref() != Some(&token) {
                continue;
            }
            return match folio {
                Some(Some(folio)) if self.owns(physical, folio.pfn(), &token) => Ok(folio),
                Some(None) => Err(TokenError::Moving(pfn)),
                _ => Err(TokenError::NotOwned(pfn)),
            };
        }
    }

    /// Locks the folio whose token is in a cell; waits for moves of it. `None` if the cell is empty, or has another owner's token. The caller
    /// holds no lock.
    pub fn lock_in(&self, cell: &TokenCell) -> Option<LockedFolio<'_>> {
        loop {
            match self.get_in(cell) {
                Ok(folio) => return Some(folio.lock()),
                Err(TokenError::Moving(pfn)) => self.wait_for_move(pfn),
                Err(TokenError::Empty | TokenError::NotOwned(_)) => return None,
            }
        }
    }

    /// As [`Self::release`], by the token in a cell, which is empty afterwards. Panics if the cell has none.
    pub fn release_in(&self, cell: &TokenCell, folio: &LockedFolio<'_>) {
        let token = cell.take();
        assert!(token.is_some(), "folio {} is released by a cell without a token", folio.pfn());
        token.into_iter().for_each(|token| self.release(token, folio));
    }

    /// Waits for the end of the move that [`TokenError::Moving`] reported for `pfn`. The caller holds no lock.
    pub fn wait_for_move(&self, pfn: Pfn) {
        self.physical().frames().wait_unlocked(pfn);
    }

    /// Ends the ownership of a folio; the last reference frees it. Remove its mappings first
    /// ([`crate::rmap::ReverseMap::unmap`]), or they keep it.
    ///
    /// Panics if `folio` isn't that of `token`, or isn't owned by this registration.
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
    /// Ends the ownership: clears owner and key, and drops the owner's reference. The caller is the owner.
    pub(crate) fn give_up(&self) {
        let (physical, pfn) = (self.physical(), self.pfn());
        let frame = physical.frame(pfn);
        frame.set_owner(0, Key::default());
        // Others than the owner and we hold references: the folio has no owner now, so it can't move.
        if frame.refs() > 2 {
            frame.mark(Marks::TRUNCATED);
            physical.update_class(pfn);
        }
        physical.put(pfn);
    }
}
