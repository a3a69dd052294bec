//! The cost of a driver's pages compared with ordinary ones: moves and first accesses.
//!
//! Takes numbers of pages and rounds; gives the time per page of each round, for both sides. Both sides take turns in
//! one boot, on one CPU, in one thread, with 4 KiB pages. The work is checked: each page is on the node it was sent to,
//! with its contents.

use std::io::{Error, Result};
use std::os::fd::AsFd;
use std::time::Instant;

use crate::console::tell;
use crate::device::Device;
use crate::machine::move_only_when_asked;
use crate::sys::{self, Map, SHARED};

/// The times of both sides, in ns per page, one pair for each round.
#[derive(Default)]
struct Times {
    driver: Vec<u64>,
    beside: Vec<u64>,
}

impl Times {
    /// Times both sides `rounds` times; the order alternates.
    fn take(
        rounds: usize,
        driver: impl Fn(usize) -> Result<u64>,
        beside: impl Fn(usize) -> Result<u64>,
    ) -> Result<Self> {
        let mut times = Self::default();
        for round in 0..rounds {
            if round.is_multiple_of(2) {
                times.driver.push(driver(round)?);
                times.beside.push(beside(round)?);
            } else {
                times.beside.push(beside(round)?);
                times.driver.push(driver(round)?);
            }
        }
        Ok(times)
    }

    fn tell(&self, what: &str) {
        tell(&format!("{{\"bench\":{what:?},\"driver\":{:?},\"beside\":{:?}}}", self.driver, self.beside));
    }
}

/// Runs all benches, and prints the times.
pub(crate) fn run(pages: usize, rounds: usize) -> Result<()> {
    sys::stay_on_processor(0)?;
    move_only_when_asked()?;
    moves(pages, rounds)?.tell("move");
    let store = |map: &Map, page| map.store(page, 0, 1);
    let load = |map: &Map, page| _ = map.load(page, 0);
    faults(pages, rounds, false, store)?.tell("fault-store");
    faults(pages, rounds, false, load)?.tell("fault-load");
    faults(pages, rounds, true, load)?.tell("load-present");
    Ok(())
}

/// `move_pages` of the driver's pages, and of anonymous pages.
fn moves(pages: usize, rounds: usize) -> Result<Times> {
    let device = Device::open(pages as u64)?;
    let (driver, beside) = (device.map(0, pages, SHARED)?, Map::new(None, 0, pages, sys::PRIVATE)?);
    beside.advise(0, pages, libc::MADV_NOHUGEPAGE)?;
    let all: Vec<usize> = (0..pages).collect();
    for &page in &all {
        driver.store(page, 0, page as u64);
        beside.store(page, 0, page as u64);
    }
    // One untimed move, so that each round moves all pages.
    send(&driver, &all, 1)?;
    send(&beside, &all, 1)?;
    let node = |round| (round % 2) as i32;
    let times =
        Times::take(rounds, |round| send(&driver, &all, node(round)), |round| send(&beside, &all, node(round)))?;
    let is_wrong = |map: &Map| all.iter().any(|&page| map.load(page, 0) != page as u64);
    if is_wrong(&driver) || is_wrong(&beside) {
        return Err(Error::other("words are wrong after the moves"));
    }
    let moved = device.counts()?.moved;
    if moved < (pages * rounds) as u64 {
        return Err(Error::other(format!("the driver has seen {moved} moves of {}", pages * rounds)));
    }
    Ok(times)
}

/// Moves pages to a node; gives the time per page in ns.
fn send(map: &Map, pages: &[usize], node: i32) -> Result<u64> {
    let started = Instant::now();
    let nodes = sys::move_pages(map, pages, node)?;
    let took = per_page(started, pages.len());
    match nodes.iter().find(|&&at| at != node) {
        None => Ok(took),
        Some(at) => Err(Error::other(format!("a page sent to node {node} has the status {at}"))),
    }
}

/// Accesses through a new mapping of the driver's pages, and of a memfd. The pages are new too, or `present` before.
fn faults(pages: usize, rounds: usize, present: bool, touch: impl Fn(&Map, usize)) -> Result<Times> {
    let touch_all = |map: Map| {
        let started = Instant::now();
        (0..pages).for_each(|page| touch(&map, page));
        per_page(started, pages)
    };
    let put_in = |map: Map| (0..pages).for_each(|page| map.store(page, 0, 1));
    let driver = |_| {
        let device = Device::open(pages as u64)?;
        if present {
            put_in(device.map(0, pages, SHARED)?);
        }
        let took = touch_all(device.map(0, pages, SHARED)?);
        match device.counts()?.pages {
            made if made == pages as u64 => Ok(took),
            made => Err(Error::other(format!("accesses to {pages} pages allocated {made}"))),
        }
    };
    let beside = |_| {
        let file = sys::memory_file(pages)?;
        let map = || Map::new(Some(file.as_fd()), 0, pages, SHARED);
        if present {
            put_in(map()?);
        }
        Ok(touch_all(map()?))
    };
    Times::take(rounds, driver, beside)
}

fn per_page(started: Instant, pages: usize) -> u64 {
    started.elapsed().as_nanos() as u64 / pages as u64
}
