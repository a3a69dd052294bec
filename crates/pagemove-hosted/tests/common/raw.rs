//! Frames by number, and handles made of numbers: for tests that look at a frame whoever has it, and that do what no correct
//! caller can.
#![allow(unsafe_code, reason = "only a test does this")]

use std::{mem::ManuallyDrop, sync::Arc};

use pagemove::{
    folio::{FolioRef, FrozenFolio, LockedFolio},
    paging::{Flags, Format},
    rmap::{device_mapped, device_unmapped},
    sync::{AtomicU64, Ordering},
    units::{Pfn, VirtAddr},
    zone::Physical,
};
use pagemove_hosted::TableFormat;

/// Views the contents of a frame, in use or not.
pub fn words(physical: &Physical, pfn: Pfn) -> &[AtomicU64; 512] {
    // SAFETY: bound to the memory, which keeps the machine. Nobody has a frame as anything but atomics, so that a look at one that was
    // freed is no data race.
    unsafe { physical.ram().words(pfn) }
}

/// Walks to the lowest-level table of `address`, whoever has the locks.
pub fn leaf_table(physical: &Physical, root: Pfn, address: VirtAddr) -> Option<Pfn> {
    (1..TableFormat::LEVELS).rev().try_fold(root, |table, level| {
        let word = words(physical, table)[(address.vpn() >> (9 * level)) as usize % 512].load(Ordering::Acquire);
        let present = (word & 1 == 1).then(|| TableFormat::decode(word, level))?;
        (!present.has(Flags::HUGE)).then(|| present.pfn())
    })
}

/// Makes the handle of a folio that the caller has given up by `into_raw`. Of any other one it's a forgery, for tests that see the
/// engine refuse it.
pub fn frozen(physical: &Arc<Physical>, pfn: Pfn) -> FrozenFolio<'_> {
    // SAFETY: a folio that was given up has no other handle. A forgery is dropped at once: that panics before anything is freed.
    unsafe { FrozenFolio::from_raw(physical, pfn) }
}

/// Makes the handle of a reference that the caller has given up by `into_raw`.
pub fn counted(physical: &Arc<Physical>, pfn: Pfn) -> FolioRef<'_> {
    // SAFETY: the caller's, as said.
    unsafe { FolioRef::from_raw(physical, pfn) }
}

/// Makes the handle of a reference and lock that the caller has given up by `into_raw`.
pub fn locked(physical: &Arc<Physical>, pfn: Pfn) -> LockedFolio<'_> {
    // SAFETY: the caller's, as said.
    unsafe { LockedFolio::from_raw(physical, pfn) }
}

/// Counts a mapping of a page whose lock somebody else has; [`unmap`] uncounts it.
pub fn map_without_lock(physical: &Arc<Physical>, pfn: Pfn) {
    // SAFETY: not as its contract says, as the holder of the lock is a move. This handle is never dropped, and so gives nothing back.
    let folio = ManuallyDrop::new(unsafe { LockedFolio::from_raw(physical, pfn) });
    device_mapped(&folio, 0).unwrap();
}

/// Uncounts a mapping of [`map_without_lock`].
pub fn unmap(physical: &Physical, pfn: Pfn) {
    // SAFETY: counted there; no device has an entry of it.
    unsafe { device_unmapped(physical, pfn) };
}
