//! A small machine for tests, on either TLB, and what most tests do with it.
#![allow(dead_code, unused_imports, unreachable_pub, missing_docs, reason = "each test file uses its part")]

mod accelerator;
mod child;
mod hooked;
mod nodes;
pub mod raw;
mod scripted;
mod snapshot;
mod watched;

pub use accelerator::{Accelerator, DeviceEntry};
pub use child::{case, run_case};
pub use hooked::Hooked;
pub use nodes::Nodes;
pub use scripted::{Call, Device, Scripted, Stage};
pub use snapshot::Snapshot;
pub use watched::Watched;

use std::{
    collections::HashMap,
    io::Write,
    iter,
    sync::{
        Arc, LazyLock, Mutex, Once,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, ThreadId},
    time::Duration,
};

use pagemove::{
    Engine,
    folio::{FolioRef, FrozenFolio},
    frame::Kind,
    migrate::{AnyFree, Batch, Mode, Mover, Options, Outcome},
    paging::Format,
    port::Contents,
    report::Reason,
    space::{Map, Mappable, Orders, PageCache, Protection, ReadPage, Source},
    units::{FrameRange, Order, Pfn, VirtAddr, VirtRange},
    zone::{self, Physical},
};
use pagemove_hosted::{Config, FIRST_FRAME, Hosted, HostedError, Process, TableFormat, TlbKind};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

/// Levels of page tables that the format has less than x86-64.
pub const FEWER: u32 = 4 - TableFormat::LEVELS;
pub const RW: Protection = Protection::READ.union(Protection::WRITE);
pub const MODES: [Mode; 3] = [Mode::Async, Mode::SyncLight, Mode::Sync];
/// Batches of all kinds: alone, cut, full, and by their time.
pub const BATCHES: [Batch; 5] =
    [Batch::Folios(1), Batch::Folios(2), Batch::Folios(512), Batch::Micros(1), Batch::Micros(50)];
pub const BOTH: [TlbKind; 2] = [TlbKind::Soft, TlbKind::Host];

pub struct Lab {
    pub machine: Arc<Hosted>,
    pub engine: Arc<Engine>,
}

impl Lab {
    /// One that is never dropped, for tests that leave a batch half done: its pages stay locked.
    pub fn leaked(blocks: u32) -> &'static Self {
        keep(Self::new(TlbKind::Soft, blocks))
    }

    /// `blocks` pageblocks of 2 MiB, all in one zone.
    pub fn new(tlb: TlbKind, blocks: u32) -> Self {
        Self::with(tlb, blocks, Contents::All, 4)
    }

    pub fn with(tlb: TlbKind, blocks: u32, contents: Contents, cpus: usize) -> Self {
        let frames = blocks * 512;
        let machine = Hosted::new(Config { frames, cpus, tlb, contents }).unwrap();
        Self::boot(machine, &one_zone(frames, 9))
    }

    pub fn boot(machine: Arc<Hosted>, config: &zone::Config) -> Self {
        end_if_hung();
        let engine = Engine::boot(machine.clone(), config).unwrap();
        Self { machine, engine }
    }

    pub fn process(&self) -> Process {
        Process::new(&self.machine, &self.engine).unwrap()
    }

    /// What a new process loads from the first word of page `page` of a file.
    pub fn process_reading(&self, file: &Arc<PageCache>, page: u32) -> u64 {
        let process = self.process();
        let at = shared(&process, file.clone(), page + 1, Protection::READ);
        process.load(at.start().up(page)).unwrap()
    }

    /// Why no further process can be had, if so.
    pub fn process_error(&self) -> Option<HostedError> {
        Process::new(&self.machine, &self.engine).err()
    }

    /// Moves one page to any free frame.
    pub fn migrate(&self, pfn: Pfn, mode: Mode) -> Result<(), Reason> {
        let outcome = self.migrate_all(&[pfn], Options::new(mode));
        match outcome.stayed.first() {
            Some(&(_, reason)) => Err(reason),
            None => Ok(()),
        }
    }

    pub fn migrate_all(&self, pfns: &[Pfn], options: Options) -> Outcome {
        let mut destination = AnyFree::new(self.engine.physical(), pfns.len().min(512));
        Mover::new(&self.engine).migrate(pfns, &mut destination, options)
    }

    /// A frame by its pageblock and its place there.
    pub fn frame_in(&self, block: u32, at: u32) -> Pfn {
        self.physical().blocks().range(block).start.up(at)
    }

    pub fn physical(&self) -> &Arc<Physical> {
        self.engine.physical()
    }

    /// A reference to a page in use.
    pub fn get(&self, pfn: Pfn) -> FolioRef<'_> {
        self.physical().get(pfn).unwrap()
    }

    /// As [`Self::get`], of a page that may be free.
    pub fn get_if(&self, pfn: Pfn) -> Option<FolioRef<'_>> {
        self.physical().get(pfn)
    }

    /// Takes all free frames, one by one.
    pub fn take_all(&self, kind: Kind) -> Vec<FrozenFolio<'_>> {
        take_all(self.physical(), kind)
    }

    /// Checks all invariants; at a quiet point.
    pub fn validate(&self) {
        self.engine.physical().validate().unwrap();
    }

    pub fn free_frames(&self) -> u32 {
        self.physical().drain_cpu_lists();
        self.physical().free_frames()
    }

    /// Checks that all is valid, `free` frames are free, and all pageblocks wholly.
    pub fn assert_all_free(&self, free: u32) {
        self.validate();
        let physical = self.engine.physical();
        physical.drain_cpu_lists();
        self.validate();
        assert_eq!(self.free_frames(), free, "frames were lost or found");
        for zone in physical.zones() {
            assert_eq!(physical.blocks().free_blocks(zone), zone.frames >> physical.blocks().order().get());
        }
    }

    /// Counts the frames of `kind` in use; at a quiet point.
    pub fn count_kind(&self, kind: Kind) -> u32 {
        self.frames_of(kind).len() as u32
    }

    /// The frames of `kind` in use, upwards, at this moment.
    pub fn frames_of(&self, kind: Kind) -> Vec<Pfn> {
        let physical = self.engine.physical();
        let frames = physical.zones().flat_map(|zone| zone.iter().collect::<Vec<_>>());
        frames.filter(|&pfn| physical.frame(pfn).state().kind() == kind).collect()
    }

    /// Moves all drivers' pages.
    pub fn move_drivers(&self, mode: Mode) -> Outcome {
        self.migrate_all(&self.frames_of(Kind::Driver), Options::new(mode))
    }
}

/// What tests are at, for who looks at one that hangs or has failed.
static DOING: LazyLock<Mutex<HashMap<ThreadId, String>>> = LazyLock::new(Mutex::default);

/// Says what this thread is at until it's dropped; printed if a check fails meanwhile, or the test hangs.
pub struct Doing(());

impl Doing {
    pub fn new(what: String) -> Self {
        DOING.lock().unwrap().insert(thread::current().id(), what);
        Self(())
    }
}

impl Drop for Doing {
    fn drop(&mut self) {
        let what = DOING.lock().unwrap().remove(&thread::current().id());
        if thread::panicking() {
            eprintln!("at: {}", what.unwrap_or_default());
        }
    }
}

/// Ends the program if it runs for minutes: a check that fails in the midst of a move leaves frames locked, and then who
/// gives them back waits for ever. PAGEMOVE_HANG_S sets how long it may run.
pub fn end_if_hung() {
    static WATCH: Once = Once::new();
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    WATCH.call_once(|| {
        thread::spawn(move || {
            let longer = number("PAGEMOVE_FIRE_MS").unwrap_or(0) / 10;
            // By the second: time goes on while the program is stopped, and its threads don't.
            for _ in 0..number("PAGEMOVE_HANG_S").unwrap_or(100) + longer {
                thread::sleep(Duration::from_secs(1));
            }
            // Not by `eprintln`: that is captured, and lost with the program.
            let _ = writeln!(std::io::stderr(), "a test hangs; tests are at: {:?}", DOING.lock().unwrap().values());
            std::process::abort();
        });
    });
}

/// Never drops `value`, and keeps it where a search for leaks finds it.
pub fn keep<'a, T>(value: T) -> &'a mut T {
    static KEPT: Mutex<Vec<usize>> = Mutex::new(Vec::new());
    let value = Box::leak(Box::new(value));
    KEPT.lock().unwrap().push((&raw mut *value).expose_provenance());
    value
}

pub fn hosted(tlb: TlbKind, frames: u32, cpus: usize) -> Arc<Hosted> {
    Hosted::new(Config { frames, cpus, tlb, contents: Contents::All }).unwrap()
}

pub fn one_zone(frames: u32, pageblock_order: u8) -> zone::Config {
    zone::Config::new(vec![range(0, frames)], order(pageblock_order))
}

/// Frames by their number in RAM, wherever that begins.
pub fn range(start: u32, frames: u32) -> FrameRange {
    FrameRange::new(pfn(start), frames).unwrap()
}

/// A frame by its number in RAM.
pub fn pfn(number: u32) -> Pfn {
    FIRST_FRAME.up(number)
}

/// The number of a frame in RAM.
pub fn number(pfn: Pfn) -> u32 {
    pfn.offset_from(FIRST_FRAME)
}

pub fn order(order: u8) -> Order {
    Order::new(order).unwrap()
}

/// Takes all free frames, one by one.
pub fn take_all(physical: &Arc<Physical>, kind: Kind) -> Vec<FrozenFolio<'_>> {
    iter::from_fn(|| physical.alloc(Order::ZERO, kind).ok()).collect()
}

/// The first frame of each.
pub fn pfns(folios: &[FrozenFolio<'_>]) -> Vec<Pfn> {
    folios.iter().map(|folio| folio.pfn()).collect()
}

/// Runs `test` in a lab of `blocks` pageblocks on each TLB. What the test made is gone afterwards; so all is valid, all
/// frames are free again, and merged to the largest blocks.
pub fn on_both(blocks: u32, test: impl Fn(&Lab)) {
    for tlb in BOTH {
        let lab = Lab::new(tlb, blocks);
        let free = lab.free_frames();
        test(&lab);
        lab.assert_all_free(free);
    }
}

/// Sets a flag when dropped, so that threads which run until it's set end also when a check fails.
pub struct SetAtEnd<'a>(pub &'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A seed of its own for each run, which is told.
pub fn new_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seed = now.map_or(1, |now| now.as_nanos() as u64);
    println!("seed {seed}");
    seed
}

pub fn rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

/// A file whose page `n` holds `1000 + n` in its first word when it's read from its store, and `reads` of such reads.
pub fn stored_file(lab: &Lab, pages: u32) -> (Arc<PageCache>, Arc<AtomicU64>) {
    let reads = Arc::new(AtomicU64::new(0));
    let counter = reads.clone();
    let read: Box<ReadPage> = Box::new(move |index, words| {
        counter.fetch_add(1, Ordering::Relaxed);
        words[0].store(1000 + u64::from(index), Ordering::Relaxed);
    });
    (PageCache::with_store(&lab.engine, "stored", pages, Some(read)), reads)
}

pub fn huge(process: &Process, pages: u32) -> VirtRange {
    let source = Source::Anonymous { orders: Orders::HUGE };
    process.space().mmap(&Map { at: None, pages, protection: RW, source }).unwrap()
}

/// `pages` pages of `range` from page `first` on.
pub fn part(range: VirtRange, first: u32, pages: u32) -> VirtRange {
    VirtRange::new(range.start().up(first), pages).unwrap()
}

pub fn anonymous(process: &Process, pages: u32) -> VirtRange {
    large(process, pages, Orders::BASE)
}

/// Maps anonymous memory whose folios may have these orders.
pub fn large(process: &Process, pages: u32, orders: Orders) -> VirtRange {
    let source = Source::Anonymous { orders };
    process.space().mmap(&Map { at: None, pages, protection: RW, source }).unwrap()
}

pub fn shared(process: &Process, file: Arc<dyn Mappable>, pages: u32, protection: Protection) -> VirtRange {
    process.space().mmap(&Map { at: None, pages, protection, source: Source::Shared { file, first: 0 } }).unwrap()
}

pub fn private(process: &Process, file: Arc<dyn Mappable>, pages: u32) -> VirtRange {
    process.space().mmap(&Map { at: None, pages, protection: RW, source: Source::Private { file, first: 0 } }).unwrap()
}

/// Address of word `number` of a page.
pub fn word(page: VirtAddr, number: u64) -> VirtAddr {
    VirtAddr::new(page.get() + 8 * number).unwrap()
}

/// Stores `n + 1` to page `n` of `at`.
pub fn fill(process: &Process, at: VirtRange) {
    (1..).zip(at.iter()).for_each(|(value, page)| process.store(page, value).unwrap());
}

/// Page `n` of `at` was page `first + n` when it was filled, and holds what it was filled with.
pub fn assert_holds(process: &Process, at: VirtRange, first: u64) {
    for (number, page) in (0..).zip(at.iter()) {
        assert_eq!(process.load(page), Ok(first + number + 1), "page {number} of {at:?}");
    }
}

/// The frame that `address` maps now.
pub fn pfn_at(process: &Process, address: VirtAddr) -> Pfn {
    process.space().frame(address).unwrap_or_else(|| panic!("nothing is mapped at {address}"))
}

/// Does `deed` on a thread of its own; tells whether it came to its end within that time without anybody else's doing.
pub fn finishes_within(time: Duration, deed: impl FnOnce() + Send + 'static) -> (bool, thread::JoinHandle<()>) {
    let (send, receive) = std::sync::mpsc::channel();
    let thread = thread::spawn(move || {
        deed();
        let _ = send.send(());
    });
    (receive.recv_timeout(time).is_ok(), thread)
}
