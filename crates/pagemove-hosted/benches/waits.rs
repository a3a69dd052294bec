//! How long a thread waits that touches pages while they move, and how fast they move: by the size of a batch, and by its time. One
//! mover and one waiting thread, each on a processor of its own; anonymous pages, host memory, soft TLB.
mod measure;

use std::{
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use measure::{boot, print};
use pagemove::{
    migrate::{AnyFree, Batch, Mode, Mover, Options},
    port::Contents,
    space::{Map, Orders, Protection, Source},
    units::Pfn,
};
use pagemove_hosted::Process;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// 16 MiB: so many that the toucher meets pages that move, and each batch is another one.
const PAGES: u32 = 4096;
/// Waits to measure for each kind of batch; and so many rounds at least.
const WAITS: usize = 3000;
const ROUNDS: usize = 40;

fn main() {
    let kinds = [1, 16, 64, 512].map(Batch::Folios).into_iter().chain([20, 50, 200].map(Batch::Micros));
    let mut rows =
        vec![["batch", "waits", "median µs", "p99 µs", "max µs", "GB/s", "of full batches"].map(String::from).to_vec()];
    let measured: Vec<(Batch, Figures)> = kinds.map(|batch| (batch, measure(batch))).collect();
    let full = measured.iter().find(|(batch, _)| *batch == Batch::Folios(512)).map_or(1.0, |(_, figures)| figures.rate);
    for (batch, Figures { mut waits, rate }) in measured {
        waits.sort_unstable();
        let at = |part: f64| waits[((waits.len() - 1) as f64 * part) as usize] as f64 / 1000.0;
        let name = match batch {
            Batch::Folios(folios) => format!("{folios} page(s)"),
            Batch::Micros(micros) => format!("{micros} µs"),
        };
        let times = [0.5, 0.99, 1.0].map(|part| format!("{:.1}", at(part)));
        let rates = [format!("{rate:.2}"), format!("{:.0} %", rate / full * 100.0)];
        rows.push([name, waits.len().to_string()].into_iter().chain(times).chain(rates).collect());
    }
    print("Waits for moving pages, one thread that touches them, one that moves them", &rows);
}

struct Figures {
    /// Nanoseconds of each access that met a moving page.
    waits: Vec<u64>,
    /// 10⁹ bytes moved a second, while somebody touches them.
    rate: f64,
}

fn measure(batch: Batch) -> Figures {
    let (machine, engine) = boot(PAGES * 4, 2, Contents::All);
    let process = Arc::new(Process::new(&machine, &engine).expect("a process"));
    let protection = Protection::READ | Protection::WRITE;
    let map = Map { at: None, pages: PAGES, protection, source: Source::Anonymous { orders: Orders::BASE } };
    let range = process.space().mmap(&map).expect("room");
    range.iter().for_each(|address| process.store(address, address.get()).expect("a store"));
    let (is_over, start) = (AtomicBool::new(false), Barrier::new(2));
    std::thread::scope(|scope| {
        let toucher = scope.spawn(|| touch(&process, range.start(), &is_over, &start));
        let mut mover = Mover::new(&engine);
        let options = Options { batch, ..Options::new(Mode::Async) };
        let (mut moved, mut seconds, mut rounds) = (0, 0.0, 0);
        start.wait();
        let waits = || engine.physical().counters().get(pagemove::report::Counter::MigrationWait) as usize;
        while rounds < ROUNDS || waits() < WAITS {
            rounds += 1;
            let mut sources: Vec<Pfn> = range.iter().map(|address| process.space().entry(address).pfn()).collect();
            sources.sort_unstable();
            let mut destination = AnyFree::new(engine.physical(), PAGES as usize);
            let begin = Instant::now();
            moved += mover.migrate(&sources, &mut destination, options).moved;
            seconds += begin.elapsed().as_secs_f64();
        }
        is_over.store(true, Ordering::Relaxed);
        let waits = toucher.join().expect("no panic");
        Figures { waits, rate: moved as f64 * 4096.0 / 1e9 / seconds }
    })
}

/// Loads random pages until it's over; gives the nanoseconds of loads during which the engine counted a wait, of which there are no
/// others.
fn touch(process: &Process, start: pagemove::units::VirtAddr, is_over: &AtomicBool, begin: &Barrier) -> Vec<u64> {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let counters = process.space().engine().physical().counters();
    let waits = || counters.get(pagemove::report::Counter::MigrationWait);
    let mut times = Vec::new();
    let mut before = waits();
    begin.wait();
    while !is_over.load(Ordering::Relaxed) {
        let address = start.up(rng.random_range(0..PAGES));
        let since = Instant::now();
        assert_eq!(process.load(address).expect("a load"), address.get());
        let took = since.elapsed();
        let now = waits();
        if now != before {
            times.push(took.as_nanos() as u64);
            before = now;
        }
    }
    times
}
