//! `pagemove run`: rebuilds a layout of memory in the engine, wears it out, and compacts it under each policy while
//! writers write to it.
//!
//! Takes arguments; prints a table or one JSON object on stdout, and writes an HTML report. Promises that every policy
//! starts from the same state, that every word of every page is checked, and that a run that is stopped or fails leaves
//! nothing behind. Progress and messages go to stderr.
//!
//! The modules, in the order in which a run goes through them: [`args`] and [`memory`]; [`source`] opens the layout;
//! [`world`] makes the machine, with processes on a [`host`], whose [`region`]s hold [`words`]; [`rebuild`] and [`load`] fill it; [`policy`] compacts
//! it under the eyes of [`writers`], and takes [`pictures`]; [`throughput`] is measured apart.
//! [`progress`] and [`watchdog`] go along, [`damage`] tells of wrong words at once, [`error`] says why a run ended.

pub(crate) mod args;
mod compressed;
mod compressed_user;
mod damage;
pub(crate) mod error;
pub(crate) mod events;
pub(crate) mod host;
pub(crate) mod load;
pub(crate) mod memory;
mod pictures;
mod policy;
pub(crate) mod progress;
mod rebuild;
pub(crate) mod region;
mod source;
#[cfg(test)]
mod tests;
mod throughput;
pub(crate) mod watchdog;
pub(crate) mod words;
pub(crate) mod world;
pub(crate) mod writers;

use std::{io, num::NonZeroUsize};

use pagemove::{
    port::Contents,
    units::{Order, PAGE_SIZE},
};
use pagemove_hosted::{Config, Hosted};

use self::{
    args::RunArgs, damage::Damage, error::RunError, memory::Memory, policy::Common, progress::Progress, world::Shape,
};
use crate::{
    cancel::Stop,
    html,
    layout::{Layout, LayoutSource},
    message::{print, say},
    report,
    results::{LayoutInfo, Results},
    table, terminal,
};

/// Runs the command; gives false if a check failed.
pub(crate) fn run(args: &RunArgs) -> Result<bool, RunError> {
    let stop = Stop::on_signals().map_err(RunError::Signals)?;
    html::writable(&args.report)?;
    let seed = args.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let damage = Damage::none(seed);
    damage.verdict(run_all(args, seed, &stop, &damage))
}

/// Runs all policies, and tells what they came to.
fn run_all(args: &RunArgs, seed: u64, stop: &Stop, damage: &Damage) -> Result<(), RunError> {
    let memory = args.memory.unwrap_or_else(Memory::by_default);
    probe(args, memory)?;
    let progress = Progress::new(args.quiet);
    progress.subject("memory of this machine".into());
    let (source, layout) = source::open(args, &progress, stop)?;
    stop.check()?;
    let layout = scaled(&layout, memory)?;
    progress.say(&format!("Layout: {source} ({}), scaled to {memory}.", layout.source()));
    let again = args.again(seed, &source, memory);
    progress.say(&format!("Seed: {seed}."));

    let shape = Shape {
        // `scaled` keeps below 2^32.
        frames: layout.frames() as u32,
        pageblock_order: Order::new(layout.pageblock_order()).unwrap_or(Order::ZERO),
        writers: args.writers(),
        tlb: args.tlb.kind(),
    };
    let mut results = Results {
        seed,
        layout: LayoutInfo {
            source: source.to_string(),
            frames: layout.frames(),
            pageblock_order: layout.pageblock_order(),
        },
        policies: Vec::new(),
        throughput: Default::default(),
        again: again.clone(),
    };
    let common = Common { seed, layout: &layout, shape, stop, progress: &progress, damage };
    let policies = args.policies();
    for (number, &policy) in policies.iter().enumerate() {
        progress.subject(format!("{} ({} of {})", policy.name(), number + 1, policies.len()));
        let before = results.policies.last().map(|result| result.before.as_slice());
        let result = policy::run(&common, policy, before)?;
        results.policies.push(result);
    }
    progress.subject("throughput".into());
    progress.stage("moving pages, and copying the same frames");
    results.throughput = throughput::measure(seed, stop)?;
    stop.check()?;
    drop(progress);
    finish(&results, args, &again)
}

/// Writes the report, prints the results, and says where the report is and how to repeat the run.
fn finish(results: &Results, args: &RunArgs, again: &str) -> Result<(), RunError> {
    let page = report::write(results, &args.report)?;
    let mut text = Vec::new();
    let made = if args.json {
        serde_json::to_writer_pretty(&mut text, results).map_err(io::Error::from).map(|()| text.push(b'\n'))
    } else if args.quiet {
        Ok(())
    } else {
        table::print(results, &mut text)
    };
    let text = String::from_utf8_lossy(&text);
    // JSON is UTF-8 anywhere.
    let text = terminal::shown(text.into_owned(), !args.json && !terminal::is_utf8());
    made.and_then(|()| print(&text)).map_err(RunError::Print)?;
    say(&format!("Report: {}\nTo repeat: {again}", page.display()));
    if results.layout.source == LayoutSource::Live.to_string() {
        say("(This machine's layout changes all the time; `pagemove survey --save FILE` keeps one for --layout FILE.)");
    }
    Ok(())
}

/// Scales the layout to the memory, block by block.
fn scaled(layout: &Layout, memory: Memory) -> Result<Layout, RunError> {
    let order = Order::new(layout.pageblock_order());
    if layout.sizes().frame_bytes != PAGE_SIZE as u64 || order.is_none() {
        return Err(RunError::OtherSizes(layout.sizes()));
    }
    let block = layout.block_bytes();
    if !memory.bytes().is_multiple_of(block) {
        return Err(RunError::NotWholeBlocks { block_kib: block >> 10 });
    }
    let blocks = usize::try_from(memory.bytes() / block).ok().and_then(NonZeroUsize::new);
    let blocks = blocks.ok_or(RunError::NotWholeBlocks { block_kib: block >> 10 })?;
    Ok(layout.scale(blocks)?)
}

/// Makes a machine and drops it, so that what can't be had is said before any work. Its RAM is never touched.
fn probe(args: &RunArgs, memory: Memory) -> Result<(), RunError> {
    memory.check()?;
    let frames = (memory.bytes() / PAGE_SIZE as u64) as u32;
    Hosted::new(Config { frames, cpus: args.writers() + 1, tlb: args.tlb.kind(), contents: Contents::All })?;
    Ok(())
}
