//! One page for all: mappings and the driver see the same words while the kernel moves the page.
//!
//! Compares only words, not frames or what the kernel reports about moves. If a copy is made while someone still writes
//! to the old frame, only one side sees those writes.

use std::error::Error;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use pagemove_sample::uapi::WATCHED;

use crate::machine::{compact, is_configured};
use crate::sys::{self, End, Map, PAGE, SHARED};
use crate::verdict::{Outcome, check};
use crate::work::Scene;

/// Words that a child increments, one in each half of a page.
const COUNTED_WORDS: [usize; 2] = [5, 305];
/// Their first value: higher than counting from 0 can reach, so a word lost before its first comparison also shows.
const FIRST_VALUE: u64 = 1 << 32;
/// A word that the driver writes and a mapping reads, and one for the reverse.
const DRIVER_WORD: usize = 6;
const MAPPING_WORD: usize = 306;

/// Watched pages to soft-offline, if the kernel can: each costs a frame for ever.
const OFFLINED: usize = 16;

pub(crate) fn one_page_for_all() -> Outcome {
    let scene = Scene::worn(20_000, 4, 31)?;
    scene.kept.iter().for_each(|&page| COUNTED_WORDS.iter().for_each(|&word| scene.map.store(page, word, FIRST_VALUE)));
    let moved_before = scene.device.counts()?.moved;
    let stop = Map::new(None, 0, 1, SHARED)?;
    let child = sys::fork(|| {
        sys::yield_to_others();
        while stop.load(0, 0) == 0 {
            for &page in &scene.kept {
                COUNTED_WORDS.iter().for_each(|&word| scene.map.store(page, word, scene.map.load(page, word) + 1));
            }
        }
        0
    })?;
    let done = AtomicBool::new(false);
    let (asked, compared) = std::thread::scope(|scope| {
        let compared = scope.spawn(|| compare_until(&done, &scene).map_err(|error| error.to_string()));
        let asked = request_moves(&scene);
        done.store(true, Ordering::Relaxed);
        (asked, compared.join())
    });
    stop.store(0, 0, 1);
    let end = child.wait();
    let passes = compared.map_err(|_| "the comparing thread panicked")??;
    asked?;
    check(end == End::Exit(0), || format!("the counting child ended by {end:?}"))?;
    let (kept, moved) = (scene.kept.len() as u64, scene.device.counts()?.moved - moved_before);
    check(moved * 4 > kept, || format!("only {moved} moves of {kept} pages"))?;
    Ok(format!("{passes} times the same words of {kept} pages, in {moved} moves"))
}

/// Makes the kernel move pages: by compaction, and some by physical address.
fn request_moves(scene: &Scene) -> Result<(), Box<dyn Error>> {
    (0..3).try_for_each(|_| compact())?;
    if is_configured("CONFIG_MEMORY_FAILURE")? {
        for &page in scene.kept.iter().filter(|&&page| page < WATCHED).take(OFFLINED) {
            scene.device.watch(page as u64)?;
            let address = scene.device.look(page as u64)? * PAGE as u64;
            // Fails on a passing reference.
            let _ = fs::write("/sys/devices/system/memory/soft_offline_page", format!("{address:#x}"));
        }
    }
    Ok(())
}

/// Compares all pages until `done`, and once more after the last move; gives the number of passes.
fn compare_until(done: &AtomicBool, scene: &Scene) -> Result<u64, Box<dyn Error>> {
    let mut last = vec![[FIRST_VALUE; COUNTED_WORDS.len()]; scene.map.pages()];
    for pass in 1.. {
        let is_last = done.load(Ordering::Relaxed);
        for &page in &scene.kept {
            compare(scene, page, pass, &mut last[page]).map_err(|error| format!("page {page}: {error}"))?;
        }
        if is_last {
            return Ok(pass);
        }
    }
    Err("it never ended".into())
}

fn compare(scene: &Scene, page: usize, pass: u64, last: &mut [u64]) -> Result<(), Box<dyn Error>> {
    let (device, map, index) = (&scene.device, &scene.map, page as u64);
    for (last, word) in last.iter_mut().zip(COUNTED_WORDS) {
        let (before, drivers) = (map.load(page, word), device.read_word(index, word as u64)?);
        let after = map.load(page, word);
        // The word only grows.
        let is_one = *last <= before && before <= drivers && drivers <= after;
        check(is_one, || {
            format!("word {word} was {last}; then a mapping has {before}, the driver {drivers}, a mapping {after}")
        })?;
        *last = after;
    }
    device.write_word(index, DRIVER_WORD as u64, pass)?;
    map.store(page, MAPPING_WORD, pass);
    let (mappings, drivers) = (map.load(page, DRIVER_WORD), device.read_word(index, MAPPING_WORD as u64)?);
    check(mappings == pass && drivers == pass, || {
        format!("{pass} was written by both sides; a mapping has {mappings}, the driver {drivers}")
    })
}
