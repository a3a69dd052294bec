//! The token that an owner keeps for a folio. Plain data.

use crate::{units::Pfn, zone::Physical};

/// An owner's token for one of its folios. It represents the owner's reference, and changes when the folio moves
/// ([`super::MovingFolio::exchange`]).
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a folio whose token is lost is never freed"]
pub struct FolioToken {
    pfn: Pfn,
    memory: u32,
}

impl FolioToken {
    pub(crate) fn new(physical: &Physical, pfn: Pfn) -> Self {
        Self { pfn, memory: physical.id() }
    }

    /// Gives the head frame.
    pub fn pfn(&self) -> Pfn {
        self.pfn
    }

    /// Tells whether it is the token of the folio at `pfn` of `physical`.
    pub(crate) fn names(&self, physical: &Physical, pfn: Pfn) -> bool {
        self.pfn == pfn && self.memory == physical.id()
    }
}
