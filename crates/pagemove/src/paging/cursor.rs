//! A cursor: walks to entries of nearby addresses, descending from the root only where the lowest-level table changes.

use super::{Format, PageTable, Slot, X86_64, place::index, table::Reached};
use crate::{sync::AtomicU64, units::VirtAddr, zone::AllocError};

/// Keeps the last lowest-level table. Used only as long as the caller's lock keeps tables from being moved and removed; a 2 MiB
/// entry may become a table meanwhile, but not the other way round.
pub(crate) struct Cursor<'a, F: Format = X86_64> {
    tree: &'a PageTable<F>,
    /// First address that the kept table serves.
    start: VirtAddr,
    words: Option<&'a [AtomicU64; 512]>,
}

impl<'a, F: Format> Cursor<'a, F> {
    pub(crate) fn new(tree: &'a PageTable<F>) -> Self {
        Self { tree, start: VirtAddr::ZERO, words: None }
    }

    /// As [`PageTable::slot`].
    #[inline]
    pub(crate) fn slot(&mut self, address: VirtAddr) -> Option<Slot<'a, F>> {
        if let Some(slot) = self.kept(address) {
            return Some(slot);
        }
        match self.tree.walk(address)? {
            Reached::Huge(slot) => Some(slot),
            Reached::Table(table) => {
                (self.start, self.words) = (address.align_down_huge(), Some(self.tree.physical().ram_words(table)));
                self.kept(address)
            }
        }
    }

    /// As [`PageTable::slot_or_create`].
    pub(crate) fn slot_or_create(&mut self, address: VirtAddr) -> Result<Slot<'a, F>, AllocError> {
        match self.slot(address) {
            Some(slot) => Ok(slot),
            None => self.tree.slot_or_create(address),
        }
    }

    #[inline]
    fn kept(&self, address: VirtAddr) -> Option<Slot<'a, F>> {
        let words = self.words.filter(|_| address.align_down_huge() == self.start)?;
        Some(Slot::new(&words[index(address, 0)], 0))
    }
}
