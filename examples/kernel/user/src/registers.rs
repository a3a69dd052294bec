//! A driver in ring 3: a timer's registers (HPET, IA-PC HPET Specification 1.0a), mapped uncached. They are no memory: they don't move, while
//! all that is mapped beside them does; they can't be pinned; fork shares them.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::{
    Arguments,
    sys::{self, ANONYMOUS, Call, READ, TIMER, WRITE, Words, call, say},
};

/// Registers by their number of 8 bytes: capabilities, configuration, main counter.
const CAPABILITIES: usize = 0;
const CONFIGURATION: usize = 2;
const COUNTER: usize = 0xf0 / 8;

static AT: AtomicU64 = AtomicU64::new(0);
static ROUNDS: AtomicU64 = AtomicU64::new(0);

pub(crate) fn run(arguments: Arguments) {
    let timer = Words::map(1, TIMER, 0, 0).expect("the registers");
    let tick = timer.load(0, CAPABILITIES) >> 32;
    // At least 10 MHz, and not all ones.
    assert!((1..=100_000_000).contains(&tick), "a tick of {tick} fs");
    timer.store(0, CONFIGURATION, timer.load(0, CONFIGURATION) | 1);
    AT.store(timer.start(), Ordering::Release);
    ROUNDS.store(if arguments.amount == 0 { 3000 } else { arguments.amount }, Ordering::Release);
    let child = sys::fork(|| read_all(0)).expect("a child");
    sys::run_threads(arguments.processors.min(32) + 1, |number| {
        if read_all(number) != 0 {
            sys::exit(1);
        }
    });
    assert_eq!(sys::wait_for(child), 0, "the child's reads");

    // What isn't there, and what can't be done.
    assert_eq!(Words::map(2, TIMER, 0, 0).err(), Some(-22), "more than the device has");
    assert_eq!(call(Call::Pin, [timer.start(), 1, 0, 0, 0, 0]).err(), Some(-14), "a pin of what is no memory");
    let written = call(Call::Write, [timer.start(), 8, 0, 0, 0, 0]);
    assert_eq!(written.err(), Some(-14), "the kernel reads what is no memory");
    // Elsewhere, and without the right to store, the counter is the same.
    let to = timer.start() + (1 << 30);
    let moved = call(Call::Mremap, [timer.start(), 1, 1, to, 0, 0]).expect("mremap");
    let timer = Words::at(moved, 1);
    let before = timer.load(0, COUNTER);
    call(Call::Mprotect, [moved, 1, READ, 0, 0, 0]).expect("mprotect");
    assert!(timer.load(0, COUNTER) >= before);
    let child = sys::fork(|| {
        timer.store(0, CONFIGURATION, 0);
        0
    });
    assert_eq!(sys::wait_for(child.expect("a child")), sys::KILLED, "a store without the right");
    call(Call::Mprotect, [moved, 1, READ | WRITE, 0, 0, 0]).expect("mprotect");
    timer.store(0, CONFIGURATION, timer.load(0, CONFIGURATION) & !1);
    let stopped = timer.load(0, COUNTER);
    assert!(timer.load(0, COUNTER) == stopped && stopped >= before, "a stopped counter");
    timer.unmap();
    say!("a tick of {tick} fs; {stopped} of them");
}

/// Reads the counter beside memory that moves; gives 1 if it ran backwards, or a word of the memory is lost.
fn read_all(number: u64) -> u64 {
    let timer = Words::at(AT.load(Ordering::Acquire), 1);
    let memory = Words::map(16, ANONYMOUS, 0, 0).expect("memory");
    let mut before = timer.load(0, COUNTER);
    for round in 0..ROUNDS.load(Ordering::Acquire) {
        let now = timer.load(0, COUNTER);
        let page = round % 16;
        if now < before || (round >= 16 && memory.load(page, 0) != round - 16) {
            say!("thread {number}: {before}, then {now}; or a word is lost");
            return 1;
        }
        memory.store(page, 0, round);
        before = now;
    }
    memory.unmap();
    0
}
