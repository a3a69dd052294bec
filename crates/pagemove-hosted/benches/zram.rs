//! zram beside its compressor alone, zsmalloc beside the standard allocator, the memory of both beside Linux' table of classes, and moves of
//! zspages that are read and written beside moves of a driver's plain pages. Data: this program's own pages, as compressible as programs are.
mod measure;

use std::{
    hint::black_box,
    sync::{
        Arc, Barrier, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use measure::{boot, median, print, timed};
use pagemove::{
    Engine,
    frame::Kind,
    migrate::{AnyFree, Mode, Mover, Options},
    port::Contents,
    units::{PAGE_SIZE, Pfn},
};
use pagemove_drivers::{
    CharDevice,
    zram::{self, Compressor, Page, Zram},
    zsmalloc::{self, Object, Pool},
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const ROUNDS: usize = 11;
const FRAMES: u32 = 64 << 10;

fn main() {
    let data = pages();
    println!("{} pages of data", data.len());
    beside_the_compressor(&data);
    beside_the_allocator();
    beside_linuxs_classes(&data);
    while_they_move();
}

/// Different pages that aren't of one word.
fn pages() -> Vec<Page> {
    let program = std::fs::read(std::env::current_exe().expect("a path")).expect("this program");
    let (pages, _) = program.as_chunks::<PAGE_SIZE>();
    let is_plain = |page: &&Page| page.as_chunks::<8>().0.iter().any(|word| *word != page[..8]);
    pages.iter().filter(is_plain).take(4096).copied().collect()
}

fn compressor() -> Box<dyn Compressor> {
    zram::by_name("lz4").expect("it is built in")
}

fn beside_the_compressor(data: &[Page]) {
    let (_machine, engine) = boot(FRAMES, 1, Contents::All);
    let alone = compressor();
    let (mut room, mut packed) = ([0; 2 * PAGE_SIZE], Vec::new());
    for page in data {
        let length = alone.compress(page, &mut room).expect("a length");
        packed.push(room[..length].to_vec());
    }
    let device = Zram::new(&engine, zram::Options::new("zram0", data.len() as u32, compressor())).expect("memory");
    let mut page = [0; PAGE_SIZE];
    // In turn, so that both see the same machine.
    let [mut compress, mut store, mut decompress, mut load] = [(); 4].map(|()| Vec::new());
    for _ in 0..ROUNDS {
        let each = |work: &mut dyn FnMut()| timed(work).1 / data.len() as f64;
        compress.push(each(&mut || data.iter().for_each(|page| drop(black_box(alone.compress(page, &mut room))))));
        store.push(each(&mut || {
            data.iter().zip(0..).for_each(|(page, number)| device.write(number, page).expect("memory"));
        }));
        decompress.push(each(&mut || {
            packed.iter().for_each(|packed| assert!(black_box(alone.decompress(packed, &mut page))));
        }));
        load.push(each(&mut || {
            (0..data.len() as u32).for_each(|number| device.read(number, &mut page).expect("whole"))
        }));
    }
    let [compress, store, decompress, load] = [compress, store, decompress, load].map(median);
    let row = |name: &str, ns: f64, reference: f64| {
        vec![name.to_owned(), format!("{ns:.0}"), format!("{:+.1} %", (ns / reference - 1.0) * 100.0)]
    };
    let rows = [
        ["a page", "ns", "beside LZ4 alone"].map(String::from).to_vec(),
        row("compressed, LZ4 alone", compress, compress),
        row("stored", store, compress),
        row("restored, LZ4 alone", decompress, decompress),
        row("loaded", load, decompress),
    ];
    print("zram beside its compressor, one thread (medians of rounds in turn)", &rows);
}

fn beside_the_allocator() {
    const OBJECTS: usize = 8192;
    let (_machine, engine) = boot(FRAMES, 1, Contents::All);
    let pool = Pool::new(&engine, zsmalloc::Options::new("bench"));
    let mut rows = vec![["bytes", "store ns", "std", "read ns", "std", "free ns", "std"].map(String::from).to_vec()];
    for length in [64, 500, 1400, 3000] {
        let data = vec![7; length];
        let mut times = [(); 6].map(|()| Vec::new());
        let mut out = vec![0; length];
        for _ in 0..ROUNDS {
            let (ours, store) =
                timed(|| (0..OBJECTS).map(|_| pool.store(&data).expect("memory")).collect::<Vec<Object>>());
            let (theirs, std_store) = timed(|| (0..OBJECTS).map(|_| black_box(data.clone())).collect::<Vec<Vec<u8>>>());
            let ((), read) = timed(|| ours.iter().for_each(|object| object.read().copy_to(0, black_box(&mut out))));
            let ((), std_read) = timed(|| theirs.iter().for_each(|object| black_box(&mut out).copy_from_slice(object)));
            let ((), free) = timed(|| drop(ours));
            let ((), std_free) = timed(|| drop(theirs));
            for (times, ns) in times.iter_mut().zip([store, std_store, read, std_read, free, std_free]) {
                times.push(ns / OBJECTS as f64);
            }
        }
        let times = times.map(|times| format!("{:.0}", median(times)));
        rows.push(std::iter::once(length.to_string()).chain(times).collect());
    }
    print("zsmalloc beside the standard allocator, one thread (medians)", &rows);
}

/// Bytes of pages that Linux' classes take for these lengths: 8 bytes more for each object, and a page for what is longer than the last class but
/// one. (The newest rule for the length of a chain; with an older one it's a little more.)
fn linux(lengths: &[usize], chain: usize) -> f64 {
    let classes: Vec<(usize, usize)> = (32..=PAGE_SIZE)
        .step_by(16)
        .map(|size| {
            let pages = (1..=chain).min_by_key(|pages| pages * PAGE_SIZE % size).expect("a length");
            (pages, pages * PAGE_SIZE / size)
        })
        .collect();
    let huge = classes.iter().rposition(|class| *class != (1, 1)).map_or(0, |last| 32 + last * 16);
    let bytes = |length: usize| {
        let size = if length + 8 > huge { PAGE_SIZE } else { length + 8 };
        let (pages, objects) = classes[size.saturating_sub(32).div_ceil(16)];
        (pages * PAGE_SIZE) as f64 / objects as f64
    };
    lengths.iter().map(|&length| bytes(length)).sum()
}

fn beside_linuxs_classes(data: &[Page]) {
    let alone = compressor();
    let mut room = [0; 2 * PAGE_SIZE];
    let lengths: Vec<usize> =
        data.iter().map(|page| alone.compress(page, &mut room).expect("a length").min(PAGE_SIZE)).collect();
    let sum = lengths.iter().sum::<usize>() as f64;
    let mut rows = vec![
        ["chain", "used / compressed", "Linux' table", "tables, bytes an object", "bytes a page of the pool"]
            .map(String::from)
            .to_vec(),
    ];
    for chain in [4, 8, 16] {
        let (_machine, engine) = boot(FRAMES, 1, Contents::All);
        let options = zsmalloc::Options::new("bench").with_chain(chain);
        let pool = Pool::new(&engine, options);
        let objects: Vec<Object> = lengths.iter().map(|&length| pool.store(&room[..length]).expect("memory")).collect();
        let stats = pool.stats();
        rows.push(vec![
            chain.to_string(),
            format!("{:.4}", stats.bytes() as f64 / sum),
            format!("{:.4}", linux(&lengths, chain as usize) / sum),
            format!("{:.1}", stats.metadata as f64 / objects.len() as f64),
            format!("{:.1}", stats.metadata as f64 / stats.pages as f64),
        ]);
    }
    print(
        &format!(
            "Memory for {} pages, compressed to {:.0} % by LZ4",
            data.len(),
            sum / (data.len() * PAGE_SIZE) as f64 * 100.0
        ),
        &rows,
    );
}

/// How moves and readers exclude each other.
#[derive(Clone, Copy, PartialEq)]
enum Stops {
    /// A move stops readers of its page.
    Page,
    /// A move of a page stops all readers, as Linux' do.
    Pool,
}

fn while_they_move() {
    let plain = plain_pages();
    let mut rows = vec![["moved", "GB/s", "of plain", "reads", "p99 µs", "longest µs"].map(String::from).to_vec()];
    rows.push(vec!["a driver's pages, unused".into(), format!("{plain:.2}"), "100 %".into()]);
    for (name, stops) in [("zspages, in use", Stops::Page), ("the same, a move stops the pool", Stops::Pool)] {
        let (rate, mut waits) = zspages(stops);
        waits.sort_unstable();
        let at = |part: f64| format!("{:.1}", waits[((waits.len() - 1) as f64 * part) as usize] as f64 / 1000.0);
        rows.push(vec![
            name.into(),
            format!("{rate:.2}"),
            format!("{:.0} %", rate / plain * 100.0),
            waits.len().to_string(),
            at(0.99),
            at(1.0),
        ]);
    }
    print("Moving 32 MiB again and again, one mover, two readers and a writer", &rows);
}

const MOVED: u32 = 8192;
const MOVES: usize = 24;

fn driver_pages(engine: &Engine) -> Vec<Pfn> {
    let frames = engine.physical().zones().flat_map(|zone| zone.iter().collect::<Vec<_>>());
    frames.filter(|&pfn| engine.physical().frame(pfn).state().kind() == Kind::Driver).collect()
}

/// 10⁹ bytes of a driver's pages moved a second; nobody uses them.
fn plain_pages() -> f64 {
    let (_machine, engine) = boot(FRAMES, 4, Contents::All);
    let file = CharDevice::new(&engine, "bench").open(MOVED);
    file.populate().expect("memory");
    rate(&engine, |sources| migrate(&engine, sources))
}

fn migrate(engine: &Engine, sources: &[Pfn]) -> u64 {
    let mut destination = AnyFree::new(engine.physical(), sources.len().min(512));
    Mover::new(engine).migrate(sources, &mut destination, Options::new(Mode::Async)).moved
}

fn rate(engine: &Engine, mut moves: impl FnMut(&[Pfn]) -> u64) -> f64 {
    let rates = (0..MOVES).map(|_| {
        let sources = driver_pages(engine);
        let (moved, ns) = timed(|| moves(&sources));
        moved as f64 * PAGE_SIZE as f64 / ns
    });
    median(rates.collect())
}

/// 10⁹ bytes of zspages moved a second, and the nanoseconds of each read.
fn zspages(stops: Stops) -> (f64, Vec<u64>) {
    let (_machine, engine) = boot(FRAMES, 4, Contents::All);
    let pool = Pool::new(&engine, zsmalloc::Options::new("bench"));
    let mut objects: Vec<Object> = Vec::new();
    let data = [9; 2000];
    while pool.pages() < u64::from(MOVED) {
        objects.push(pool.store(&data).expect("memory"));
    }
    let mut written = objects.split_off(objects.len() / 2);
    let (objects, over, start) = (Arc::new(objects), AtomicBool::new(false), Barrier::new(4));
    let whole = RwLock::new(());
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|seed| {
                let (objects, over, start, whole) = (&objects, &over, &start, &whole);
                scope.spawn(move || {
                    let (mut rng, mut waits, mut out) = (ChaCha8Rng::seed_from_u64(seed), Vec::new(), [0; 2000]);
                    start.wait();
                    while !over.load(Ordering::Relaxed) {
                        let object = &objects[rng.random_range(0..objects.len())];
                        let begun = Instant::now();
                        let _pool = (stops == Stops::Pool).then(|| whole.read());
                        object.read().copy_to(0, &mut out);
                        waits.push(begun.elapsed().as_nanos() as u64);
                        assert_eq!(out[1000], 9);
                    }
                    waits
                })
            })
            .collect();
        let (over, start, whole) = (&over, &start, &whole);
        scope.spawn(move || {
            let mut rng = ChaCha8Rng::seed_from_u64(9);
            start.wait();
            while !over.load(Ordering::Relaxed) {
                let at = rng.random_range(0..written.len());
                let _pool = (stops == Stops::Pool).then(|| whole.read());
                written[at].write().copy_from(0, &data);
            }
        });
        start.wait();
        let rate = rate(&engine, |sources| match stops {
            Stops::Page => migrate(&engine, sources),
            Stops::Pool => sources
                .iter()
                .map(|source| {
                    let _alone = whole.write();
                    migrate(&engine, &[*source])
                })
                .sum(),
        });
        over.store(true, Ordering::Relaxed);
        (rate, readers.into_iter().flat_map(|reader| reader.join().expect("a reader")).collect())
    })
}
