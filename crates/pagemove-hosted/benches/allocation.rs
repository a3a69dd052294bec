//! Allocating and freeing order-0 frames, one thread and two; beside the crate `buddy_system_allocator` in the same
//! process, in the same pattern: frames are taken by the thousand, then given back in another order; in fresh memory, and
//! in aged memory, of which a random half is in use. That crate's frames have one owner and no reference count, as our
//! frozen ones do; a counted frame's freeing is an atomic change on top of it. All take turns, run by run.
mod measure;

use std::{iter, sync::Barrier, thread};

use buddy_system_allocator::LockedFrameAllocator;
use measure::{boot, median, print, timed};
use pagemove::{folio::FrozenFolio, frame::Kind, port::Contents, units::Order};
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

const FRAMES: u32 = 1 << 18;
const HELD: usize = 1024;
const ROUNDS: usize = 200;
const RUNS: usize = 15;

fn main() {
    let head =
        ["memory", "threads", "buddy_system_allocator ns", "frozen ns", "times as fast", "counted ns", "times as fast"];
    let mut rows = vec![head.map(String::from).to_vec()];
    for aged in [false, true] {
        for threads in [1, 2] {
            let (mut reference, mut frozen, mut counted) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..RUNS {
                reference.push(theirs(threads, aged));
                frozen.push(ours(threads, aged, false));
                counted.push(ours(threads, aged, true));
            }
            let times = |ours: &[f64]| {
                let ratios = reference.iter().zip(ours).map(|(theirs, ours)| theirs / ours);
                format!("{:.1}", median(ratios.collect()))
            };
            let (frozen_times, counted_times) = (times(&frozen), times(&counted));
            let ns = |values| format!("{:.1}", median(values));
            let memory = if aged { "aged" } else { "fresh" };
            let (reference, frozen, counted) = (ns(reference), ns(frozen), ns(counted));
            rows.push(vec![
                memory.into(),
                threads.to_string(),
                reference,
                frozen,
                frozen_times,
                counted,
                counted_times,
            ]);
        }
    }
    print("An allocation of a 4 KiB frame and its freeing, each thread (medians of runs)", &rows);
}

/// Ages memory: takes all of it, and gives a random half back, frame by frame; returns the rest.
fn age<F>(mut take: impl FnMut() -> Option<F>, give: impl FnMut(F)) -> Vec<F> {
    let mut frames: Vec<F> = iter::from_fn(&mut take).collect();
    frames.shuffle(&mut ChaCha8Rng::seed_from_u64(1));
    frames.drain(..FRAMES as usize / 2).for_each(give);
    frames
}

/// Runs `work` on each thread at the same time; gives the mean nanoseconds of one allocation with its freeing.
fn run(threads: usize, work: impl Fn() + Sync) -> f64 {
    let barrier = Barrier::new(threads);
    thread::scope(|scope| {
        let handles: Vec<_> = (0..threads)
            .map(|_| {
                let (barrier, work) = (&barrier, &work);
                scope.spawn(move || {
                    work();
                    barrier.wait();
                    timed(|| (0..ROUNDS).for_each(|_| work())).1
                })
            })
            .collect();
        let total: f64 = handles.into_iter().map(|handle| handle.join().expect("no panic")).sum();
        total / (threads * ROUNDS * HELD) as f64
    })
}

fn ours(threads: usize, aged: bool, counted: bool) -> f64 {
    let (_machine, engine) = boot(FRAMES, threads + 1, Contents::TablesOnly);
    let frozen = || engine.physical().alloc(Order::ZERO, Kind::Kernel).ok();
    if counted { handles(threads, aged, || frozen().map(FrozenFolio::publish)) } else { handles(threads, aged, frozen) }
}

fn handles<H>(threads: usize, aged: bool, take: impl Fn() -> Option<H> + Sync) -> f64 {
    let _rest = if aged { age(&take, drop) } else { Vec::new() };
    run(threads, || {
        let mut held = [const { None }; HELD];
        for place in &mut held {
            *place = take();
        }
        for at in 0..HELD {
            drop(held[at * 7 % HELD].take().expect("enough frames"));
        }
    })
}

fn theirs(threads: usize, aged: bool) -> f64 {
    let allocator: LockedFrameAllocator<33> = LockedFrameAllocator::new();
    allocator.lock().add_frame(0, FRAMES as usize);
    if aged {
        age(|| allocator.lock().alloc(1), |frame| allocator.lock().dealloc(frame, 1));
    }
    run(threads, || {
        let mut held = [0; HELD];
        for place in &mut held {
            *place = allocator.lock().alloc(1).expect("enough frames");
        }
        for at in 0..HELD {
            allocator.lock().dealloc(held[at * 7 % HELD], 1);
        }
    })
}
