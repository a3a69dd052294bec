//! Rate of moving pages that are mapped once, in folios of several orders, batches of 512, one thread, soft TLB; beside a bare
//! `memcpy` of the same frames in the same order, in the same process. And where the rest goes, step by step.
mod measure;

use measure::{boot, median, memcpy, print, timed};
use std::sync::Arc;

use pagemove::{
    Engine,
    folio::FrozenFolio,
    frame::Kind,
    migrate::{AnyFree, Destination, Mode, Mover, Options, StepTimes},
    port::Contents,
    space::{Map, Mappable, Orders, Protection, Source},
    units::{Order, PAGE_SIZE, Pfn, VirtAddr, VirtRange},
    zone::Physical,
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
    for (name, contents, driver, order) in [
        ("anonymous", Contents::All, false, 0),
        ("driver's", Contents::All, true, 0),
        ("anonymous, no contents", Contents::TablesOnly, false, 0),
        ("anonymous, order 4", Contents::All, false, 4),
        ("driver's, order 4", Contents::All, true, 4),
        ("anonymous, order 4, no contents", Contents::TablesOnly, false, 4),
        ("anonymous, order 9", Contents::All, false, 9),
        ("driver's, order 9", Contents::All, true, 9),
        ("anonymous, order 9, no contents", Contents::TablesOnly, false, 9),
    ] {
        let figures = measure(contents, driver, Order::new(order).unwrap_or_default());
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
    let (moved, memcpy) = measure_tables();
    let ratio = format!("{:.1} %", memcpy / moved * 100.0);
    rows.push(vec![
        "page tables".into(),
        format!("{moved:.1}"),
        format!("{memcpy:.1}"),
        ratio,
        format!("{:.2}", PAGE_SIZE as f64 / moved),
    ]);
    print("Moving pages that are mapped once, one thread, batch 512 (a base page, median of rounds)", &rows);
    print("Where the time goes (mean; copy includes the memcpy)", &steps);
}

fn measure(contents: Contents, driver: bool, size: Order) -> Figures {
    let (machine, engine) = boot(PAGES * 4, 1, contents);
    let process = Process::new(&machine, &engine).expect("a process");
    let file = CharDevice::new(&engine, "bench").open_with(PAGES, Orders::only(size));
    let source = if driver {
        Source::Shared { file: file.clone() as std::sync::Arc<dyn Mappable>, first: 0 }
    } else {
        Source::Anonymous { orders: Orders::only(size) }
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
        let heads: Vec<Pfn> = from.iter().copied().step_by(size.frames() as usize).collect();
        // Set aside together, so that no source of this round is a destination of it, and the reference can copy the same.
        let mut destination = Ready::new(engine.physical(), size, heads.len());
        let (outcome, ns) =
            timed(|| mover.migrate(&heads, &mut destination, Options::new(Mode::Async).in_full_batches()));
        assert_eq!(outcome.moved, u64::from(PAGES), "{:?}", outcome.stayed.first());
        drop(destination);
        let to: Vec<Pfn> = sources.iter().map(|&(_, address)| frame(&process, address)).collect();
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

/// Lowest-level tables of one process, each with one page: nanoseconds for each, moved and copied.
fn measure_tables() -> (f64, f64) {
    const TABLES: u32 = 1024;
    let (machine, engine) = boot(TABLES * 4, 1, Contents::All);
    let process = Process::new(&machine, &engine).expect("a process");
    let source = Source::Anonymous { orders: Orders::BASE };
    let protection = Protection::READ | Protection::WRITE;
    let map = Map { at: None, pages: TABLES * 512, protection, source };
    let range = process.space().mmap(&map).expect("room");
    let touched = || range.iter().step_by(512);
    touched().for_each(|address| process.store(address, address.get()).expect("a store"));
    let tables = || touched().map(|address| process.space().leaf_table(address).expect("a table"));
    let mut mover = Mover::new(&engine);
    let (mut moved, mut copied) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let from: Vec<Pfn> = tables().collect();
        let mut destination = AnyFree::new(engine.physical(), from.len());
        let (outcome, ns) = timed(|| mover.migrate(&from, &mut destination, Options::new(Mode::Async)));
        assert_eq!(outcome.moved, from.len() as u64, "{:?}", outcome.stayed.first());
        drop(destination);
        let to: Vec<Pfn> = tables().collect();
        let ((), copy_ns) = timed(|| copy(&engine, &from, &to));
        moved.push(ns / f64::from(TABLES));
        copied.push(copy_ns / f64::from(TABLES));
        touched().for_each(|address| assert_eq!(process.load(address), Ok(address.get())));
    }
    (median(moved), median(copied))
}

/// Folios of an order that were allocated before.
struct Ready<'p> {
    base: AnyFree<'p>,
    folios: Vec<FrozenFolio<'p>>,
}

impl<'p> Ready<'p> {
    fn new(physical: &'p Arc<Physical>, order: Order, folios: usize) -> Self {
        let large = if order == Order::ZERO { 0 } else { folios };
        let alloc = |_| physical.alloc(order, Kind::Anon).expect("a folio");
        Self { base: AnyFree::new(physical, PAGES as usize), folios: (0..large).map(alloc).collect() }
    }
}

impl<'p> Destination<'p> for Ready<'p> {
    fn take(&mut self, order: Order, below: Option<Pfn>) -> Option<FrozenFolio<'p>> {
        if order == Order::ZERO { self.base.take(order, below) } else { self.folios.pop() }
    }

    fn give_back(&mut self, folio: FrozenFolio<'p>) {
        self.base.give_back(folio);
    }
}

fn frames(process: &Process, range: VirtRange) -> Vec<Pfn> {
    range.iter().map(|address| frame(process, address)).collect()
}

/// The frame of the page at `address`.
fn frame(process: &Process, address: VirtAddr) -> Pfn {
    process.space().frame(address).expect("a mapped page")
}

/// The reference: what is copied from the old frames, which nobody has since, is what is in the new ones already.
fn copy(engine: &Engine, from: &[Pfn], to: &[Pfn]) {
    for (&from, &to) in from.iter().zip(to) {
        memcpy(engine, from, to);
    }
}
