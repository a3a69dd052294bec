//! What the kernel runs, and checks: programs with threads in ring 3, while all memory moves.

use pagemove::report::Counter;
use pagemove_model::Sabotage;

use crate::{
    console::print,
    firmware::Firmware,
    heap, histories,
    mover::{self, Moving},
    platform, process,
    program::Programs,
    sched, time,
};

/// Runs the trials that the command line names (`run=a,b`), each with the seed of `seed=`. Tells whether one failed.
pub(crate) fn run(firmware: &Firmware) -> bool {
    let programs = Programs::new(firmware.programs);
    let seed = firmware.number("seed").unwrap_or(1);
    let amount = firmware.number("amount").unwrap_or(0);
    for name in firmware.word("run").unwrap_or("hello").split(',') {
        let passed = trial(&programs, name, seed, amount, firmware.processors.len() as u64);
        print!("{} {name}\n", if passed { "ok" } else { "FAILED" });
        // What comes after a failure says nothing.
        if !passed {
            return true;
        }
    }
    false
}

fn trial(programs: &Programs, name: &str, seed: u64, amount: u64, processors: u64) -> bool {
    let physical = platform::engine().physical();
    settle();
    let free = physical.free_frames() as usize + heap::HEAP.grown_frames();
    let (flushes, interrupts) = (mover::flushes(), platform::machine().interrupts_sent());
    let faults = physical.counters().get(Counter::Pgfault);
    let start = time::now_ns();
    // These move pages themselves.
    let moving =
        if matches!(name, "compare" | "starve" | "histories" | "unflushed") { None } else { Moving::start().ok() };
    let code = match name {
        "histories" | "unflushed" => {
            let sabotage = (name == "unflushed").then_some(Sabotage::SkipFlushes);
            u64::from(histories::run(seed, if amount == 0 { 40 } else { amount }, sabotage))
        }
        _ => run_program(programs, name, [seed, amount, processors]),
    };
    let moved = moving.map_or(0, Moving::stop);
    let milliseconds = (time::now_ns() - start) / 1_000_000;
    settle();
    print!(
        "{name}: {moved} pages moved, {} flushes, {} interrupts, {} faults, at most {} in a row, {milliseconds} ms\n",
        mover::flushes() - flushes,
        platform::machine().interrupts_sent() - interrupts,
        physical.counters().get(Counter::Pgfault) - faults,
        sched::take_most_faults(),
    );
    let mut passed = code == 0;
    if code != 0 {
        print!("{name}: ended with code {code}\n");
    }
    if let Err(invalid) = physical.validate() {
        print!("{name}: {invalid}\n");
        passed = false;
    }
    programs.forget();
    settle();
    let now = physical.free_frames() as usize + heap::HEAP.grown_frames();
    // What a history had that failed, on purpose, is lost.
    if now < free && name != "unflushed" {
        print!("{name}: {} frames are missing\n", free - now);
        passed = false;
    }
    if sched::lost_wakes() > 0 {
        print!("{name}: {} wake-ups were lost\n", sched::lost_wakes());
        passed = false;
    }
    passed
}

/// Counts listed frames as free.
fn settle() {
    platform::engine().physical().drain_cpu_lists();
}

/// Runs a program, and waits until nothing of it is left; gives its code.
fn run_program(programs: &Programs, name: &str, arguments: [u64; 3]) -> u64 {
    match programs.start(name, arguments) {
        Ok(process) => {
            let code = process.wait();
            drop(process);
            // Its last thread may still be on its way out, and so may its children.
            process::wait_for_all();
            code
        }
        Err(why) => {
            print!("{name}: {why}\n");
            1
        }
    }
}
