//! The main test: fragmented memory full of driver pages, compacted while processes write to them.
//!
//! Faults in a number of pages, frees a random half, pins some, and compacts while `work` runs. Gives what moved and
//! what was lost.

use std::io::Result;

use pagemove_sample::uapi;

use crate::machine::{compact, free_order9};
use crate::sys::Pipe;
use crate::work::Scene;

/// The number of pages pinned by `vmsplice`, besides the kit's pins.
const SPLICED: usize = 32;

/// The result.
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

/// Compacts all memory `rounds` times.
pub(crate) fn run(pages: usize, seed: u64, rounds: usize) -> Result<Outcome> {
    let scene = Scene::worn(pages, 2, seed)?;
    // Half of them by the kit, half by `vmsplice`.
    let pipe = Pipe::new(64)?;
    let step = scene.kept.len() / (uapi::MOST_PINS + SPLICED);
    let pinned: Vec<usize> = (0..uapi::MOST_PINS + SPLICED).map(|at| at * step).collect();
    for (at, &kept) in pinned.iter().enumerate() {
        let page = scene.kept[kept];
        if at % 2 == 0 {
            scene.device.pin(page as u64, "movement").map(drop)?;
        } else {
            scene.map.vmsplice(page, &pipe)?;
        }
    }
    let free_before = free_order9()?;
    let (free_after, report) = scene.during(seed, || -> Result<u64> {
        (0..rounds).try_for_each(|_| compact())?;
        free_order9()
    })?;
    Ok(Outcome {
        kept: scene.kept.len() as u64,
        moved: report.moved,
        pinned: pinned.len() as u64,
        pinned_moved: pinned.iter().filter(|&&kept| report.before[kept] != report.after[kept]).count() as u64,
        lost_writes: report.lost_writes,
        bad_words: report.bad_words,
        writes: report.writes,
        free_before,
        free_after,
    })
}
