//! What a kernel supplies. All are plain functions without a receiver, since the engine keeps some of them as such.

use pagemove::{
    sync::AtomicU32,
    units::{Pfn, VirtAddr},
};

use crate::cpus::CpuSet;

/// The kernel's part.
///
/// # Safety
/// While preemption is disabled, or interrupts are masked, the caller stays on the CPU whose number [`Self::cpu`] gives, and no
/// other thread runs on it. Both nest.
#[allow(unsafe_code, reason = "a CPU's number is relied on for exclusive access")]
pub unsafe trait Platform: Send + Sync + 'static {
    /// Gives the number of the caller's CPU, from 0 on. Called while preemption is disabled or interrupts are masked.
    fn cpu() -> usize;

    /// Keeps the calling thread on its CPU, until [`Self::enable_preemption`] was called as often. Interrupt handlers still run.
    fn disable_preemption();

    /// Ends one [`Self::disable_preemption`]; the last one may switch to another thread, unless interrupts are masked.
    fn enable_preemption();

    /// Interrupts these CPUs, each of which then calls [`X86Machine::answer`](crate::X86Machine::answer). Doesn't wait for them. The caller's
    /// CPU is never among them.
    fn send_ipi(cpus: &CpuSet);

    /// As [`pagemove::port::Machine::wait`]. With debug assertions a kernel panics if preemption is disabled: then the caller has a lock.
    fn wait(word: &AtomicU32, value: u32);

    /// As [`pagemove::port::Machine::wake`].
    fn wake(word: &AtomicU32);

    /// As [`pagemove::port::Machine::now_ns`].
    fn now_ns() -> u64;

    /// As [`pagemove::port::Machine::pause`].
    fn pause() {
        core::hint::spin_loop();
    }
}

/// The privileged instructions. A kernel takes [`Privileged`]; tests replace it.
///
/// # Safety
/// They do what their first lines say.
#[allow(unsafe_code, reason = "the engine relies on their effect on TLBs")]
pub unsafe trait Instructions: Send + Sync + 'static {
    /// Tells whether the CPUs have PCIDs, and they are switched on.
    fn has_pcids() -> bool;

    /// Loads a top-level table. Drops all translations of `pcid` but global ones, unless `keep`, which only CPUs with PCIDs are asked.
    ///
    /// # Safety
    /// The table maps what the kernel uses, and stays until another one is loaded.
    unsafe fn load_root(root: Pfn, pcid: u16, keep: bool);

    /// Drops all translations of the loaded root but global ones.
    fn flush_loaded();

    /// Drops the translation of one address, of any size, for the loaded root; and all cached upper levels.
    fn flush_page(address: VirtAddr);

    /// Tells whether interrupts are on.
    fn are_interrupts_on() -> bool;

    /// Masks interrupts; gives whether they were on.
    fn mask_interrupts() -> bool;

    /// Restores what [`Self::mask_interrupts`] gave.
    fn restore_interrupts(were_on: bool);
}

/// Does something with interrupts masked.
pub(crate) fn masked<I: Instructions, T>(deed: impl FnOnce() -> T) -> T {
    let were_on = I::mask_interrupts();
    let result = deed();
    I::restore_interrupts(were_on);
    result
}

/// The CPU's own instructions.
pub struct Privileged;

#[allow(unsafe_code, reason = "control registers")]
mod privileged {
    use x86_64::{
        PhysAddr,
        instructions::{interrupts, tlb},
        registers::control::{Cr3, Cr4, Cr4Flags},
        structures::paging::PhysFrame,
    };

    use super::{Instructions, Pfn, Privileged, VirtAddr};

    // SAFETY: each is the instruction that its documentation names.
    unsafe impl Instructions for Privileged {
        fn has_pcids() -> bool {
            Cr4::read().contains(Cr4Flags::PCID)
        }

        unsafe fn load_root(root: Pfn, pcid: u16, keep: bool) {
            let frame = PhysFrame::containing_address(PhysAddr::new(root.address().get()));
            // SAFETY: the caller's contract.
            unsafe {
                match tlb::Pcid::new(pcid) {
                    Ok(pcid) if keep => Cr3::write_pcid_no_flush(frame, pcid),
                    _ => Cr3::write_raw(frame, pcid),
                }
            }
        }

        fn flush_loaded() {
            // With the PCID, which the crate's own function would lose.
            let (frame, low_bits) = Cr3::read_raw();
            // SAFETY: the root that is loaded.
            unsafe { Cr3::write_raw(frame, low_bits) };
        }

        fn flush_page(address: VirtAddr) {
            tlb::flush(x86_64::VirtAddr::new_truncate(address.get()));
        }

        fn are_interrupts_on() -> bool {
            interrupts::are_enabled()
        }

        fn mask_interrupts() -> bool {
            let were_on = interrupts::are_enabled();
            interrupts::disable();
            were_on
        }

        fn restore_interrupts(were_on: bool) {
            if were_on {
                interrupts::enable();
            }
        }
    }
}
