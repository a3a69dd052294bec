//! Small models of the core's protocols, on the code itself, explored by loom: all histories of a few threads, with all
//! results that weak orderings allow. `cargo xtask models` runs them; `docs/orderings.md` names the model for each
//! edge.
//!
//! A model prints its number of executions, and its bound if it has one: histories with more preemptions were not
//! tried.

extern crate std;

mod debt;
mod frame;
mod lists;
mod machine;
mod moves;
mod owners;
mod report;
mod tables;

use std::{
    println,
    sync::atomic::{AtomicU64, Ordering},
};

/// Explores `model` completely.
fn all(name: &str, model: impl Fn() + Send + Sync + 'static) {
    explore(name, None, model);
}

/// Explores histories of up to `preemptions` preemptions, or fewer if `PAGEMOVE_PREEMPTIONS` says so.
fn within(preemptions: usize, name: &str, model: impl Fn() + Send + Sync + 'static) {
    let most = std::env::var("PAGEMOVE_PREEMPTIONS").map_or(preemptions, |text| text.parse().expect("a number"));
    explore(name, Some(preemptions.min(most)), model);
}

fn explore(name: &str, preemptions: Option<usize>, model: impl Fn() + Send + Sync + 'static) {
    let executions = std::sync::Arc::new(AtomicU64::new(0));
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.max_branches = 100_000;
    let counter = executions.clone();
    builder.check(move || {
        counter.fetch_add(1, Ordering::Relaxed);
        model();
    });
    let extent = preemptions.map_or("all".into(), |bound| std::format!("up to {bound} preemptions"));
    println!("model {name}: {} executions, {extent}", executions.load(Ordering::Relaxed));
}
