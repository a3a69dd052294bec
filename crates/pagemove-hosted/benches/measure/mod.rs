//! What the benches share: a machine, medians, and a table with a reference beside each figure.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each bench uses its part")]

pub mod linux_zram;

use std::{sync::Arc, time::Instant};

use comfy_table::{CellAlignment, Table, presets};
use pagemove::{
    Engine,
    frame::Kind,
    port::Contents,
    units::{FrameRange, Order, Pfn},
    zone,
};
use pagemove_hosted::{Config, Hosted, TlbKind};

/// Boots a machine with one zone.
pub fn boot(frames: u32, cpus: usize, contents: Contents) -> (Arc<Hosted>, Arc<Engine>) {
    let machine = Hosted::new(Config { frames, cpus, tlb: TlbKind::Soft, contents }).expect("the host has the memory");
    let zones = vec![FrameRange::new(Pfn::new(0), frames).expect("frame numbers suffice")];
    let pageblock_order = Order::new(9).expect("an order");
    let engine = Engine::boot(machine.clone(), &zone::Config::new(zones, pageblock_order)).expect("a valid layout");
    if contents == Contents::All {
        // Now, since the host gives a page of RAM at its first use only: that would be measured instead.
        let all = std::iter::from_fn(|| engine.physical().alloc(Order::ZERO, Kind::Kernel).ok());
        drop(
            all.map(|mut folio| {
                folio.zero();
                folio
            })
            .collect::<Vec<_>>(),
        );
    }
    (machine, engine)
}

/// Copies a frame's contents by `memcpy`: the reference.
#[allow(unsafe_code, reason = "the reference is beside the engine")]
pub fn memcpy(engine: &Engine, from: Pfn, to: Pfn) {
    let ram = engine.physical().ram();
    if ram.contents() == Contents::TablesOnly {
        return;
    }
    // SAFETY: the benches are alone in their machine: nobody uses either frame meanwhile, or frees the machine.
    unsafe { std::ptr::copy_nonoverlapping(ram.words(from).as_ptr(), ram.words(to).as_ptr().cast_mut(), 512) }
}

/// Runs `work` and gives what it gives, with the nanoseconds it took.
pub fn timed<R>(work: impl FnOnce() -> R) -> (R, f64) {
    let start = Instant::now();
    let result = work();
    (result, start.elapsed().as_nanos() as f64)
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Prints a table under a title; the first row is the head.
pub fn print(title: &str, rows: &[Vec<String>]) {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY).set_header(&rows[0]);
    table.add_rows(&rows[1..]);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("\n{title}\n{table}");
}
