//! Reverse maps: who maps a frame. The second of the two questions about a frame, answered apart from who owns it.
//!
//! A move asks a frame's [`ReverseMap`] to block all its mappings, and afterwards to rebind them. Processes' mappings of
//! files and of anonymous memory are [`RangeMap`]s; a device with page tables of its own (IOMMU, GPU) brings another one.
#![allow(unsafe_code, reason = "a wrong reverse map lets a device write to freed frames, so it's unsafe to write one")]

mod ranges;
mod registry;

pub(crate) use ranges::entry_removed;
pub use ranges::{Mapping, RangeMap};
pub use registry::{Registered, Registry};

use crate::{
    folio::{LockedFolio, Migration},
    frame::TooManyMappings,
    paging::FlushDebt,
    units::Pfn,
    zone::Physical,
};

/// Answers who maps the pages of one object, and points the mappings elsewhere.
///
/// The calls get pages whose keys name this map, and whose frames are locked. Who made the key may have been wrong, so an entry is changed
/// only if it leads to the page's frame. The calls keep each frame's counts: an entry
/// taken out gives its map count and its reference back, an entry put in takes them
/// (with [`mapping_removed`] and [`mapping_rebound`]). Outside of a move a device counts its entries with
/// [`device_mapped`] and [`device_unmapped`].
///
/// # Safety
/// An implementation does what each call says. Nobody that it answers for uses a frame through a mapping that isn't counted, nor
/// after the flush of one that was blocked or removed: else a device reads or writes memory that belongs to others by then.
pub unsafe trait ReverseMap: Send + Sync {
    /// Blocks every mapping of the pages that don't stay: an access through one waits, or faults and waits, until
    /// [`Self::rebind`]. What was dirty is marked so on the frame. Owes the flushes to `debt`.
    ///
    /// Calls [`Migration::set_blocked`] on those that `rebind` is to be called for: some or all of their mappings may be blocked. Calls
    /// [`Migration::stay`] on those that can't be blocked, wholly or partly. With `wait` false it never waits for a lock that a sleeper can hold.
    fn block(&self, physical: &Physical, pages: &mut [Migration], wait: bool, debt: &mut FlushDebt<'_>);

    /// Points every blocked mapping of the pages to [`Migration::target`], with all rights and marks that it had.
    /// Mappings that were removed meanwhile stay so. Can't fail.
    fn rebind(&self, physical: &Physical, pages: &[Migration]);

    /// Removes every mapping of `folio`, which is the page at `index` and is being taken out of its object (truncation): nobody that
    /// the map answers for uses it once `debt` is paid, which is of the same memory. Its lock says that no move is under way. May wait
    /// for the map's own locks, whose holders wait for no folio: the caller may hold the locks of other pages of the object, too.
    fn unmap(&self, index: u32, folio: &LockedFolio<'_>, debt: &mut FlushDebt<'_>);
}

/// Counts a mapping of `pfn` that was just blocked or removed, whose reference goes with it.
///
/// # Safety
/// Called by [`ReverseMap::block`] only, once for each mapping that it blocked. The move holds a reference itself.
pub unsafe fn mapping_removed(physical: &Physical, pfn: Pfn) {
    physical.frame(pfn).unmap_with_reference();
}

/// Counts a mapping of `pfn` that is about to be put in place again, before it is.
///
/// # Safety
/// Called by [`ReverseMap::rebind`] only, once for each mapping, with the page's [`Migration::target`].
pub unsafe fn mapping_rebound(physical: &Physical, pfn: Pfn) {
    physical.frame(pfn).map_again();
}

/// Counts a mapping of `folio` that a device is about to put in its own table. The lock keeps a move from missing it.
pub fn device_mapped(folio: &LockedFolio<'_>) -> Result<(), TooManyMappings> {
    let (physical, pfn) = (folio.physical(), folio.pfn());
    physical.frame(pfn).map()?;
    physical.update_class(pfn);
    Ok(())
}

/// Counts a mapping of `pfn` that a device has just taken out of its own table, and uses no longer. If nobody else has
/// the page, frees it.
///
/// # Safety
/// The mapping was counted by [`device_mapped`] or [`mapping_rebound`], and is uncounted once.
pub unsafe fn device_unmapped(physical: &Physical, pfn: Pfn) {
    physical.frame(pfn).unmap();
    physical.update_class(pfn);
    physical.put(pfn);
}
