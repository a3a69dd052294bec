//! Cost of compaction for each page moved, with the same 10,000 movable pages in a zone of 1 GiB and in one of 256 GiB
//! (metadata only): what matters is the pages moved, not the memory looked at. And the bytes of metadata for each frame.
mod measure;

use measure::{boot, median, print, timed};
use pagemove::{
    Engine,
    compact::{Compaction, Goal, Observation, Plan},
    frame::Kind,
    migrate::{Mode, Options, Policy},
    port::Contents,
    space::{Map, PageCache, Protection, Source},
    units::Pfn,
};
use pagemove_hosted::Process;
use rand::{SeedableRng, seq::index};
use rand_chacha::ChaCha8Rng;

const PAGES: u32 = 10_000;
const BLOCKS: u32 = 400;
const ROUNDS: u64 = 7;

struct Figures {
    pages: u64,
    observe_plan_ns: f64,
    act_ns: f64,
    metadata: f64,
}

fn main() {
    let mut rows = vec![
        ["zone", "pages moved", "observe and plan ns", "act ns", "ns a page", "metadata B a frame"]
            .map(String::from)
            .to_vec(),
    ];
    let mut costs = Vec::new();
    for (name, gib) in [("1 GiB", 1u32), ("256 GiB", 256)] {
        let figures: Vec<Figures> = (0..ROUNDS).map(|seed| measure(gib << 18, seed)).collect();
        let of = |value: fn(&Figures) -> f64| median(figures.iter().map(value).collect());
        let cost = of(|one| (one.observe_plan_ns + one.act_ns) / one.pages as f64);
        rows.push(vec![
            name.into(),
            format!("{}", of(|one| one.pages as f64)),
            format!("{:.0}", of(|one| one.observe_plan_ns)),
            format!("{:.0}", of(|one| one.act_ns)),
            format!("{cost:.1}"),
            format!("{:.3}", figures[0].metadata),
        ]);
        costs.push(cost);
    }
    print("Compaction of the same pages in zones of two sizes (no contents; median of seeds)", &rows);
    println!("256 GiB costs {:.2} times 1 GiB for each page moved", costs[1] / costs[0]);
}

fn measure(frames: u32, seed: u64) -> Figures {
    let (machine, engine) = boot(frames, 1, Contents::TablesOnly);
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let process = Process::new(&machine, &engine).expect("a process");
    let file = PageCache::new(&engine, "bench", PAGES);
    let blocks = index::sample(&mut random, engine.physical().blocks().count() as usize, BLOCKS as usize);
    let mut page = 0;
    for block in blocks {
        for place in index::sample(&mut random, 512, (PAGES / BLOCKS) as usize) {
            let pfn = Pfn::new((block * 512 + place) as u64);
            // The process's own page tables may be there.
            if let Some(folio) = engine.physical().alloc_exactly(pfn, Kind::File) {
                assert!(file.index().insert(page, folio).is_ok());
                page += 1;
            }
        }
    }
    let protection = Protection::READ | Protection::WRITE;
    let source = Source::Shared { file: file.clone(), first: 0 };
    let range = process.space().mmap(&Map { at: None, pages: page, protection, source }).expect("room");
    for address in range.iter() {
        process.store(address, 1).expect("a store");
    }
    let range = engine.physical().zones().next().expect("a zone");
    let options = Options::new(Mode::Async);
    let (plan, observe_plan_ns) =
        timed(|| Plan::new(&Observation::of(engine.physical(), range, Policy::Any), Goal::All));
    let (pages, act_ns) = timed(|| act(&engine, &plan, options));
    assert!(pages > u64::from(PAGES) / 2, "only {pages} pages moved: {}", plan.moves);
    let metadata = engine.physical().metadata_bytes() as f64 / f64::from(frames);
    Figures { pages, observe_plan_ns, act_ns, metadata }
}

fn act(engine: &Engine, plan: &Plan, options: Options) -> u64 {
    Compaction::new(engine, plan, options).map(|outcome| outcome.moved).sum()
}
