//! Writers and readers of the driver's pages while something moves them.
//!
//! Takes pages and a trigger; gives what moved and what was lost. Two threads and a forked child increment their own
//! words in random pages, and a thread with a read-only mapping checks them. Each write is compared with a copy outside
//! of driver pages. Constants in all parts of a page show a loss anywhere.

use std::error::Error;
use std::io::Result;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::device::Device;
use crate::machine::{Random, frames, wait_until};
use crate::sys::{self, End, Map, READ_ONLY, SHARED, WORDS};

/// The number of writers: threads, and the child as the last.
const WRITERS: usize = 3;

/// The value from which a page's constants derive.
fn tag(page: usize) -> u64 {
    (page as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// A page's constant words: index and value.
fn constants(page: usize) -> impl Iterator<Item = (usize, u64)> {
    (0..WORDS).step_by(64).chain([WORDS - 1]).map(move |word| (word, tag(page) ^ word as u64))
}

/// Writes a page's constants.
pub(crate) fn mark(map: &Map, page: usize) {
    constants(page).for_each(|(word, constant)| map.store(page, word, constant));
}

/// Counts a page's wrong constants.
pub(crate) fn wrong_words(map: &Map, page: usize) -> u64 {
    constants(page).filter(|&(word, constant)| map.load(page, word) != constant).count() as u64
}

/// An open of the device with marked pages.
pub(crate) struct Scene {
    pub(crate) device: Device,
    pub(crate) map: Map,
    /// The pages not freed.
    pub(crate) kept: Vec<usize>,
}

impl Scene {
    /// An open with `pages` pages, all present.
    pub(crate) fn whole(pages: usize) -> Result<Self> {
        let device = Device::open(pages as u64)?;
        let map = device.map(0, pages, SHARED)?;
        (0..pages).for_each(|page| mark(&map, page));
        Ok(Self { device, map, kept: (0..pages).collect() })
    }

    /// An open that keeps one page in `one_in`, at random: memory around them is fragmented.
    pub(crate) fn worn(pages: usize, one_in: u64, seed: u64) -> Result<Self> {
        let mut scene = Self::whole(pages)?;
        let mut random = Random::new(seed);
        scene.kept.clear();
        for page in 0..pages {
            if (random.draw() >> 40).is_multiple_of(one_in) {
                scene.kept.push(page);
            } else {
                scene.device.free(page as u64, 1)?;
            }
        }
        Ok(scene)
    }

    /// Counts the wrong constants of all pages.
    pub(crate) fn wrong_words(&self) -> u64 {
        self.kept.iter().map(|&page| wrong_words(&self.map, page)).sum()
    }

    /// The frame of each kept page.
    pub(crate) fn frames(&self) -> Result<Vec<u64>> {
        let all = frames_of(&self.map, &self.kept)?;
        Ok(self.kept.iter().map(|&page| all[page]).collect())
    }

    /// Runs `trigger` while all writers and the reader run.
    pub(crate) fn during<T, E: From<std::io::Error>>(
        &self,
        seed: u64,
        trigger: impl FnOnce() -> std::result::Result<T, E>,
    ) -> std::result::Result<(T, Report), E> {
        let (map, kept) = (&self.map, &self.kept);
        let reader = self.device.map(0, map.pages(), READ_ONLY)?;
        let shadow = Shadow::new(map.pages())?;
        kept.iter().for_each(|&page| (0..WRITERS).for_each(|writer| map.store(page, 1 + writer, 0)));
        let before = self.frames()?;
        let stop = Map::new(None, 0, 1, SHARED)?;
        let done = AtomicBool::new(false);
        let bad = AtomicU64::new(0);
        let child = sys::fork(|| {
            write(map, &shadow, kept, WRITERS - 1, seed, || stop.load(0, 0) != 0);
            0
        })?;
        let outcome = std::thread::scope(|scope| {
            for writer in 0..WRITERS - 1 {
                let (shadow, done) = (&shadow, &done);
                scope.spawn(move || write(map, shadow, kept, writer, seed, || done.load(Ordering::Relaxed)));
            }
            scope.spawn(|| bad.fetch_add(watch(&reader, kept, seed, &done), Ordering::Relaxed));
            let outcome = trigger();
            shadow.wait_for_more();
            done.store(true, Ordering::Relaxed);
            outcome
        });
        stop.store(0, 0, 1);
        let end = child.wait();
        let outcome = outcome?;
        if end != End::Exit(0) {
            return Err(std::io::Error::other(format!("the writing child ended by {end:?}")).into());
        }
        let mut report = Report { bad_words: bad.into_inner(), ..Report::default() };
        // The writers' mapping, a new mapping, and the driver.
        let maps = [map, &self.device.map(0, map.pages(), READ_ONLY)?];
        for &page in kept {
            let drivers: [u64; 1 + WRITERS] = self.device.read_words(page as u64, 0)?;
            report.bad_words += u64::from(drivers[0] != tag(page));
            report.bad_words += maps.iter().map(|map| wrong_words(map, page)).sum::<u64>();
            for writer in 0..WRITERS {
                let written = shadow.load(shadow.page(page, writer));
                report.writes += written;
                let [writers, comers] = maps.map(|map| map.load(page, 1 + writer));
                let is_lost = [writers, comers, drivers[1 + writer]].iter().any(|&seen| seen != written);
                report.lost_writes += u64::from(is_lost);
            }
        }
        let after = self.frames()?;
        report.moved = before.iter().zip(&after).filter(|(before, after)| before != after).count() as u64;
        report.before = before;
        report.after = after;
        Ok((outcome, report))
    }
}

/// The frame of each page of a mapping. Touches `pages` until all are present: a failed move unmaps a page for a
/// moment.
pub(crate) fn frames_of(map: &Map, pages: &[usize]) -> Result<Vec<u64>> {
    let mut all = Vec::new();
    wait_until("all pages to be in a frame", || {
        pages.iter().for_each(|&page| _ = map.load(page, 0));
        all = frames(map)?;
        Ok(pages.iter().all(|&page| all[page] != 0))
    })?;
    Ok(all)
}

/// The result.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) moved: u64,
    pub(crate) lost_writes: u64,
    pub(crate) bad_words: u64,
    pub(crate) writes: u64,
    /// The frames of the kept pages.
    pub(crate) before: Vec<u64>,
    pub(crate) after: Vec<u64>,
}

impl Report {
    /// Fails if anything was lost, or nothing was written.
    pub(crate) fn sound(&self) -> std::result::Result<(), Box<dyn Error>> {
        let Self { lost_writes, bad_words, writes, .. } = self;
        let is_sound = *lost_writes == 0 && *bad_words == 0 && *writes > 0;
        if is_sound {
            Ok(())
        } else {
            Err(format!("{lost_writes} of {writes} writes lost, {bad_words} words wrong").into())
        }
    }
}

/// Copies of the writers' words, and after them each writer's progress.
struct Shadow {
    map: Map,
    pages: usize,
}

impl Shadow {
    fn new(pages: usize) -> Result<Self> {
        let words = (pages + 1) * WRITERS;
        Ok(Self { map: Map::new(None, 0, words.div_ceil(WORDS), SHARED)?, pages })
    }

    fn page(&self, page: usize, writer: usize) -> usize {
        page * WRITERS + writer
    }

    fn load(&self, slot: usize) -> u64 {
        self.map.load(slot / WORDS, slot % WORDS)
    }

    fn count_up(&self, slot: usize) {
        self.map.store(slot / WORDS, slot % WORDS, self.load(slot) + 1);
    }

    /// Waits until each writer has written after the last move. (A dead writer is detected later.)
    fn wait_for_more(&self) {
        let seen = || (0..WRITERS).map(|writer| self.load(self.page(self.pages, writer)));
        let (then, started) = (seen().collect::<Vec<_>>(), Instant::now());
        while seen().zip(&then).any(|(now, &then)| now < then + 20) && started.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Increments the writer's own word of random pages, and its copy.
fn write(map: &Map, shadow: &Shadow, kept: &[usize], writer: usize, seed: u64, done: impl Fn() -> bool) {
    sys::yield_to_others();
    let mut random = Random::new(seed + 1 + writer as u64);
    while !done() {
        for _ in 0..64 {
            let page = kept[random.below(kept.len())];
            let next = map.load(page, 1 + writer) + 1;
            map.store(page, 1 + writer, next);
            shadow.count_up(shadow.page(page, writer));
        }
        shadow.count_up(shadow.page(shadow.pages, writer));
    }
}

/// Checks random pages: constants don't change, counters don't decrease.
fn watch(map: &Map, kept: &[usize], seed: u64, done: &AtomicBool) -> u64 {
    sys::yield_to_others();
    let mut random = Random::new(seed + 99);
    let mut bad = 0;
    while !done.load(Ordering::Relaxed) {
        let page = kept[random.below(kept.len())];
        let first: Vec<u64> = (0..WRITERS).map(|writer| map.load(page, 1 + writer)).collect();
        let started = Instant::now();
        while started.elapsed() < Duration::from_micros(50) {
            bad += wrong_words(map, page);
            bad += first.iter().enumerate().filter(|&(writer, &was)| map.load(page, 1 + writer) < was).count() as u64;
        }
    }
    bad
}
