//! Rate of moving 4 KiB pages that are mapped once, batches of 512, one thread, soft TLB; beside a bare `memcpy` of the
//! same frames in the same order, in the same process. And where the rest goes, step by step.
mod measure;

use measure::{boot, median, memcpy, print, timed};
use pagemove::{
    Engine,
    migrate::{AnyFree, Mode, Mover, Options, StepTimes},
    port::Contents,
    space::{Map, Mappable, Orders, Protection, Source},
    units::{PAGE_SIZE, Pfn, VirtRange},
};
use pagemove_drivers::CharDevice;
use pagemove_hosted::Process;
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

const PAGES: u32 = 32768;
const ROUNDS: usize = 21;

struct Figures {
    moved_ns: f64,
    memcpy_ns: f64,
    steps: StepTimes,
}

fn main() {
    let mut rows = vec![["pages", "move ns", "memcpy ns", "of memcpy's rate", "move GB/s"].map(String::from).to_vec()];
    let mut steps = vec![
        ["ns a page", "claim", "block", "flush", "freeze", "copy", "rebind", "release"].map(String::from).to_vec(),
    ];
    for (name, contents, driver) in [
        ("anonymous, mapped once", Contents::All, false),
        ("driver's, mapped once", Contents::All, true),
        ("anonymous, no contents", Contents::TablesOnly, false),
    ] {
        let figures = measure(contents, driver);
        let (moved, memcpy) = (figures.moved_ns, figures.memcpy_ns);
        let ratio = if contents == Contents::All { format!("{:.1} %", memcpy / moved * 100.0) } else { "–".into() };
        rows.push(vec![
            name.into(),
            format!("{moved:.1}"),
            format!("{memcpy:.1}"),
            ratio,
            format!("{:.2}", PAGE_SIZE as f64 / moved),
        ]);
        let StepTimes { claim, block, flush, freeze, copy, rebind, release } = figures.steps;
        let each = |ns: u64| format!("{:.1}", ns as f64 / (f64::from(PAGES) * ROUNDS as f64));
        steps.push(
            [name.into()].into_iter().chain([claim, block, flush, freeze, copy, rebind, release].map(each)).collect(),
        );
    }
    print("Moving 4 KiB pages, one thread, batch 512 (median of rounds)", &rows);
    print("Where the time goes (mean; copy includes the memcpy)", &steps);
}

fn measure(contents: Contents, driver: bool) -> Figures {
    let (machine, engine) = boot(PAGES * 4, 1, contents);
    let process = Process::new(&machine, &engine).expect("a process");
    let file = CharDevice::new(&engine, "bench").open(PAGES);
    let source = if driver {
        Source::Shared { file: file.clone() as std::sync::Arc<dyn Mappable>, first: 0 }
    } else {
        Source::Anonymous { orders: Orders::BASE }
    };
    let protection = Protection::READ | Protection::WRITE;
    let range = process.space().mmap(&Map { at: None, pages: PAGES, protection, source }).expect("room");
    // In random order, so that frames and addresses have nothing to do with each other, as in a machine of some age.
    let mut order: Vec<_> = range.iter().collect();
    order.shuffle(&mut ChaCha8Rng::seed_from_u64(1));
    for &address in &order {
        process.store(address, address.get()).expect("a store");
    }
    let mut mover = Mover::new(&engine);
    let (mut moved, mut copied) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        if round == 1 {
            mover.measure_steps();
        }
        // In the order of frames, as compaction takes them.
        let mut sources: Vec<(Pfn, _)> = frames(&process, range).into_iter().zip(range.iter()).collect();
        sources.sort_unstable();
        let from: Vec<Pfn> = sources.iter().map(|&(pfn, _)| pfn).collect();
        // Set aside together, so that no source of this round is a destination of it, and the reference can copy the same.
        let mut destination = AnyFree::new(engine.physical(), PAGES as usize);
        let (outcome, ns) =
            timed(|| mover.migrate(&from, &mut destination, Options::new(Mode::Async).in_full_batches()));
        assert_eq!(outcome.moved, u64::from(PAGES), "{:?}", outcome.stayed.first());
        drop(destination);
        let to: Vec<Pfn> = sources.iter().map(|&(_, address)| process.space().entry(address).pfn()).collect();
        let ((), copy_ns) = timed(|| copy(&engine, &from, &to));
        if round > 0 {
            moved.push(ns / f64::from(PAGES));
            copied.push(copy_ns / f64::from(PAGES));
        }
        // The TLB has them again, so that each round's flush has something to flush.
        for address in range.iter() {
            assert!(contents != Contents::All || process.load(address).expect("a load") == address.get());
        }
    }
    let steps = mover.step_times().unwrap_or_default();
    Figures { moved_ns: median(moved), memcpy_ns: median(copied), steps }
}

fn frames(process: &Process, range: VirtRange) -> Vec<Pfn> {
    range.iter().map(|address| process.space().entry(address).pfn()).collect()
}

/// The reference: what is copied from the old frames, which nobody has since, is what is in the new ones already.
fn copy(engine: &Engine, from: &[Pfn], to: &[Pfn]) {
    for (&from, &to) in from.iter().zip(to) {
        memcpy(engine, from, to);
    }
}
