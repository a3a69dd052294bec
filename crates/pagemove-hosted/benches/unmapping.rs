//! What it costs to give pages back: munmap, exit, and truncation of a file that a process maps; and to share them, by fork. Beside the
//! move of such pages, which blocks, flushes and frees as well. One thread, soft TLB, all pages in it.
mod measure;

use measure::{boot, median, print, timed};
use pagemove::{
    Engine,
    migrate::{AnyFree, Mode, Mover, Options},
    port::Contents,
    report::Counter,
    space::{Map, Orders, PageCache, Protection, Source},
    units::{Pfn, VirtRange},
};
use pagemove_hosted::Process;

const PAGES: u32 = 32768;
const ROUNDS: usize = 11;

#[derive(Clone, Copy)]
enum Way {
    Unmap,
    Exit,
    Truncate,
    Fork,
}

fn main() {
    let mut rows = vec![["way", "ns a page", "flushes", "of a move without copy"].map(String::from).to_vec()];
    let moved = median((0..ROUNDS).map(|_| moving()).collect());
    for (name, way) in [
        ("munmap, anonymous", Way::Unmap),
        ("exit, anonymous", Way::Exit),
        ("truncation, mapped once", Way::Truncate),
        ("fork, anonymous", Way::Fork),
    ] {
        let (times, flushes): (Vec<f64>, Vec<f64>) = (0..ROUNDS).map(|_| removing(way)).unzip();
        let ns = median(times);
        rows.push(vec![
            name.into(),
            format!("{ns:.1}"),
            format!("{:.0}", median(flushes)),
            format!("{:.0} %", ns / moved * 100.0),
        ]);
    }
    print("Giving back or sharing 128 MiB of mapped pages, one thread (median of rounds)", &rows);
}

/// Nanoseconds of a page, and flushes of all.
fn removing(way: Way) -> (f64, f64) {
    // No contents: they would only be first touched by the host.
    let (machine, engine) = boot(PAGES * 2, 1, Contents::TablesOnly);
    let process = Process::new(&machine, &engine).expect("a process");
    let file = PageCache::new(&engine, "bench", PAGES);
    let source = match way {
        Way::Truncate => Source::Shared { file: file.clone(), first: 0 },
        Way::Unmap | Way::Exit | Way::Fork => Source::Anonymous { orders: Orders::BASE },
    };
    let range = mapped(&process, source);
    let flushes = || engine.physical().counters().get(Counter::TlbFlush);
    let before = flushes();
    let mut child = None;
    let ((), ns) = timed(|| match way {
        Way::Fork => child = Some(process.space().fork().expect("a child")),
        Way::Unmap => process.space().munmap(range).expect("to unmap"),
        Way::Exit => process.space().exit(),
        Way::Truncate => file.index().truncate(0..PAGES),
    });
    (ns / f64::from(PAGES), (flushes() - before) as f64)
}

/// Nanoseconds of a page that moves and has no contents.
fn moving() -> f64 {
    let (machine, engine) = boot(PAGES * 4, 1, Contents::TablesOnly);
    let process = Process::new(&machine, &engine).expect("a process");
    let range = mapped(&process, Source::Anonymous { orders: Orders::BASE });
    let mut sources: Vec<Pfn> = range.iter().map(|address| process.space().entry(address).pfn()).collect();
    sources.sort_unstable();
    let (moved, ns) = timed(|| move_all(&engine, &sources));
    assert_eq!(moved, u64::from(PAGES));
    ns / f64::from(PAGES)
}

fn move_all(engine: &Engine, sources: &[Pfn]) -> u64 {
    let mut destination = AnyFree::new(engine.physical(), sources.len());
    Mover::new(engine).migrate(sources, &mut destination, Options::new(Mode::Async).in_full_batches()).moved
}

fn mapped(process: &Process, source: Source) -> VirtRange {
    let protection = Protection::READ | Protection::WRITE;
    let range = process.space().mmap(&Map { at: None, pages: PAGES, protection, source }).expect("room");
    range.iter().for_each(|address| process.space().fault(address, pagemove::space::Access::Write).expect("a fault"));
    range
}
