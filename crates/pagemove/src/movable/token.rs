//! The token that an owner keeps for a folio. Plain data.

use crate::{units::Pfn, zone::Physical};

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
