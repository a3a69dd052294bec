//! The main trial: a worn memory full of driver pages, compacted while processes write to them.
//!
//! Takes a number of pages; gives what moved and what was lost. The pages are faulted in, a random half of them is freed,
//! and compaction runs while two threads, a forked child (each counting up words of its own) and a reader with a
//! read-only mapping are at work. Promises that each write is compared with a copy kept outside of driver pages.

use std::io::Result;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pagemove_sample::uapi;

use crate::device::Device;
use crate::machine::{Random, compact, frames, free_order9};
use crate::sys::{self, End, Map, Pipe, READ_ONLY, SHARED, WORDS};

/// Threads that write, and the child after them.
const WRITERS: usize = 3;
/// Pages that are pinned by `vmsplice`, besides those that the kit pins.
const SPLICED: usize = 32;

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) kept: u64,
    pub(crate) moved: u64,
    pub(crate) pinned: u64,
    pub(crate) pinned_moved: u64,
    pub(crate) lost_writes: u64,
    pub(crate) bad_words: u64,
    pub(crate) writes: u64,
    pub(crate) free_before: u64,
    pub(crate) free_after: u64,
}

impl Outcome {
    pub(crate) fn to_json(&self) -> String {
        format!(
            "{{\"kept\":{},\"moved\":{},\"pinned\":{},\"pinned_moved\":{},\"lost_writes\":{},\"bad_words\":{},\"writes\":{},\
             \"free_order9_before\":{},\"free_order9_after\":{}}}",
            self.kept,
            self.moved,
            self.pinned,
            self.pinned_moved,
            self.lost_writes,
            self.bad_words,
            self.writes,
            self.free_before,
            self.free_after
        )
    }
}

/// The constant word of a page.
fn tag(page: usize) -> u64 {
    (page as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Compacts all memory `rounds` times.
pub(crate) fn run(pages: usize, seed: u64, rounds: usize) -> Result<Outcome> {
    let device = Device::open(pages as u64)?;
    let map = device.map(0, pages, SHARED)?;
    let mut random = Random::new(seed);
    for page in 0..pages {
        map.store(page, 0, tag(page));
        map.store(page, WORDS - 1, !tag(page));
    }
    let mut kept = Vec::new();
    for page in 0..pages {
        if random.draw() >> 40 & 1 == 0 {
            kept.push(page);
        } else {
            device.free(page as u64, 1)?;
        }
    }
    let reader = device.map(0, pages, READ_ONLY)?;
    let shadow = Map::new(None, 0, pages * WRITERS * 8 / sys::PAGE + 1, SHARED)?;

    // Pinned pages: some by the kit, some by the kernel's own means.
    let pipe = Pipe::new(64)?;
    let step = kept.len() / (uapi::MOST_PINS + SPLICED);
    let pinned: Vec<usize> = (0..uapi::MOST_PINS + SPLICED).map(|at| kept[at * step]).collect();
    for (at, &page) in pinned.iter().enumerate() {
        if at % 2 == 0 { device.pin(page as u64, "movement").map(drop)? } else { map.vmsplice(page, &pipe)? }
    }

    let before = frames(&map)?;
    let mut outcome = Outcome {
        kept: kept.len() as u64,
        pinned: pinned.len() as u64,
        free_before: free_order9()?,
        ..Outcome::default()
    };
    let stop = Map::new(None, 0, 1, SHARED)?;
    let done = AtomicBool::new(false);
    let bad = AtomicU64::new(0);
    let child = sys::fork(|| {
        write(&map, &shadow, &kept, WRITERS - 1, seed, || stop.load(0, 0) != 0);
        0
    })?;
    let compacted = std::thread::scope(|scope| {
        for writer in 0..WRITERS - 1 {
            let (map, shadow, kept, done) = (&map, &shadow, &kept, &done);
            scope.spawn(move || write(map, shadow, kept, writer, seed, || done.load(Ordering::Relaxed)));
        }
        scope.spawn(|| bad.fetch_add(watch(&reader, &kept, seed, &done), Ordering::Relaxed));
        let compacted = (0..rounds).try_for_each(|_| compact());
        // Writers get to see what has moved last.
        std::thread::sleep(Duration::from_millis(200));
        done.store(true, Ordering::Relaxed);
        compacted
    });
    stop.store(0, 0, 1);
    let end = child.wait();
    compacted?;
    if end != End::Exit(0) {
        return Err(std::io::Error::other(format!("the writing child ended by {end:?}")));
    }
    outcome.free_after = free_order9()?;

    // Touch all, so that each has an entry to be seen in pagemap; and check.
    for &page in &kept {
        outcome.bad_words +=
            u64::from(map.load(page, 0) != tag(page)) + u64::from(map.load(page, WORDS - 1) != !tag(page));
        for writer in 0..WRITERS {
            let written = shadow.load(slot(page, writer) / WORDS, slot(page, writer) % WORDS);
            outcome.writes += written;
            outcome.lost_writes += u64::from(map.load(page, 1 + writer) != written);
        }
    }
    outcome.bad_words += bad.load(Ordering::Relaxed);
    let after = frames(&map)?;
    outcome.moved = kept.iter().filter(|&&page| before[page] != after[page]).count() as u64;
    outcome.pinned_moved = pinned.iter().filter(|&&page| before[page] != after[page]).count() as u64;
    Ok(outcome)
}

fn slot(page: usize, writer: usize) -> usize {
    page * WRITERS + writer
}

/// Counts up its own word of random pages, and the copy of that word.
fn write(map: &Map, shadow: &Map, kept: &[usize], writer: usize, seed: u64, done: impl Fn() -> bool) {
    let mut random = Random::new(seed + 1 + writer as u64);
    while !done() {
        for _ in 0..64 {
            let page = kept[random.below(kept.len())];
            let next = map.load(page, 1 + writer) + 1;
            map.store(page, 1 + writer, next);
            let slot = slot(page, writer);
            let copy = shadow.load(slot / WORDS, slot % WORDS) + 1;
            shadow.store(slot / WORDS, slot % WORDS, copy);
        }
    }
}

/// Looks at random pages: constants are constant, counters don't go back.
fn watch(map: &Map, kept: &[usize], seed: u64, done: &AtomicBool) -> u64 {
    let mut random = Random::new(seed + 99);
    let mut bad = 0;
    while !done.load(Ordering::Relaxed) {
        let page = kept[random.below(kept.len())];
        let first: Vec<u64> = (0..WRITERS).map(|writer| map.load(page, 1 + writer)).collect();
        let started = Instant::now();
        while started.elapsed() < Duration::from_micros(50) {
            bad += u64::from(map.load(page, 0) != tag(page)) + u64::from(map.load(page, WORDS - 1) != !tag(page));
            bad += first.iter().enumerate().filter(|&(writer, &was)| map.load(page, 1 + writer) < was).count() as u64;
        }
    }
    bad
}
