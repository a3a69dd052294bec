//! Progress of threads that use a page which moves without a pause: each gets its turns.
//!
//! One thread moves a page again and again by a call; the others add to words of it, each as often, and end only when they have done so. How many
//! moves one addition takes, and the most faults of one (which the kernel tells), say how far a thread may fall behind.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::{
    Arguments,
    sys::{self, ANONYMOUS, Call, Words, call, say},
};

static PAGE: AtomicU64 = AtomicU64::new(0);
static ADDING: AtomicU64 = AtomicU64::new(0);
static MOVES: AtomicU64 = AtomicU64::new(0);
/// During one addition.
static MOST: AtomicU64 = AtomicU64::new(0);
static ROUNDS: AtomicU64 = AtomicU64::new(0);

pub(crate) fn run(arguments: Arguments) {
    PAGE.store(Words::map(1, ANONYMOUS, 0, 0).expect("memory").start(), Ordering::Release);
    let threads = arguments.processors.min(32) + 1;
    ADDING.store(threads, Ordering::Release);
    ROUNDS.store(if arguments.amount == 0 { 3000 } else { arguments.amount }, Ordering::Release);
    sys::run_threads(threads + 1, |number| {
        let page = Words::at(PAGE.load(Ordering::Acquire), 1);
        if number == 0 {
            page.store(0, 0, 1);
            let (address, mut status) = ([page.start()], [0i32]);
            while ADDING.load(Ordering::Acquire) > 0 {
                let arguments = [address.as_ptr() as u64, 1, status.as_mut_ptr() as u64, 0, 0, 0];
                MOVES.fetch_add(call(Call::Move, arguments).unwrap_or(0), Ordering::Relaxed);
            }
            return;
        }
        for round in 0..ROUNDS.load(Ordering::Acquire) {
            let word = page.word(0, number as usize);
            let before = MOVES.load(Ordering::Relaxed);
            assert_eq!(word.fetch_add(1, Ordering::AcqRel), round, "an addition is lost");
            MOST.fetch_max(MOVES.load(Ordering::Relaxed) - before, Ordering::Relaxed);
            // The kernel counts faults in a row between two calls: those of one addition.
            let _ = call(if round % 64 == 0 { Call::Yield } else { Call::Now }, [0; 6]);
        }
        ADDING.fetch_sub(1, Ordering::AcqRel);
    });
    say!(
        "{threads} threads added {} times each, during {} moves of their page, at most {} of them during one addition",
        ROUNDS.load(Ordering::Acquire),
        MOVES.load(Ordering::Acquire),
        MOST.load(Ordering::Acquire)
    );
}
