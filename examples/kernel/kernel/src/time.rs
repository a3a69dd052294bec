//! Time, by the time-stamp counter.

use core::sync::atomic::{AtomicU64, Ordering};

use x86_64::instructions::port::Port;

/// Nanoseconds of a tick, times 2^32.
static SCALE: AtomicU64 = AtomicU64::new(1 << 32);

fn ticks() -> u64 {
    // SAFETY: every x86-64 processor has it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Measures the counter's rate by the interval timer: 50 ms.
pub(crate) fn calibrate() {
    const HERTZ: u64 = 1_193_182;
    const COUNT: u64 = HERTZ / 20;
    let (mut gate, mut control, mut counter) = (Port::<u8>::new(0x61), Port::<u8>::new(0x43), Port::<u8>::new(0x42));
    // SAFETY: channel 2, which nobody else uses; its speaker stays off.
    unsafe {
        let before = gate.read();
        gate.write(before & !3 | 1);
        // One shot, low byte first.
        control.write(0b1011_0000);
        counter.write(COUNT as u8);
        counter.write((COUNT >> 8) as u8);
        let start = ticks();
        while gate.read() & 0x20 == 0 {
            core::hint::spin_loop();
        }
        let passed = ticks() - start;
        let nanoseconds = COUNT * 1_000_000_000 / HERTZ;
        SCALE.store(((u128::from(nanoseconds) << 32) / u128::from(passed.max(1))) as u64, Ordering::Relaxed);
    }
}

/// Gives nanoseconds since the machine's start.
pub(crate) fn now_ns() -> u64 {
    ((u128::from(ticks()) * u128::from(SCALE.load(Ordering::Relaxed))) >> 32) as u64
}

/// Waits without sleeping.
pub(crate) fn busy_wait(nanoseconds: u64) {
    let end = now_ns() + nanoseconds;
    while now_ns() < end {
        core::hint::spin_loop();
    }
}
