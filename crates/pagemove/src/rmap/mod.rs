//! Reverse maps: who maps a frame. The second of the two questions about a frame, answered apart from who owns it.
//!
//! A move asks a frame's [`ReverseMap`] to block all its mappings, and afterwards to rebind them. Processes' mappings of
//! files and of anonymous memory are [`RangeMap`]s; a device with page tables of its own (IOMMU, GPU) brings another one.

mod ranges;
mod registry;

pub(crate) use ranges::entry_removed;
pub use ranges::{Mapping, RangeMap};
pub use registry::Registry;

use crate::{
    frame::{Key, TooManyMappings},
    paging::FlushDebt,
    report::Reason,
    units::{Order, Pfn},
    zone::Physical,
};

/// A page on its way from one frame to another.
#[derive(Debug, Clone, Copy)]
pub struct MovingPage {
    /// Where it is; locked by the move.
    pub from: Pfn,
    /// Where it's to be; locked by the move.
    pub to: Pfn,
    /// Where its mappings are found.
    pub key: Key,
    /// Its size.
    pub order: Order,
    /// Why it stays, once that is known.
    pub stay: Option<Reason>,
    /// Its map has looked for mappings to block; else there is nothing to rebind.
    pub blocked: bool,
}

impl MovingPage {
    /// Gives the frame that the blocked mappings are to point to: the destination, or the source if the page stays.
    pub fn target(&self) -> Pfn {
        if self.stay.is_some() { self.from } else { self.to }
    }
}

/// Answers who maps the pages of one object, and points the mappings elsewhere.
///
/// Both calls get pages of this map only, whose frames the move holds locked, and keep each frame's counts: an entry
/// taken out gives its map count and its reference back, an entry put in takes them
/// (with [`mapping_removed`] and [`mapping_rebound`]). Outside of a move a device counts its entries with
/// [`device_mapped`] and [`device_unmapped`].
pub trait ReverseMap: Send + Sync {
    /// Blocks every mapping of the pages that don't stay: an access through one waits, or faults and waits, until
    /// [`Self::rebind`]. What was dirty is marked so on the frame. Owes the flushes to `debt`.
    ///
    /// Sets `blocked` on pages that `rebind` is to be called for: some or all of their mappings may be blocked. Sets `stay`
    /// on pages that can't be blocked, wholly or partly. With `wait` false it never waits for a lock that a sleeper can hold.
    fn block(&self, physical: &Physical, pages: &mut [MovingPage], wait: bool, debt: &mut FlushDebt<'_>);

    /// Points every blocked mapping of the pages to [`MovingPage::target`], with all rights and marks that it had.
    /// Mappings that were removed meanwhile stay so. Can't fail.
    fn rebind(&self, physical: &Physical, pages: &[MovingPage]);

    /// Removes every mapping of the page at `index`, which is in frame `pfn` and is being taken out of its object (truncation):
    /// nobody that the map answers for uses the frame once `debt` is paid. The caller holds the frame's lock and a reference, so
    /// no move is under way. May wait for the map's own locks.
    fn unmap(&self, physical: &Physical, index: u32, pfn: Pfn, debt: &mut FlushDebt<'_>);
}

/// Counts a mapping of `pfn` that was just blocked or removed, whose reference goes with it. The frame is locked by a
/// move, which holds a reference itself.
pub fn mapping_removed(physical: &Physical, pfn: Pfn) {
    // The move's own reference is left.
    physical.frame(pfn).unmap_with_reference();
}

/// Counts a mapping of `pfn` that [`ReverseMap::rebind`] is about to put in place, before it is.
pub fn mapping_rebound(physical: &Physical, pfn: Pfn) {
    physical.frame(pfn).map_again();
}

/// Counts a mapping of `pfn` that a device is about to put in its own table; the caller has the page locked.
pub fn device_mapped(physical: &Physical, pfn: Pfn) -> Result<(), TooManyMappings> {
    physical.frame(pfn).map()?;
    physical.update_class(pfn);
    Ok(())
}

/// Counts a mapping of `pfn` that a device has just taken out of its own table, and uses no longer. If nobody else has
/// the page, frees it.
pub fn device_unmapped(physical: &Physical, pfn: Pfn) {
    physical.frame(pfn).unmap();
    physical.update_class(pfn);
    physical.put(pfn);
}
