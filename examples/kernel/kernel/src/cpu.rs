//! A processor's own state, by the register GS; its descriptor tables.

use alloc::boxed::Box;
use core::{arch::asm, mem::offset_of};

use spin::Once;
use x86_64::{
    PhysAddr, VirtAddr,
    instructions::{
        segmentation::{CS, DS, ES, SS, Segment},
        tables::{lidt, load_tss},
    },
    registers::{
        control::{Cr3, Cr3Flags},
        model_specific::{Efer, EferFlags, GsBase, KernelGsBase, LStar, SFMask, Star},
        rflags::RFlags,
    },
    structures::{
        DescriptorTablePointer,
        gdt::{Descriptor, GlobalDescriptorTable, SegmentSelector},
        paging::PhysFrame,
        tss::TaskStateSegment,
    },
};

/// The most processors.
pub(crate) const MAX_CPUS: usize = 64;

/// A processor's state. `entry.s` knows the places of the first three.
#[repr(C)]
pub(crate) struct PerCpu {
    own: *const PerCpu,
    /// The end of the running thread's kernel stack.
    kernel_stack: u64,
    scratch: u64,
    number: usize,
    /// How often preemption is disabled.
    preemption: u32,
    /// Another thread is to run.
    wants_switch: u32,
    /// The running thread.
    thread: usize,
    tss: TaskStateSegment,
    /// Its segments; the code's and data's, and the TSS'.
    segments: GlobalDescriptorTable,
    selectors: [SegmentSelector; 3],
}

/// Makes a processor's state, on a processor that runs: one that starts must not allocate, since the heap grows from the engine, which
/// mustn't be called before [`crate::platform::cpu_started`].
pub(crate) fn make(number: usize) -> &'static mut PerCpu {
    let this = Box::leak(Box::new(PerCpu {
        own: core::ptr::null(),
        kernel_stack: 0,
        scratch: 0,
        number,
        // Until the first thread runs.
        preemption: 1,
        wants_switch: 0,
        thread: 0,
        tss: TaskStateSegment::new(),
        segments: GlobalDescriptorTable::new(),
        selectors: [SegmentSelector::NULL; 3],
    }));
    this.own = this;
    let stack = Box::leak(Box::new([0u64; 2048]));
    // For double faults and NMI, which may come when no stack can be used.
    this.tss.interrupt_stack_table[0] = VirtAddr::from_ptr(stack.as_ptr_range().end);
    let code = this.segments.append(Descriptor::kernel_code_segment());
    let data = this.segments.append(Descriptor::kernel_data_segment());
    this.segments.append(Descriptor::user_data_segment());
    this.segments.append(Descriptor::user_code_segment());
    // SAFETY: leaked.
    let tss = this.segments.append(unsafe { Descriptor::tss_segment_unchecked(&this.tss) });
    this.selectors = [code, data, tss];
    this
}

/// Sets up the caller's processor.
pub(crate) fn start(this: &'static mut PerCpu) {
    // GS first: the heap grows from the engine, which asks for the processor's number, and disables preemption.
    GsBase::write(VirtAddr::from_ptr(this));
    // The boot's root has the identity, which no process may see.
    let root = PhysAddr::new(crate::kernel_root().get() << 12);
    // SAFETY: it maps the same in the upper half, where this code and its stack are.
    unsafe { Cr3::write(PhysFrame::containing_address(root), Cr3Flags::empty()) };
    let [code, data, tss] = this.selectors;
    // SAFETY: tables that stay.
    unsafe {
        this.segments.load_unsafe();
        CS::set_reg(code);
        for set in [SS::set_reg, DS::set_reg, ES::set_reg] {
            set(data);
        }
        load_tss(tss);
        load_vectors();
        Efer::update(|flags| flags.insert(EferFlags::SYSTEM_CALL_EXTENSIONS | EferFlags::NO_EXECUTE_ENABLE));
    }
    KernelGsBase::write(VirtAddr::zero());
    unsafe extern "C" {
        fn system_call_entry();
    }
    LStar::write(VirtAddr::new(system_call_entry as *const () as u64));
    // SAFETY: the segments of the table above.
    unsafe { Star::write_raw(0x10, 8) };
    // Also the direction flag, the trap flag, and the nested task, with which IRETQ would fault.
    SFMask::write(
        RFlags::NESTED_TASK
            | RFlags::INTERRUPT_FLAG
            | RFlags::DIRECTION_FLAG
            | RFlags::TRAP_FLAG
            | RFlags::ALIGNMENT_CHECK,
    );
}

/// Loads the table of vectors: interrupt gates to the stubs of `entry.s`.
///
/// # Safety
/// The code segment is number 1.
unsafe fn load_vectors() {
    unsafe extern "C" {
        static vectors: [[u8; 16]; 256];
    }
    // All processors have the same, made by the first one.
    static GATES: Once<[[u64; 2]; 256]> = Once::new();
    let gates = GATES.call_once(|| {
        core::array::from_fn(|vector| {
            // SAFETY: only the address.
            let at = unsafe { &raw const vectors[vector] } as u64;
            let stack = u64::from(vector == 2 || vector == 8);
            [at & 0xffff | 8 << 16 | stack << 32 | 0x8e << 40 | (at >> 16 & 0xffff) << 48, at >> 32]
        })
    });
    let pointer = DescriptorTablePointer { limit: 4095, base: VirtAddr::from_ptr(gates) };
    // SAFETY: a static, and all gates lead to stubs.
    unsafe { lidt(&pointer) };
}

macro_rules! read_own {
    ($field:ident, $size:literal) => {{
        let value: u64;
        // SAFETY: GS is this processor's state, since `start`.
        unsafe {
            asm!(concat!("mov {0", $size, "}, gs:[{1}]"), out(reg) value, const offset_of!(PerCpu, $field),
                options(nostack, preserves_flags, readonly));
        }
        value
    }};
}

/// Gives the processor's number. The caller stays on it.
pub(crate) fn number() -> usize {
    read_own!(number, ":r") as usize
}

/// As [`number`], also before the state is there.
pub(crate) fn number_or_zero() -> usize {
    if GsBase::read().is_null() { 0 } else { number() }
}

/// Gives the address of the running thread.
pub(crate) fn thread() -> usize {
    read_own!(thread, ":r") as usize
}

/// Sets the running thread, and the end of its kernel stack. Interrupts are masked.
pub(crate) fn set_thread(thread: usize, stack: u64) {
    let this = read_own!(own, ":r") as *mut PerCpu;
    // SAFETY: this processor's own state; interrupts are masked, so nobody else uses it.
    let this = unsafe { &mut *this };
    (this.thread, this.kernel_stack) = (thread, stack);
    this.tss.privilege_stack_table[0] = VirtAddr::new(stack);
}

/// Disables preemption once more.
pub(crate) fn disable_preemption() {
    // SAFETY: this processor's own state, in one instruction.
    unsafe { asm!("inc dword ptr gs:[{}]", const offset_of!(PerCpu, preemption), options(nostack)) };
}

/// Enables it once. Tells whether it's enabled now, and another thread is to run.
pub(crate) fn enable_preemption() -> bool {
    // SAFETY: as above.
    unsafe { asm!("dec dword ptr gs:[{}]", const offset_of!(PerCpu, preemption), options(nostack)) };
    may_switch()
}

/// Tells whether preemption is enabled, and another thread is to run.
pub(crate) fn may_switch() -> bool {
    read_own!(preemption, ":e") as u32 == 0 && read_own!(wants_switch, ":e") as u32 != 0
}

/// Gives how often preemption is disabled.
pub(crate) fn preemption_depth() -> u32 {
    read_own!(preemption, ":e") as u32
}

/// Says whether another thread is to run.
pub(crate) fn set_wants_switch(wants: bool) {
    // SAFETY: as above.
    unsafe {
        asm!("mov dword ptr gs:[{}], {:e}", const offset_of!(PerCpu, wants_switch), in(reg) u32::from(wants),
            options(nostack, preserves_flags));
    }
}
