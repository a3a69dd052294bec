//! The engine on this kernel.

use alloc::sync::Arc;
use core::{ptr::NonNull, sync::atomic::AtomicU32};

use pagemove::{
    Engine,
    compact::compact_for_allocations,
    frame::Kind,
    migrate::Options,
    movable::Mode,
    port::{Contents, Ram},
    space::{Caching, DeviceFrames},
    units::{FrameRange, Pfn},
};
use pagemove_x86::{Platform, X86Machine, cpus::CpuSet, machine::Setup};
use spin::Once;
use x86_64::{instructions::interrupts, registers::control::Cr3};

use crate::{
    DIRECT_MAP, METADATA, apic, console, cpu, firmware::Firmware, heap, kernel_root, process::Process, sched, time,
};

/// This kernel, for the engine's machine.
pub(crate) struct Kernel;

// SAFETY: the number is of the register GS, which each processor sets once; threads stay while preemption is disabled, since
// `sched::preempt` is called only if it isn't.
unsafe impl Platform for Kernel {
    fn cpu() -> usize {
        cpu::number()
    }

    fn disable_preemption() {
        cpu::disable_preemption();
    }

    fn enable_preemption() {
        if cpu::enable_preemption() && interrupts::are_enabled() {
            interrupts::without_interrupts(sched::preempt);
        }
    }

    fn send_ipi(cpus: &CpuSet) {
        cpus.iter().for_each(|cpu| apic::interrupt(cpu, apic::WORK));
    }

    fn pause() {
        // A mover that waits for threads to have their turn must not take it from them.
        if cpu::preemption_depth() == 0 && interrupts::are_enabled() {
            sched::yield_now();
        } else {
            core::hint::spin_loop();
        }
    }

    fn wait(word: &AtomicU32, value: u32) {
        assert_eq!(cpu::preemption_depth(), 0, "a thread sleeps with a lock");
        sched::wait(word, value);
    }

    fn wake(word: &AtomicU32) {
        sched::wake(word);
    }

    fn now_ns() -> u64 {
        time::now_ns()
    }
}

static MACHINE: Once<Arc<X86Machine<Kernel>>> = Once::new();
static ENGINE: Once<Arc<Engine>> = Once::new();
static RAM: Once<Ram> = Once::new();
static TIMER: Once<DeviceFrames> = Once::new();

/// Boots the engine.
pub(crate) fn boot(firmware: &Firmware) {
    let frames = Pfn::new(0)..Pfn::new(firmware.end >> 12);
    let mut map = firmware.map.clone();
    let Some((config, lent)) = map.config_with_metadata(&[Pfn::new(1 << 20)], frames.clone()) else {
        console::print!("{} MiB of memory are too few\n", firmware.memory >> 20);
        console::exit(true);
    };
    let base = NonNull::new(DIRECT_MAP as *mut u8).expect("not 0");
    // SAFETY: the boot's tables map all memory there.
    let ram = unsafe { Ram::new(base, frames, Contents::All) };
    let cpus = firmware.processors.len();
    let setup = Setup { ram, kernel_root: kernel_root(), cpus, lent, sparse: METADATA };
    // SAFETY: all processors run on the boot's root, whose upper half doesn't change; `lent` was just taken.
    let machine = unsafe { X86Machine::new(setup) };
    RAM.call_once(|| ram);
    MACHINE.call_once(|| machine.clone());
    let engine = match Engine::boot(machine, &config) {
        Ok(engine) => engine,
        Err(error) => {
            console::print!("{error}\n");
            console::exit(true);
        }
    };
    heap::HEAP.grow_from(engine.physical());
    compact_for_allocations(&engine, Options::new(Mode::Sync));
    ENGINE.call_once(|| engine);
    let timer = firmware.timer.filter(|&at| !writes_to_memory(at));
    if let Some(range) = timer.and_then(|at| FrameRange::new(Pfn::new(at >> 12), 1)) {
        // SAFETY: the registers of a timer that the kernel doesn't use. No interrupt controller lets its interrupts pass, and it writes no memory.
        TIMER.call_once(|| unsafe { DeviceFrames::new(range, Caching::Uncached) });
    }
}

/// Tells whether the timer at this address (HPET) can write its interrupts to memory, wherever a program likes (IA-PC HPET Specification
/// 1.0a, 2.3.8).
fn writes_to_memory(at: u64) -> bool {
    const CAN_WRITE: u64 = 1 << 15;
    // SAFETY: its registers, in the direct map; reading these changes nothing.
    let read = |register: u64| unsafe { crate::direct::<u64>(at + register).read_volatile() };
    let timers = (read(0) >> 8 & 0x1f) + 1;
    (0..timers).any(|timer| read(0x100 + 0x20 * timer) & CAN_WRITE != 0)
}

/// Another processor is there.
pub(crate) fn cpu_started(number: usize) {
    // SAFETY: the caller's processor, on the kernel's root since it started.
    unsafe { machine().cpu_started(number) };
}

/// Gives the machine.
pub(crate) fn machine() -> &'static X86Machine<Kernel> {
    MACHINE.get().expect("booted")
}

/// Gives the direct map.
pub(crate) fn ram() -> Ram {
    *RAM.get().expect("booted")
}

/// Gives the registers of the timer that programs may have.
pub(crate) fn timer() -> Option<DeviceFrames> {
    TIMER.get().copied()
}

/// Gives the engine.
pub(crate) fn engine() -> &'static Arc<Engine> {
    ENGINE.get().expect("booted")
}

/// Checks that the root that this processor has loaded is in use. Called by the timer's interrupt.
pub(crate) fn check_root() {
    let root = Pfn::new(Cr3::read_raw().0.start_address().as_u64() >> 12);
    let Some(engine) = ENGINE.get() else { return };
    // A history's engine has memory that is the kernel's.
    let kind = engine.physical().frame(root).state().kind();
    let is_table = root == kernel_root() || matches!(kind, Kind::PageTable | Kind::Kernel | Kind::Tail);
    assert!(is_table, "the root that is loaded, frame {root}, is free");
}

/// This processor will run a thread of `process`, or of the kernel. Interrupts are masked.
pub(crate) fn enter(process: Option<&Process>) {
    match process {
        // SAFETY: interrupts are masked, and all processes are of this engine.
        Some(process) => unsafe { machine().activate(process.space.table()) },
        // SAFETY: interrupts are masked; the kernel's threads use the upper half only.
        None => unsafe { machine().go_lazy() },
    }
}
