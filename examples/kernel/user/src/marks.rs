//! The mark "dirty" of an entry, which the CPU sets at a store: if one is lost, the page counts as clean, is dropped, and so is the store.
//!
//! Each thread has pages of a file in memory of its own. It loads from a page, so that it is mapped clean; stores to it, while it
//! moves; and has all clean pages of the file dropped.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::{
    Arguments,
    sys::{self, Call, SHARED, Words, call, say},
};

const PAGES: u64 = 8;

static ROUNDS: AtomicU64 = AtomicU64::new(0);
static FAILED: AtomicBool = AtomicBool::new(false);

pub(crate) fn run(arguments: Arguments) {
    let threads = arguments.processors.min(32) + 1;
    let rounds = if arguments.amount == 0 { 1500 } else { arguments.amount };
    ROUNDS.store(rounds.div_ceil(threads), Ordering::Release);
    sys::run_threads(threads, |number| {
        let file = call(Call::OpenFile, [PAGES, 0, 0, 0, 0, 0]).expect("a file");
        let words = Words::map(PAGES, SHARED, file, 0).expect("memory");
        let rounds = ROUNDS.load(Ordering::Acquire);
        for round in 1..=rounds {
            for page in 0..PAGES {
                let before = words.load(page, 0);
                words.store(page, 0, round);
                // Mostly what is dropped is the file's other pages: those not mapped.
                call(Call::DropClean, [file, 0, 0, 0, 0, 0]).expect("a drop");
                let now = words.load(page, 0);
                if before != 0 || now != round {
                    say!("thread {number}, page {page}: {before} before, stored {round}, then {now}");
                    FAILED.store(true, Ordering::Release);
                }
            }
            call(Call::Truncate, [file, 0, PAGES, 0, 0, 0]).expect("a truncation");
        }
    });
    say!("{} stores to clean pages", ROUNDS.load(Ordering::Acquire) * PAGES * threads);
    if FAILED.load(Ordering::Acquire) {
        sys::exit(1);
    }
}
