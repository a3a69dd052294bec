//! Mappings of frames that aren't the engine's memory (Linux: `remap_pfn_range`).
//!
//! Such frames have no references, no reverse map, and don't move. Faults fill in their entries one by one; unmapping and fork don't
//! count them.

use super::{Access, AddressSpace, DeviceFrames, FaultError, Protection, SpaceError, Vma, fault::Step, find};
use crate::{
    frame::Kind,
    paging::{Entry, Flags, Format, Slot},
    units::{Pfn, VirtAddr},
};

impl<F: Format> AddressSpace<F> {
    /// Checks that `pages` frames from number `first` on can be mapped: they are there, entries can name them, and none is the engine's.
    pub(super) fn check_device(
        &self,
        device: DeviceFrames,
        first: u32,
        pages: u32,
        stage: &'static str,
    ) -> Result<(), SpaceError> {
        let end = first.checked_add(pages).filter(|&end| end <= device.range().frames);
        let end = device.range().start.up(end.ok_or(SpaceError::TooFar { stage })?);
        if end.get() > F::FRAMES {
            return Err(SpaceError::FrameTooHigh { stage, format: F::NAME, end, limit: F::FRAMES });
        }
        let physical = self.physical();
        // Only zones are looked through: a device may have more frames than memory has.
        let in_zones = physical.zones().flat_map(|zone| {
            let (from, to) = (zone.start.max(device.range().start.up(first)), zone.end().min(end));
            (from.get()..to.get()).map(Pfn::new)
        });
        let is_reserved = |pfn: &Pfn| physical.frame(*pfn).state().kind() == Kind::Reserved;
        match in_zones.into_iter().find(|pfn| !is_reserved(pfn)) {
            Some(pfn) => Err(SpaceError::Managed { stage, pfn }),
            None => Ok(()),
        }
    }

    /// Fills an empty entry.
    pub(super) fn fill_device(
        vma: &Vma,
        device: DeviceFrames,
        address: VirtAddr,
        slot: &Slot<'_, F>,
        access: Access,
    ) -> Step {
        let mut flags = vma.read_flags() | device.caching().flags() | Self::marks(access);
        // Nobody collects its marks, so the first store needs no fault.
        flags.set(Flags::WRITE | Flags::SOFT_DIRTY, vma.protection.contains(Protection::WRITE));
        let number = vma.index_of(address);
        assert!(number < device.range().frames, "a mapping has more frames than its device");
        let entry = Entry::present(device.range().start.up(number), flags);
        if slot.swap_if(Entry::NONE, entry).is_ok() { Step::Done } else { Step::Again }
    }

    /// As [`AddressSpace::fault`], for the kernel's own access to a process's memory; what isn't memory is refused.
    pub(super) fn fault_memory(&self, address: VirtAddr, access: Access, unshare: bool) -> Result<(), FaultError> {
        if find(&self.vmas.read(), address).is_some_and(|vma| vma.device.is_some()) {
            return Err(FaultError::NotMemory(address));
        }
        self.fault_for(address, access, unshare)
    }
}
