//! Stress tests: everything that can happen to a mapping, a buffer or the module, while compaction moves pages.
//!
//! The words of each page are known at all times. A wrong word, or a page of another open, is a failure.

use std::error::Error;
use std::fs;
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::device::{Device, opens};
use crate::machine::{Random, compact, frames, wait_until};
use crate::sys::{self, End, Map, PRIVATE, Pipe, READ_ONLY, SHARED, WORDS, errno};
use crate::verdict::{Outcome, check};

const TIME: Duration = Duration::from_secs(8);
const PAGES: usize = 1024;
/// At least this many rounds, also on a slow machine whose time is over.
const FEWEST: u64 = 10;

/// The checked words of each page: the first, the last, and one on each side of the middle.
const KNOWN: [usize; 4] = [0, 200, 300, WORDS - 1];

/// Writes a page's checked words.
fn put(map: &Map, page: usize, value: u64) {
    KNOWN.iter().for_each(|&word| map.store(page, word, value));
}

/// Tells whether a page's checked words have this value.
fn has(map: &Map, page: usize, value: u64) -> bool {
    KNOWN.iter().all(|&word| map.load(page, word) == value)
}

/// The result of a stress thread.
type ThreadResult<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Runs `body` in two threads, each with its number, while this one compacts and lists all opens; gives the sum of
/// their results, and the number of compactions.
fn storm(body: fn(u64, &AtomicBool) -> ThreadResult<u64>) -> Result<(u64, u64), Box<dyn Error>> {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2)
            .map(|number| {
                scope.spawn({
                    let done = &done;
                    move || body(number, done)
                })
            })
            .collect();
        let started = Instant::now();
        let mut compactions = 0;
        while started.elapsed() < TIME && threads.iter().all(|thread| !thread.is_finished()) {
            compact()?;
            compactions += 1;
            // As an administrator may at any time. Fails while the module is unloaded.
            let _ = opens();
        }
        done.store(true, Ordering::Relaxed);
        let (mut sum, mut faults) = (0, Vec::new());
        for thread in threads {
            match thread.join().map_err(|_| "a thread panicked")? {
                Ok(number) => sum += number,
                // Report all errors: the first one ends the test for the other threads.
                Err(error) => faults.push(error.to_string()),
            }
        }
        if faults.is_empty() { Ok((sum, compactions)) } else { Err(faults.join("; ").into()) }
    })
}

fn must(is_so: bool, words: &str) -> ThreadResult<()> {
    if is_so { Ok(()) } else { Err(words.into()) }
}

/// munmap, mremap, mprotect, mlock, fork, exit, `MADV_DONTNEED`, `MADV_PAGEOUT`, clear_refs.
pub(crate) fn mappings() -> Outcome {
    let (rounds, compactions) = storm(|number, done| {
        let device = Device::open(PAGES as u64)?;
        let mut map = device.map(0, PAGES, SHARED)?;
        let mut random = Random::new(number + 7);
        let mut last = vec![0; PAGES];
        let mut moved = 0;
        let mut round = 0;
        let mut before = Vec::new();
        while round <= FEWEST || !done.load(Ordering::Relaxed) {
            round += 1;
            for _ in 0..200 {
                let page = random.below(PAGES);
                must(has(&map, page, last[page]), "a word has changed")?;
                last[page] = round << 20 | page as u64;
                put(&map, page, last[page]);
            }
            let (first, some) = (random.below(PAGES - 64), 1 + random.below(63));
            match random.below(9) {
                0 => map = device.map(0, PAGES, SHARED)?,
                1 => map.remap()?,
                2 => {
                    map.protect(first, some, false)?;
                    must(has(&map, first, last[first]), "a write-protected word has changed")?;
                    map.protect(first, some, true)?;
                }
                3 => map.advise(first, some, libc::MADV_DONTNEED).map(drop)?,
                4 => {
                    let child = sys::fork(|| {
                        let seen = (0..PAGES).step_by(7).all(|page| has(&map, page, last[page]));
                        // Written for the parent to check.
                        (0..PAGES).step_by(7).for_each(|page| map.store(page, 4, round));
                        i32::from(!seen)
                    })?;
                    must(child.wait() == End::Exit(0), "a child saw other words")?;
                    must((0..PAGES).step_by(7).all(|page| map.load(page, 4) == round), "a child's write is lost")?;
                }
                5 => {
                    let _ = fs::write("/proc/self/clear_refs", if round % 2 == 0 { "4" } else { "1" });
                }
                6 => {
                    map.lock(first, some, true)?;
                    must(has(&map, first, last[first]), "a locked word has changed")?;
                    map.lock(first, some, false)?;
                }
                7 => map.advise(first, some, libc::MADV_PAGEOUT).map(drop)?,
                _ => {
                    let private = device.map(first as u64, some, PRIVATE)?;
                    let other = device.map(first as u64, some, READ_ONLY)?;
                    put(&private, 0, u64::MAX);
                    must(has(&other, 0, last[first]), "a private write is seen by others")?;
                }
            }
            if round % 16 == 0 {
                must((0..PAGES).all(|page| has(&map, page, last[page])), "a word has changed")?;
                let now = frames(&map)?;
                // Only entries present both times count: an entry that was taken away tells nothing.
                let is_move = |(before, now): &(&u64, &u64)| **before != 0 && **now != 0 && before != now;
                moved += before.iter().zip(&now).filter(is_move).count() as u64;
                before = now;
            }
        }
        must((0..PAGES).all(|page| has(&map, page, last[page])), "a word has changed by the end")?;
        // Two numbers in one word.
        Ok(round << 32 | moved)
    })?;
    let moved = rounds & 0xffff_ffff;
    check(moved > 0, || "nothing moved meanwhile".to_owned())?;
    Ok(format!("{} rounds, {compactions} compactions, {moved} moves seen", rounds >> 32))
}

/// Resizing, freeing, filling, closing.
pub(crate) fn truncations() -> Outcome {
    let (rounds, compactions) = storm(|number, done| {
        let mut random = Random::new(number + 70);
        let mut round = 0;
        let mut moved = 0;
        while round <= FEWEST || !done.load(Ordering::Relaxed) {
            let device = Device::open(PAGES as u64)?;
            let map = device.map(0, PAGES, SHARED)?;
            for _ in 0..6 {
                round += 1;
                let mark = round << 1 | number;
                (0..PAGES).for_each(|page| put(&map, page, mark));
                let size = random.below(PAGES);
                match random.below(4) {
                    0 => {
                        device.resize(size as u64)?;
                        device.resize(PAGES as u64)?;
                        must(
                            (0..PAGES).all(|page| has(&map, page, if page < size { mark } else { 0 })),
                            "a truncation is wrong",
                        )?;
                    }
                    1 => {
                        device.free(size as u64, 1)?;
                        device.fill(0, PAGES as u64)?;
                        must(
                            (0..PAGES).all(|page| has(&map, page, if page == size { 0 } else { mark })),
                            "a free is wrong",
                        )?;
                    }
                    2 => {
                        device.pin(size as u64, "storm")?;
                        device.free(0, PAGES as u64)?;
                        must(has(&map, size, 0), "a page freed while pinned is still mapped")?;
                        device.unpin(size as u64, "storm")?;
                    }
                    _ => must((0..PAGES).all(|page| has(&map, page, mark)), "a word has changed")?,
                }
            }
            moved += device.counts()?.moved;
            // Half of the time the device is closed while mapped, otherwise the reverse, with a pin left.
            if round % 4 < 2 { drop(device) } else { device.pin(0, "left").map(drop)? }
        }
        Ok(round << 32 | moved)
    })?;
    let moved = rounds & 0xffff_ffff;
    check(moved > 0, || "nothing moved meanwhile".to_owned())?;
    Ok(format!("{} rounds, {compactions} compactions, {moved} moves", rounds >> 32))
}

/// Faults on pages that are being freed: every mapping shows the page that is in the buffer.
pub(crate) fn faults() -> Outcome {
    const FEW: usize = 16;
    let (rounds, compactions) = storm(|number, done| {
        let device = Device::open(FEW as u64)?;
        let (map, other) = (device.map(0, FEW, SHARED)?, device.map(0, FEW, SHARED)?);
        let mut random = Random::new(number + 40);
        let mut round = 0;
        while round <= FEWEST || !done.load(Ordering::Relaxed) {
            round += 1;
            std::thread::scope(|scope| -> ThreadResult<()> {
                scope.spawn(|| (0..4 * FEW).for_each(|touch| map.store(touch % FEW, 9, 1)));
                (0..2 * FEW).try_for_each(|_| device.free(random.below(FEW) as u64, 1).map(drop))?;
                Ok(())
            })?;
            for page in 0..FEW {
                map.store(page, 9, round);
                let (mapped, read) = (other.load(page, 9), device.read_word(page as u64, 9)?);
                must(mapped == round && read == round, "a mapped page is no longer in the buffer")?;
            }
        }
        Ok(round)
    })?;
    Ok(format!("{rounds} rounds, {compactions} compactions"))
}

/// Loads, uses, closes and unloads the module, while compaction moves its pages.
pub(crate) fn unloads() -> Outcome {
    const SPLICED: usize = 4;
    const FEW: usize = 512;
    let (rounds, compactions) = storm(|number, done| {
        let mut random = Random::new(number + 80);
        let (mut round, mut moved) = (0, 0);
        while number == 0 && round <= FEWEST || !done.load(Ordering::Relaxed) {
            if number == 1 {
                // Fragments memory, so that there is something to compact.
                let map = Map::new(None, 0, 8 * PAGES, PRIVATE)?;
                (0..map.pages()).for_each(|page| map.store(page, 0, 1));
                for page in (0..map.pages()).filter(|_| random.below(2) == 0) {
                    map.advise(page, 1, libc::MADV_DONTNEED)?;
                }
                continue;
            }
            round += 1;
            let device = Device::open(FEW as u64)?;
            let map = device.map(0, FEW, SHARED)?;
            (0..FEW).for_each(|page| put(&map, page, round << 12 | page as u64));
            // These outlive the open and the module.
            let mut pipe = Pipe::new(SPLICED)?;
            (0..SPLICED).try_for_each(|page| map.vmsplice(page, &pipe))?;
            let child = sys::fork(|| i32::from((0..FEW).any(|page| !has(&map, page, round << 12 | page as u64))))?;
            must((0..FEW).all(|page| has(&map, page, round << 12 | page as u64)), "a word has changed")?;
            moved += device.counts()?.moved;
            if random.below(2) == 0 {
                drop((device, map))
            } else {
                drop((map, device))
            }
            must(child.wait() == End::Exit(0), "a child saw other words")?;
            wait_until("the module to be unloaded", || match errno(&sys::unload_module(crate::module::MODULE)) {
                0 => Ok(true),
                // The last close takes effect a moment later.
                libc::EAGAIN | libc::EBUSY => Ok(false),
                other => Err(std::io::Error::from_raw_os_error(other)),
            })?;
            let mut bytes = vec![0; SPLICED * sys::PAGE];
            pipe.read.read_exact(&mut bytes)?;
            for (page, bytes) in bytes.chunks_exact(sys::PAGE).enumerate() {
                let right = (round << 12 | page as u64).to_ne_bytes();
                let is_right = KNOWN.iter().all(|word| bytes[word * 8..].starts_with(&right));
                must(is_right, "a page in a pipe has changed after the unloading")?;
            }
            crate::module::load(false)?;
        }
        Ok(round << 32 | moved)
    })?;
    let moved = rounds & 0xffff_ffff;
    check(moved > 0, || "nothing moved meanwhile".to_owned())?;
    Ok(format!("{} rounds, {compactions} compactions, {moved} moves", rounds >> 32))
}
