//! Reverse maps: who maps a folio. The second of the two questions of DESIGN, independent of who owns it.
//!
//! A move asks a folio's [`ReverseMap`] to block all its mappings, and afterwards to rebind them. Processes' mappings
//! of files and of anonymous memory are in [`RangeMap`]s; a device with its own page tables (IOMMU, GPU) brings its
//! own.
#![allow(unsafe_code, reason = "a wrong reverse map lets a device write to freed frames, so it's unsafe to write one")]

mod entries;
mod error;
mod intervals;
mod ranges;
mod registry;
mod split;

pub(crate) use entries::entry_removed;
pub use error::SplitError;
pub(crate) use ranges::Mapping;
pub use ranges::RangeMap;
pub use registry::{Registered, Registry};
pub(crate) use split::{split_entry, split_folio};

use crate::{
    folio::{LockedFolio, Migration},
    frame::TooManyMappings,
    paging::FlushDebt,
    units::{Order, Pfn},
    zone::Physical,
};

/// Finds the mappings of one object's pages, and changes them.
///
/// The calls get locked folios whose keys name this map. A folio of order n has 2^n pages, from its key's index on, in
/// 2^n frames. A key may be wrong, so a call changes an entry only if it maps the page's frame. The calls keep the
/// counts: an entry taken out gives back its map count and its reference, an entry put in takes them
/// ([`mapping_removed`], [`mapping_rebound`]). Outside of a move a device counts its entries with [`device_mapped`] and
/// [`device_unmapped`].
///
/// # Safety
/// The calls do as documented. No user of the map's tables accesses a frame through an uncounted mapping, nor after the
/// flush of a blocked or removed one: otherwise a device would access memory that has been freed and reused.
pub unsafe trait ReverseMap: Send + Sync {
    /// Blocks every mapping of the pages that don't stay: an access through one waits, or faults and waits, until
    /// [`Self::rebind`]. Marks the frame dirty if an entry is. Adds the flushes to `debt`.
    ///
    /// Calls [`Migration::set_blocked`] on pages of which any mapping may be blocked, so that `rebind` is called for
    /// them. Calls [`Migration::stay`] on pages of which any mapping can't be blocked. Without `wait` it never waits
    /// for a lock that a sleeper can hold.
    fn block(&self, physical: &Physical, pages: &mut [Migration], wait: bool, debt: &mut FlushDebt<'_>);

    /// Points every blocked mapping of the pages to [`Migration::target`], with its former rights and marks. Mappings
    /// removed meanwhile stay removed. Can't fail.
    fn rebind(&self, physical: &Physical, pages: &[Migration]);

    /// Removes every mapping of `folio`, for a truncation: no user of the map's tables accesses it
    /// once `debt` is paid, which is of the same memory. The folio's lock excludes moves. May wait for the map's own
    /// locks. Their holders must not wait for a folio, since the caller may hold the locks of other pages of the
    /// object.
    fn unmap(&self, folio: &LockedFolio<'_>, debt: &mut FlushDebt<'_>);

    /// Replaces entries that map more than a page of `folio`, which is to be split, by entries for single pages. The
    /// folio is blocked afterwards, still whole but by these entries, and rebound as base folios; or, if the split fails after
    /// all, rebound or unmapped whole, through these entries. A device whose entry maps several pages has counted each of
    /// them, so nothing is counted here. A map that passes its calls on to the
    /// processes' passes this one on too; one that has only entries for single pages does nothing.
    fn split(&self, folio: &LockedFolio<'_>) -> Result<(), SplitError>;
}

/// Uncounts an entry for the page of frame `pfn` that was just blocked, and its reference.
///
/// # Safety
/// Called by [`ReverseMap::block`] only, once for each mapping that it blocked. The move holds a reference itself.
pub unsafe fn mapping_removed(physical: &Physical, pfn: Pfn) {
    physical.frames().unmap_with_reference(pfn, Order::ZERO);
}

/// Counts an entry for the page of frame `pfn`, and its reference, before it is rebound.
///
/// # Safety
/// Called by [`ReverseMap::rebind`] only, once for each mapping, with a frame of the folio's [`Migration::target`].
pub unsafe fn mapping_rebound(physical: &Physical, pfn: Pfn) {
    physical.frames().map_again(pfn, Order::ZERO);
}

/// Counts a mapping of the folio's frame `number`, one of each that the device's entry maps, before a device puts it in its own table. Because of the lock no move
/// can miss it. Panics if there is no such frame.
pub fn device_mapped(folio: &LockedFolio<'_>, number: u32) -> Result<(), TooManyMappings> {
    let physical = folio.physical();
    assert!(number < folio.order().frames(), "folio {} has no frame {number}", folio.pfn());
    let pfn = folio.pfn().up(number);
    physical.frames().map(pfn, Order::ZERO)?;
    physical.update_class(pfn);
    Ok(())
}

/// Uncounts a mapping of `pfn` after a device has taken it out of its own table and stopped using it. Frees the folio
/// with the last reference.
///
/// # Safety
/// The mapping was counted by [`device_mapped`] or [`mapping_rebound`], and is uncounted once.
pub unsafe fn device_unmapped(physical: &Physical, pfn: Pfn) {
    physical.frames().unmap(pfn, Order::ZERO);
    physical.update_class(pfn);
    physical.put(physical.frames().head_of(pfn));
}
