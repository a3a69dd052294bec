//! The token that an owner keeps for a folio, and a cell for it that is read without a lock.

use crate::{
    sync::{AtomicU64, Ordering},
    units::Pfn,
    zone::Physical,
};

/// An owner's token for one of its folios. It represents the owner's reference, and changes when the folio moves
/// ([`super::MovingFolio::exchange`]).
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a folio whose token is lost is never freed"]
pub struct FolioToken(u64);

/// First bit of the frame number; below it is the memory's number.
const PFN: u32 = u64::BITS - Pfn::LIMIT.trailing_zeros();

impl FolioToken {
    pub(crate) fn new(physical: &Physical, pfn: Pfn) -> Self {
        Self(pfn.get() << PFN | u64::from(physical.id()))
    }

    /// Gives the head frame.
    pub fn pfn(&self) -> Pfn {
        Pfn::new(self.0 >> PFN)
    }

    /// Tells whether it is the token of the folio at `pfn` of `physical`.
    pub(crate) fn names(&self, physical: &Physical, pfn: Pfn) -> bool {
        *self == Self::new(physical, pfn)
    }
}

/// No token: no memory has the number 0.
const EMPTY: u64 = 0;

/// A place for a token in an owner's table. Look-ups read it without a lock, while moves exchange it: an owner whose table is made of
/// cells needs no lock for its moves.
#[derive(Debug, Default)]
pub struct TokenCell(AtomicU64);

impl TokenCell {
    /// Makes an empty cell.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a token in. Panics if there is one: it would be lost.
    pub fn put(&self, token: FolioToken) {
        // Release pairs with `load`: whoever finds the token finds its folio published, or locked by a move.
        let put = self.0.compare_exchange(EMPTY, token.0, Ordering::Release, Ordering::Relaxed);
        assert_eq!(put, Ok(EMPTY), "a token was put into a cell that has one");
    }

    /// Takes the token out. To release it, lock its folio before: then no move exchanges it meanwhile.
    pub fn take(&self) -> Option<FolioToken> {
        // Relaxed: the folio's lock orders this and moves.
        let token = self.0.swap(EMPTY, Ordering::Relaxed);
        (token != EMPTY).then_some(FolioToken(token))
    }

    /// Gives the head frame of its folio at this moment.
    pub fn pfn(&self) -> Option<Pfn> {
        self.load().map(|token| token.pfn())
    }

    /// Reads it, for a look-up that takes a reference next and then reads again.
    pub(super) fn load(&self) -> Option<FolioToken> {
        // Acquire pairs with the Release of `put` and `exchange`: else a look-up might find neither reference nor lock, and try for ever.
        let token = self.0.load(Ordering::Acquire);
        (token != EMPTY).then_some(FolioToken(token))
    }

    /// Changes the token of `src` to that of `dst`; false if another one is there.
    pub(super) fn exchange(&self, src: &FolioToken, dst: &FolioToken) -> bool {
        // Release as in `put`.
        self.0.compare_exchange(src.0, dst.0, Ordering::Release, Ordering::Relaxed).is_ok()
    }
}
