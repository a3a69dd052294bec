//! Which address space each CPU has loaded, and which it may have translations of.
//!
//! # Protocol
//! A CPU keeps translations of a space that it doesn't run, if it has PCIDs. So a flush has three kinds of CPUs: those that run the
//! space get an interrupt; those that have it loaded while they run a kernel thread (lazily) are told to flush before they return to
//! it, unless tables are removed, which a CPU reads without being asked to; the others too, before they load it again.
//!
//! Two words decide, `loaded` and the slot of the space's PCID. A CPU first says in `loaded` what it will run, then reads the
//! slot; a flush first marks the slot, then reads `loaded`. So one of them sees the other. Until the new root is loaded, the CPU still
//! uses the old one's tables, which `leaving` names: a flush of tables, or the end of a root, reads it after `loaded`. All are
//! sequentially consistent.
//!
//! A space has the same PCID on all CPUs: its number modulo [`SLOTS`]. Two spaces may share one; then loading one drops what the CPU
//! has of the other. Linux instead searches six PCIDs of each CPU; here a flush reads one word of each CPU.

use pagemove::{
    port::{Space, SpaceId},
    sync::{AtomicU64, Ordering::SeqCst},
};

/// The number of PCIDs in use, besides 0 for the kernel's own root.
pub const SLOTS: usize = 64;

const LAZY: u64 = 1;
const STALE: u64 = 1;

/// What one CPU has loaded, and its PCIDs.
pub struct CpuTlb {
    /// While the CPU loads another root: what it had loaded before, as in `loaded`. Its tables are in use until the load is done.
    leaving: AtomicU64,
    /// The space's number times 2, and [`LAZY`]; 0 for the kernel's own root.
    loaded: AtomicU64,
    /// For each PCID the number times 2 of the space that it was last loaded for, and [`STALE`]; 0 for none.
    slots: [AtomicU64; SLOTS],
}

/// What a CPU must do to run a space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// Nothing: it's loaded, and nothing was flushed.
    Loaded,
    /// Load the root; with `keep` without a flush.
    Root {
        /// The PCID.
        pcid: u16,
        /// No translation is out of date.
        keep: bool,
    },
}

/// Gives the PCID of a space.
pub fn pcid(space: SpaceId) -> u16 {
    (space.0 % SLOTS as u64) as u16 + 1
}

impl Default for CpuTlb {
    fn default() -> Self {
        Self { leaving: AtomicU64::new(0), loaded: AtomicU64::new(0), slots: [const { AtomicU64::new(0) }; SLOTS] }
    }
}

impl CpuTlb {
    fn slot(&self, space: SpaceId) -> &AtomicU64 {
        &self.slots[usize::from(pcid(space)) - 1]
    }

    /// The CPU begins to run `space`. It must do what this says at once, with interrupts masked; it reads the space's root after
    /// this call. Once it's loaded, it calls [`Self::has_switched`].
    pub fn enter(&self, space: SpaceId) -> Load {
        let word = space.0 << 1;
        // Only this CPU changes it. Before `loaded`, so that one of the two names the old root until the new one is loaded.
        self.leaving.store(self.loaded.load(SeqCst), SeqCst);
        let before = self.loaded.swap(word, SeqCst);
        let slot = self.slot(space).swap(word, SeqCst);
        let keep = slot == word;
        if keep && before & !LAZY == word { Load::Loaded } else { Load::Root { pcid: pcid(space), keep } }
    }

    /// The CPU runs kernel threads from now on, and keeps what it has loaded.
    pub fn go_lazy(&self) {
        if self.loaded.load(SeqCst) != 0 {
            self.loaded.fetch_or(LAZY, SeqCst);
        }
    }

    /// The CPU will load the kernel's own root, and then call [`Self::has_switched`].
    pub fn leave(&self) {
        self.leaving.store(self.loaded.load(SeqCst), SeqCst);
        self.loaded.store(0, SeqCst);
    }

    /// The CPU has loaded what it has said.
    pub fn has_switched(&self) {
        self.leaving.store(0, SeqCst);
    }

    /// Tells whether the CPU has `space` loaded, lazily or not.
    pub fn has_loaded(&self, space: SpaceId) -> bool {
        self.loaded.load(SeqCst) >> 1 == space.0
    }

    /// Tells whether the CPU has something loaded, but runs kernel threads.
    pub fn is_lazy(&self) -> bool {
        self.loaded.load(SeqCst) & LAZY != 0
    }

    /// Called by a flush, after entries of `space` have changed. Tells whether the CPU must be interrupted; if not, it flushes before it
    /// runs the space again. With `also_lazy` (its tables change, or its root goes) CPUs that have it loaded lazily must be, too, and those
    /// that are about to load another one.
    pub fn must_interrupt(&self, space: Space, also_lazy: bool) -> bool {
        let must = || {
            let loaded = self.loaded.load(SeqCst);
            loaded >> 1 == space.id.0 && (also_lazy || loaded & LAZY == 0)
                || also_lazy && self.leaving.load(SeqCst) >> 1 == space.id.0
        };
        if must() {
            return true;
        }
        self.mark_stale(space.id);
        must()
    }

    /// Has the CPU flush before it runs `space` again.
    pub fn mark_stale(&self, space: SpaceId) {
        let word = space.0 << 1;
        // If it fails, the PCID is another space's, and is flushed for that; or it's marked.
        let _ = self.slot(space).compare_exchange(word, word | STALE, SeqCst, SeqCst);
    }

    /// As [`Self::mark_stale`], unless the CPU has it loaded.
    pub fn mark_stale_unless_loaded(&self, space: SpaceId) {
        if !self.has_loaded(space) {
            self.mark_stale(space);
        }
    }

    /// Marks all PCIDs.
    pub fn mark_all_stale(&self) {
        for slot in &self.slots {
            if slot.load(SeqCst) != 0 {
                slot.fetch_or(STALE, SeqCst);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use pagemove::units::Pfn;

    use super::*;

    fn space(id: u64) -> Space {
        Space { id: SpaceId(id), root: Pfn::new(id), word: 0 }
    }

    fn root(id: u64, keep: bool) -> Load {
        Load::Root { pcid: pcid(SpaceId(id)), keep }
    }

    #[test]
    fn translations_are_kept_until_a_flush() {
        let cpu = CpuTlb::default();
        assert_eq!(cpu.enter(SpaceId(1)), root(1, false));
        assert_eq!(cpu.enter(SpaceId(2)), root(2, false));
        assert_eq!(cpu.enter(SpaceId(1)), root(1, true));
        cpu.has_switched();
        assert!(!cpu.must_interrupt(space(2), true), "it runs space 1");
        assert_eq!(cpu.enter(SpaceId(2)), root(2, false));
        assert_eq!(cpu.enter(SpaceId(2)), Load::Loaded);
        assert!(cpu.must_interrupt(space(2), false));
    }

    #[test]
    fn a_pcid_that_another_space_took_is_flushed() {
        let cpu = CpuTlb::default();
        let other = 1 + SLOTS as u64;
        assert_eq!(pcid(SpaceId(1)), pcid(SpaceId(other)));
        assert_eq!(cpu.enter(SpaceId(1)), root(1, false));
        assert_eq!(cpu.enter(SpaceId(other)), root(other, false));
        cpu.has_switched();
        assert!(!cpu.must_interrupt(space(1), true));
        assert_eq!(cpu.enter(SpaceId(other)), Load::Loaded, "the mark is for space 1");
        assert_eq!(cpu.enter(SpaceId(1)), root(1, false));
    }

    #[test]
    fn a_lazy_cpu_is_interrupted_for_tables_only() {
        let cpu = CpuTlb::default();
        cpu.go_lazy();
        assert!(!cpu.is_lazy(), "the kernel's own root");
        cpu.enter(SpaceId(1));
        cpu.go_lazy();
        assert!(cpu.is_lazy() && cpu.has_loaded(SpaceId(1)));
        assert_eq!(cpu.enter(SpaceId(1)), Load::Loaded, "nothing was flushed");
        cpu.go_lazy();
        assert!(cpu.must_interrupt(space(1), true));
        assert!(!cpu.must_interrupt(space(1), false));
        assert_eq!(cpu.enter(SpaceId(1)), root(1, false));
        cpu.leave();
        cpu.has_switched();
        assert!(!cpu.has_loaded(SpaceId(1)));
        assert!(!cpu.must_interrupt(space(1), true));
        assert_eq!(cpu.enter(SpaceId(1)), root(1, false));
    }

    /// Until the other root is loaded, a table of the old one may be walked.
    #[test]
    fn a_cpu_that_switches_is_asked_about_both() {
        let cpu = CpuTlb::default();
        cpu.enter(SpaceId(1));
        cpu.has_switched();
        cpu.enter(SpaceId(2));
        assert!(cpu.must_interrupt(space(1), true) && cpu.must_interrupt(space(2), true));
        assert!(!cpu.must_interrupt(space(1), false), "its translations are not used any more");
        cpu.has_switched();
        assert!(!cpu.must_interrupt(space(1), true) && cpu.must_interrupt(space(2), true));
        cpu.leave();
        assert!(cpu.must_interrupt(space(2), true));
        cpu.has_switched();
        assert!(!cpu.must_interrupt(space(2), true));
    }

    #[test]
    fn all_are_marked() {
        let cpu = CpuTlb::default();
        cpu.enter(SpaceId(1));
        cpu.enter(SpaceId(2));
        cpu.leave();
        cpu.mark_all_stale();
        assert_eq!(cpu.enter(SpaceId(1)), root(1, false));
        assert_eq!(cpu.enter(SpaceId(2)), root(2, false));
    }
}
