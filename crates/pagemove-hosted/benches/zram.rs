//! zram beside its compressor alone, zsmalloc beside the standard allocator, the memory of both beside Linux' table of classes, moves of
//! zspages that are read and written beside moves of a driver's plain pages; and zram beside that of this machine's kernel, if it has one and this is
//! root's.
//!
//! `cargo bench --bench zram -- [compressor] [allocator] [memory] [moves] [kernel] [FILE...]`: these parts, or all; with the pages of these files, or of this
//! program and this machine's libraries.
mod measure;

use std::{
    fs,
    hint::black_box,
    path::PathBuf,
    sync::{
        Barrier, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use measure::{boot, linux_zram::LinuxZram, median, print, timed};
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
/// Of data, if there are so many: with few, most classes have a zspage that isn't full.
const PAGES: usize = 32 << 10;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let names = ["compressor", "allocator", "memory", "moves", "kernel"];
    let (wanted, files): (Vec<String>, Vec<String>) =
        arguments.into_iter().partition(|word| names.contains(&word.as_str()));
    let data = pages(if files.is_empty() { usual_files() } else { files.into_iter().map(PathBuf::from).collect() });
    println!("{} pages of data", data.len());
    let parts: [&dyn Fn(); 5] = [
        &|| beside_the_compressor(&data),
        &beside_the_allocator,
        &|| beside_linuxs_classes(&data),
        &while_they_move,
        &|| beside_the_kernels(&data),
    ];
    for (name, part) in names.into_iter().zip(parts) {
        if wanted.is_empty() || wanted.iter().any(|word| word == name) {
            part();
        }
    }
}

/// This program, and this machine's libraries.
fn usual_files() -> Vec<PathBuf> {
    let libraries = fs::read_dir("/usr/lib/x86_64-linux-gnu").into_iter().flatten().flatten().map(|entry| entry.path());
    let mut libraries: Vec<PathBuf> = libraries.filter(|path| path.to_string_lossy().contains(".so")).collect();
    libraries.sort();
    std::iter::once(std::env::current_exe().expect("a path")).chain(libraries).collect()
}

/// The files' pages, but for those of one word.
fn pages(files: Vec<PathBuf>) -> Vec<Page> {
    let mut all = Vec::new();
    for path in files {
        let Ok(bytes) = fs::read(&path) else {
            eprintln!("zram: {} can't be read, and is passed over", path.display());
            continue;
        };
        let (pages, _) = bytes.as_chunks::<PAGE_SIZE>();
        all.extend(pages.iter().filter(|page| page.as_chunks::<8>().0.iter().any(|word| *word != page[..8])));
        if all.len() >= PAGES {
            break;
        }
    }
    all.truncate(PAGES);
    assert!(!all.is_empty(), "the files have no whole page that isn't of one word");
    all
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
        compress.push(each(&mut || {
            data.iter().for_each(|page| assert!(black_box(alone.compress(page, &mut room)).is_ok()))
        }));
        store.push(each(&mut || {
            data.iter().zip(0..).for_each(|(page, number)| device.write(number, page).expect("memory"));
        }));
        decompress.push(each(&mut || {
            packed.iter().for_each(|packed| assert!(black_box(alone.decompress(packed, &mut page)).is_ok()));
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

/// Bytes of whole zspages that Linux' classes take for these lengths: 8 bytes more for each object, and a page for what is longer than the last class but
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
    // Sizes of the same shape are one class.
    let mut objects = std::collections::BTreeMap::<(usize, usize), usize>::new();
    for &length in lengths {
        let size = if length + 8 > huge { PAGE_SIZE } else { length + 8 };
        *objects.entry(classes[size.saturating_sub(32).div_ceil(16)]).or_default() += 1;
    }
    objects.into_iter().map(|((pages, each), count)| (count.div_ceil(each) * pages * PAGE_SIZE) as f64).sum()
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

fn beside_the_kernels(data: &[Page]) {
    let mut kernels = match LinuxZram::new(data.len(), "lz4") {
        Ok(device) => device,
        Err(error) => return println!("\nNo zram of this machine's kernel: {error}"),
    };
    let (_machine, engine) = boot(FRAMES, 1, Contents::All);
    let device = Zram::new(&engine, zram::Options::new("zram0", data.len() as u32, compressor())).expect("memory");
    let [mut store, mut kernels_store, mut load, mut kernels_load] = [(); 4].map(|()| Vec::new());
    let mut page = [0; PAGE_SIZE];
    for _ in 0..ROUNDS {
        store.push(timed(|| (0..).zip(data).for_each(|(number, page)| device.write(number, page).expect("memory"))).1);
        kernels_store.push(timed(|| kernels.write(data)).1);
        load.push(
            timed(|| {
                for (number, data) in (0..).zip(data) {
                    device.read(number, &mut page).expect("whole");
                    assert!(page == *data);
                }
            })
            .1,
        );
        kernels_load.push(timed(|| kernels.read(data)).1);
    }
    let [store, kernels_store, load, kernels_load] =
        [store, kernels_store, load, kernels_load].map(|all| format!("{:.0}", median(all) / data.len() as f64));
    let (ours, theirs) = (device.mm_stat(), kernels.mm_stat());
    let row = |name: &str, [compressed, used]: [u64; 2], store, load| {
        let mib = |bytes: u64| format!("{:.2}", bytes as f64 / 1048576.0);
        let ratio = format!("{:.4}", used as f64 / compressed as f64);
        vec![name.to_owned(), mib(compressed), mib(used), ratio, store, load]
    };
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let rows = [
        ["zram, LZ4", "compressed, MiB", "used, MiB", "used / compressed", "stored, ns a page", "loaded, ns a page"]
            .map(String::from)
            .to_vec(),
        row("here", [ours.compr_data_size, ours.mem_used_total], store, load),
        row(&format!("Linux {}", release.trim()), [theirs[1], theirs[2]], kernels_store, kernels_load),
    ];
    let mib = (data.len() * PAGE_SIZE) >> 20;
    print(&format!("The same {mib} MiB here and in this machine's kernel (there by direct writes of 1 MiB)"), &rows);
}

/// What is moved, and how that excludes readers.
#[derive(Clone, Copy, PartialEq)]
enum Moved {
    /// A driver's pages, beside the pool.
    Plain,
    /// The pool's: a move stops readers of its page.
    Zspages,
    /// The same, but the move of a page stops all readers of the pool, as Linux' do.
    Stopping,
}

fn while_they_move() {
    let kinds = [
        ("a driver's pages, the pool beside them", Moved::Plain),
        ("the pool's zspages", Moved::Zspages),
        ("the same, each move stops the pool", Moved::Stopping),
    ];
    let measured = kinds.map(|(name, kind)| (name, moves(kind)));
    let plain = measured[0].1.0;
    let head = ["moved", "GB/s", "of plain", "reads", "p99 µs", "p99.99 µs", "longest µs"];
    let mut rows = vec![head.map(String::from).to_vec()];
    for (name, (rate, mut reads)) in measured {
        reads.sort_unstable();
        let at = |part: f64| format!("{:.1}", reads[((reads.len() - 1) as f64 * part) as usize] as f64 / 1000.0);
        let rates = [format!("{rate:.2}"), format!("{:.0} %", rate / plain * 100.0)];
        let times = [reads.len().to_string(), at(0.99), at(0.9999), at(1.0)];
        rows.push(std::iter::once(name.to_owned()).chain(rates).chain(times).collect());
    }
    print("Moving 32 MiB again and again, one mover, two readers and a writer", &rows);
}

const MOVED: u32 = 8192;
const MOVES: usize = 24;

fn driver_pages(engine: &Engine) -> Vec<Pfn> {
    let frames = engine.physical().zones().flat_map(|zone| zone.iter().collect::<Vec<_>>());
    frames.filter(|&pfn| engine.physical().frame(pfn).state().kind() == Kind::Driver).collect()
}

fn migrate(engine: &Engine, sources: &[Pfn]) -> u64 {
    let mut destination = AnyFree::new(engine.physical(), sources.len().min(512));
    Mover::new(engine).migrate(sources, &mut destination, Options::new(Mode::Async)).moved
}

/// 10⁹ bytes moved a second, and the nanoseconds of each read.
fn moves(kind: Moved) -> (f64, Vec<u64>) {
    let (_machine, engine) = boot(FRAMES, 4, Contents::All);
    let pool = Pool::new(&engine, zsmalloc::Options::new("bench"));
    let mut objects: Vec<Object> = Vec::new();
    let data = [9; 2000];
    while pool.pages() < u64::from(MOVED) {
        objects.push(pool.store(&data).expect("memory"));
    }
    let mut written = objects.split_off(objects.len() / 2);
    let file = CharDevice::new(&engine, "bench").open(if kind == Moved::Plain { MOVED } else { 0 });
    file.populate().expect("memory");
    let (objects, over, start, whole) = (&objects, &AtomicBool::new(false), &Barrier::new(4), &RwLock::new(()));
    let stopped = move || (kind == Moved::Stopping).then(|| whole.read());
    std::thread::scope(|scope| {
        let readers = [0, 1].map(|seed| {
            scope.spawn(move || {
                let (mut rng, mut reads, mut out) = (ChaCha8Rng::seed_from_u64(seed), Vec::new(), [0; 2000]);
                start.wait();
                while !over.load(Ordering::Relaxed) {
                    let object = &objects[rng.random_range(0..objects.len())];
                    let begun = Instant::now();
                    let _pool = stopped();
                    object.read().copy_to(0, &mut out);
                    reads.push(begun.elapsed().as_nanos() as u64);
                    assert_eq!(out[1000], 9);
                }
                reads
            })
        });
        scope.spawn(move || {
            let mut rng = ChaCha8Rng::seed_from_u64(9);
            start.wait();
            while !over.load(Ordering::Relaxed) {
                let at = rng.random_range(0..written.len());
                let _pool = stopped();
                written[at].write().copy_from(0, &data);
            }
        });
        start.wait();
        let rates = (0..MOVES).map(|_| {
            let sources: Vec<Pfn> = match kind {
                Moved::Plain => (0..MOVED).map(|page| file.peek(page).expect("populated")).collect(),
                Moved::Zspages | Moved::Stopping => driver_pages(&engine),
            };
            let (moved, ns) = timed(|| match kind {
                Moved::Plain | Moved::Zspages => migrate(&engine, &sources),
                Moved::Stopping => {
                    let one = |source: &Pfn| {
                        let _alone = whole.write();
                        migrate(&engine, &[*source])
                    };
                    sources.iter().map(one).sum()
                }
            });
            moved as f64 * PAGE_SIZE as f64 / ns
        });
        let rate = median(rates.collect());
        over.store(true, Ordering::Relaxed);
        (rate, readers.into_iter().flat_map(|reader| reader.join().expect("a reader")).collect())
    })
}
