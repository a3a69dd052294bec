//! The local interrupt controller, in xAPIC mode: interrupts to other processors, the timer, the start of other processors.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicU32, Ordering};

use spin::Once;
use x86_64::{
    instructions::{interrupts, port::Port},
    registers::model_specific::Msr,
};

use crate::{console, cpu, direct, time};

/// The vector of the timer.
pub(crate) const TIMER: u64 = 32;
/// The vector of work for another processor.
pub(crate) const WORK: u64 = 33;
/// The vector that ends a halt.
pub(crate) const RESCHEDULE: u64 = 34;
const SPURIOUS: u32 = 255;

/// The model-specific register with the controller's address, and the bit that says that its registers aren't there.
const BASE: u32 = 0x1b;
const X2APIC: u64 = 1 << 10;

const ID: u64 = 0x20;
const END: u64 = 0xb0;
const ENABLE: u64 = 0xf0;
const COMMAND: u64 = 0x300;
const COMMAND_TO: u64 = 0x310;
const TIMER_ENTRY: u64 = 0x320;
const TIMER_START: u64 = 0x380;
const TIMER_DIVIDE: u64 = 0x3e0;
const TIMER_NOW: u64 = 0x390;

/// Timer interrupts of each processor in a second.
const HERTZ: u32 = 250;

static IDS: Once<Box<[u32]>> = Once::new();
static STARTED: AtomicU32 = AtomicU32::new(1);
/// Counts of the timer in 10 ms.
static TIMER_RATE: Once<u32> = Once::new();

fn read(register: u64) -> u32 {
    // SAFETY: the controller's page, in the direct map.
    unsafe { direct::<u32>(0xfee0_0000 + register).read_volatile() }
}

fn write(register: u64, value: u32) {
    // SAFETY: as above.
    unsafe { direct::<u32>(0xfee0_0000 + register).write_volatile(value) };
}

/// Gives the number of this processor's controller.
pub(crate) fn own_id() -> u32 {
    read(ID) >> 24
}

/// Enables this processor's controller. The old controller's interrupts are masked.
pub(crate) fn start() {
    // SAFETY: a register that all x86-64 processors have.
    if unsafe { Msr::new(BASE).read() } & X2APIC != 0 {
        console::print!("the firmware has switched to x2APIC mode, which this kernel lacks\n");
        console::exit(true);
    }
    for port in [0x21, 0xa1] {
        // SAFETY: masks the old controller.
        unsafe { Port::<u8>::new(port).write(0xff) };
    }
    write(ENABLE, 0x100 | SPURIOUS);
}

/// Starts this processor's timer, which interrupts again and again.
pub(crate) fn start_timer() {
    write(TIMER_DIVIDE, 0b11);
    let rate = *TIMER_RATE.call_once(|| {
        write(TIMER_ENTRY, 1 << 16);
        write(TIMER_START, u32::MAX);
        time::busy_wait(10_000_000);
        u32::MAX - read(TIMER_NOW)
    });
    write(TIMER_ENTRY, 1 << 17 | TIMER as u32);
    write(TIMER_START, (u64::from(rate) * 100 / u64::from(HERTZ)).max(1) as u32);
}

/// Ends the handling of an interrupt.
pub(crate) fn end() {
    write(END, 0);
}

fn command(to: u32, what: u32) {
    // A handler must not send between the two writes.
    interrupts::without_interrupts(|| {
        while read(COMMAND) & 1 << 12 != 0 {
            core::hint::spin_loop();
        }
        write(COMMAND_TO, to << 24);
        write(COMMAND, what);
    });
}

/// Interrupts another processor.
pub(crate) fn interrupt(cpu: usize, vector: u64) {
    if let Some(&id) = IDS.get().and_then(|ids| ids.get(cpu)) {
        command(id, 1 << 14 | vector as u32);
    }
}

/// Starts the other processors, one after the other, and waits for them.
pub(crate) fn start_others(ids: &[u32]) {
    unsafe extern "C" {
        static trampoline_image: u8;
        static trampoline_bytes: u8;
        static trampoline_stack: u8;
        static trampoline_cpu: u8;
    }
    IDS.call_once(|| ids.into());
    let place = |symbol: *const u8| direct::<u64>(symbol as u64);
    let (from, bytes) = (&raw const trampoline_image as u64, &raw const trampoline_bytes as usize);
    // SAFETY: the page at 0x8000 is reserved, and both are in the direct map.
    unsafe { core::ptr::copy_nonoverlapping(direct::<u8>(from), direct::<u8>(0x8000), bytes) };
    for (number, &id) in ids.iter().enumerate().skip(1) {
        let stack = Box::leak(Box::new([0u64; 4096]));
        // SAFETY: no processor is in the trampoline now.
        unsafe {
            place(&raw const trampoline_stack).write_volatile(stack.as_ptr_range().end as u64);
            place(&raw const trampoline_cpu).write_volatile(&raw const *cpu::make(number) as u64);
        }
        // INIT, then twice the start-up interrupt, as the manual asks.
        command(id, 0x4500);
        time::busy_wait(10_000_000);
        for _ in 0..2 {
            command(id, 0x4608);
            time::busy_wait(200_000);
        }
        while STARTED.load(Ordering::Acquire) as usize <= number {
            core::hint::spin_loop();
        }
    }
}

/// Says that this processor has left the trampoline.
pub(crate) fn started() {
    STARTED.fetch_add(1, Ordering::Release);
}
