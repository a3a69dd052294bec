//! The CPUs' lists: entering this CPU's, refilling it, and draining all.

use alloc::vec::Vec;

use super::{
    Physical,
    pageblock::{ClassRun, Migratetype},
    percpu::{CpuGuard, CpuLists, listed_class, revoke_all},
    physical::Zone,
};
use crate::{
    frame::{Class, Kind, State},
    port::might_wait,
    sync::Held,
    units::{Order, Pfn},
};

impl Physical {
    /// Calls `f` with this CPU's lists of `zone`; with `None` if they are being drained, or the interrupted code has
    /// entered them.
    #[inline(always)]
    pub(super) fn with_own_lists<R>(&self, zone: &Zone, f: impl FnOnce(Option<&mut CpuLists>) -> R) -> R {
        let cpu = zone.cpus.get((self.cpu_claim.claim)());
        #[allow(unsafe_code)]
        // SAFETY: claimed until `release`, by when `lists` is dropped.
        let mut lists: Option<CpuGuard<'_>> = cpu.and_then(|cpu| unsafe { cpu.enter() });
        let result = f(lists.as_deref_mut());
        drop(lists);
        if let Some(release) = self.cpu_claim.release {
            release();
        }
        result
    }

    /// Takes frames from the buddy lists until `list` has `most`, or none are left; they are counted under the list's
    /// class.
    pub(super) fn refill(&self, zone: &Zone, migratetype: Migratetype, list: &mut Vec<Pfn>, most: usize) {
        let class = listed_class(migratetype);
        let mut run = ClassRun::default();
        let mut buddy = zone.buddy.lock();
        while list.len() < most
            && let Some(pfn) = buddy.take(self.tables(), Order::ZERO, migratetype, None)
        {
            self.frames[pfn].set_state(State::new(Kind::PerCpu, class, Order::ZERO));
            run.add(&self.blocks, pfn, Class::Free, class);
            list.push(pfn);
        }
        run.finish(&self.blocks);
    }

    /// Returns all frames on the CPUs' lists to the buddy lists; then the summaries are exact. Interrupts every CPU
    /// once, for any number of zones. Doesn't allocate, since a kernel's heap may be built on the engine.
    pub fn drain_cpu_lists(&self) {
        self.drain_zones(&self.zones);
    }

    pub(super) fn drain_zones(&self, zones: &[Zone]) {
        might_wait(self.machine());
        let mut run = ClassRun::default();
        // As with a lock: a thread that was preempted with lists revoked would make others spin, with preemption disabled.
        let _held = Held::new();
        let cpus = || zones.iter().flat_map(|zone| zone.cpus.iter().map(move |cpu| (zone, cpu)));
        let revoked = revoke_all(|| cpus().map(|(_, cpu)| cpu), self.machine());
        for ((zone, _), mut lists) in cpus().zip(revoked) {
            if !lists.is_empty() {
                let mut buddy = zone.buddy.lock();
                lists.drain(|pfn| self.give_base(&mut buddy, pfn, &mut run));
            }
        }
        run.finish(&self.blocks);
    }
}
