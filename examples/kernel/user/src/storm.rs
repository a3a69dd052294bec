//! Writers and readers, more than processors, on memory of every kind: no store is lost, and nobody reads what was overwritten.
//!
//! Each writer owns a word of each page, and adds 1 to all of them in each pass; it checks what it finds. After a pass it publishes the
//! pass's number, in a page that moves too. A reader takes a published number first, then any word of that writer, which must not be older.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rand::{RngExt, SeedableRng, rngs::SmallRng};

use crate::{
    Arguments,
    sys::{self, ANONYMOUS, Call, HUGE, SHARED, Words, call, say},
};

/// Pages of each kind but the large one.
const PAGES: u64 = 96;
const KINDS: usize = 4;
const MOST_WRITERS: u64 = 64;

static KIND_STARTS: [AtomicU64; KINDS] = [const { AtomicU64::new(0) }; KINDS];
static PUBLISHED: AtomicU64 = AtomicU64::new(0);
static SEED: AtomicU64 = AtomicU64::new(0);
static PASSES: AtomicU64 = AtomicU64::new(0);
static WRITERS: AtomicU64 = AtomicU64::new(0);
static WRITING: AtomicU64 = AtomicU64::new(0);
static READS: AtomicU64 = AtomicU64::new(0);
static FAILED: AtomicBool = AtomicBool::new(false);

fn words(kind: usize) -> Words {
    Words::at(KIND_STARTS[kind].load(Ordering::Acquire), if kind == 3 { 512 } else { PAGES })
}

fn published() -> Words {
    Words::at(PUBLISHED.load(Ordering::Acquire), 1)
}

/// All pages of a kind that a pass writes: of the large folio a part.
fn pages(kind: usize) -> impl Iterator<Item = u64> {
    (0..words(kind).pages).step_by(if kind == 3 { 16 } else { 1 })
}

pub(crate) fn run(arguments: Arguments) {
    let writers = (arguments.processors + 2).min(MOST_WRITERS);
    let device = call(Call::OpenDevice, [PAGES, 0, 0, 0, 0, 0]).expect("the device");
    let file = call(Call::OpenFile, [PAGES, 0, 0, 0, 0, 0]).expect("a file");
    for (kind, (of, file)) in
        [(ANONYMOUS, 0), (SHARED, device), (SHARED, file), (ANONYMOUS | HUGE, 0)].into_iter().enumerate()
    {
        let pages = if kind == 3 { 512 } else { PAGES };
        let words = Words::map(pages, of, file, 0).expect("memory");
        KIND_STARTS[kind].store(words.start(), Ordering::Release);
        // Each kind's pages are spread over memory: between two of them one is allocated that goes.
        if kind != 3 {
            let others = Words::map(pages, ANONYMOUS, 0, 0).expect("memory");
            for page in 0..pages {
                words.store(page, 511, 1);
                others.store(page, 0, 1);
            }
            others.unmap();
        }
    }
    PUBLISHED.store(Words::map(1, ANONYMOUS, 0, 0).expect("memory").start(), Ordering::Release);
    SEED.store(arguments.seed, Ordering::Release);
    let passes = if arguments.amount == 0 { 3000 } else { arguments.amount };
    PASSES.store(passes, Ordering::Release);
    WRITERS.store(writers, Ordering::Release);
    WRITING.store(writers, Ordering::Release);
    sys::run_threads(
        writers + 2,
        |number| if number < WRITERS.load(Ordering::Acquire) { write(number) } else { read(number) },
    );
    for kind in 0..KINDS {
        for page in pages(kind) {
            for writer in 0..writers {
                let found = words(kind).load(page, writer as usize);
                if found != passes {
                    say!("page {page} of kind {kind}: writer {writer} wrote {passes}, and {found} is there");
                    FAILED.store(true, Ordering::Release);
                }
            }
        }
    }
    say!("{writers} writers, {passes} passes, {} reads", READS.load(Ordering::Acquire));
    if FAILED.load(Ordering::Acquire) {
        sys::exit(1);
    }
}

fn write(writer: u64) {
    for pass in 1..=PASSES.load(Ordering::Acquire) {
        for kind in 0..KINDS {
            let words = words(kind);
            for page in pages(kind) {
                let found = words.load(page, writer as usize);
                if found != pass - 1 {
                    say!("page {page} of kind {kind}: writer {writer} wrote {}, and finds {found}", pass - 1);
                    FAILED.store(true, Ordering::Release);
                }
                words.store(page, writer as usize, pass);
            }
        }
        published().store(0, writer as usize, pass);
        // So that the kernel's thread that moves pages has its turn often.
        if pass % 8 == 0 {
            let _ = call(Call::Yield, [0; 6]);
        }
        if FAILED.load(Ordering::Acquire) {
            break;
        }
    }
    WRITING.fetch_sub(1, Ordering::AcqRel);
}

fn read(number: u64) {
    let mut random = SmallRng::seed_from_u64(SEED.load(Ordering::Acquire) ^ number << 32);
    let mut reads = 0;
    while WRITING.load(Ordering::Acquire) > 0 && !FAILED.load(Ordering::Acquire) {
        let writer = random.random_range(0..WRITERS.load(Ordering::Acquire)) as usize;
        let kind = random.random_range(0..KINDS as u64) as usize;
        let words = words(kind);
        let page =
            if kind == 3 { random.random_range(0..words.pages / 16) * 16 } else { random.random_range(0..words.pages) };
        let pass = published().load(0, writer);
        let found = words.load(page, writer);
        if found < pass {
            say!("page {page} of kind {kind}: a reader finds {found}, after writer {writer} has published {pass}");
            FAILED.store(true, Ordering::Release);
        }
        reads += 1;
        if reads % 4096 == 0 {
            let _ = call(Call::Yield, [0; 6]);
        }
    }
    READS.fetch_add(reads, Ordering::AcqRel);
}
