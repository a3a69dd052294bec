//! A small x86-64 kernel whose memory is managed by pagemove. All pages of its processes move while they run.
//!
//! Each module uses only those above it in this list, and `main` all.
#![no_std]
#![no_main]

extern crate alloc;
// For its symbols.
extern crate runtime;

mod console;
mod heap;
mod firmware;
mod cpu;
mod apic;
mod time;
mod sched;
mod platform;
mod agent;
mod process;
mod program;
mod syscall;
mod trap;
mod mover;
mod histories;
mod trials;

use alloc::sync::Arc;
use core::arch::global_asm;

use pagemove::units::Pfn;

use cpu::PerCpu;
use firmware::Firmware;

global_asm!(include_str!("boot.s"));
global_asm!(include_str!("entry.s"));

/// Where all physical memory is mapped.
pub(crate) const DIRECT_MAP: u64 = 0xffff_8000_0000_0000;

/// Where the engine's metadata is mapped, if memory has large holes.
pub(crate) const METADATA: u64 = 0xffff_c000_0000_0000;

/// The first processor begins here, with interrupts masked, on the stack of the boot.
#[unsafe(no_mangle)]
extern "C" fn start(info: u64) -> ! {
    heap::begin();
    cpu::start(cpu::make(0));
    apic::start();
    // SAFETY: the loader's word, by its protocol.
    let firmware = unsafe { Firmware::read(info) };
    time::calibrate();
    platform::boot(&firmware);
    sched::start();
    apic::start_others(&firmware.processors);
    console::print!(
        "{} processors, {} MiB, Rust kernel on pagemove\n",
        firmware.processors.len(),
        firmware.memory >> 20
    );
    let firmware = Arc::new(firmware);
    let trials = move || {
        let failed = trials::run(&firmware);
        console::exit(failed);
    };
    if sched::start_reaper().and_then(|()| sched::spawn(trials)).is_err() {
        console::print!("no memory for the first threads\n");
        console::exit(true);
    }
    sched::idle()
}

/// The other processors begin here.
#[unsafe(no_mangle)]
extern "C" fn start_cpu(this: &'static mut PerCpu) -> ! {
    cpu::start(this);
    apic::start();
    platform::cpu_started(cpu::number());
    sched::start();
    apic::started();
    sched::idle()
}

/// Gives a pointer to physical memory.
pub(crate) fn direct<T>(address: u64) -> *mut T {
    (DIRECT_MAP + address) as *mut T
}

/// Gives the frame of the kernel's own root.
pub(crate) fn kernel_root() -> Pfn {
    unsafe extern "C" {
        #[link_name = "kernel_root"]
        static root: u8;
    }
    Pfn::new((&raw const root) as u64 >> 12)
}
