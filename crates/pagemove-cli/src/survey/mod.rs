//! `pagemove survey`: what physical memory holds, and what keeps its pageblocks from becoming free.
//!
//! Takes a layout (by default this machine's), prints tables and a picture, or one JSON object. Promises that stdout
//! holds the result and nothing else; progress, notes and errors go to stderr.

mod args;
mod doubts;
mod error;
mod metrics;
mod page;
mod planned;
mod text;
mod view;

#[cfg(test)]
mod dashboard_tests;
#[cfg(test)]
mod schema_tests;

use std::{
    fs,
    io::{self, IsTerminal},
    path::Path,
    time::{Duration, Instant},
};

use serde::Serialize;

pub(crate) use self::args::SurveyArgs;
use self::{error::SurveyError, view::View};
use crate::{
    bar::behind_a_bar,
    cancel::Stop,
    diff::{Diff, describe},
    html,
    kernel::{
        counters::{self, Vmstat},
        free, types,
    },
    layout::{
        Layout, LayoutError, LayoutSource, Sizes, SourceError,
        capture::CaptureError,
        memory_blocks, plan,
        settle::{restore_left, settle},
    },
    message::{print, say},
    numbers::thousands,
    owners::{
        explain::explain,
        names::{Names, named},
        pinners, range, sums,
    },
    terminal,
    whole_file::write_whole,
    why,
};

/// Where Linux is told to compact.
const COMPACT: &str = "/proc/sys/vm/compact_memory";

/// Runs the command; gives false if fewer blocks are free than were asked for.
pub(crate) fn run(args: &SurveyArgs) -> Result<bool, SurveyError> {
    let stop = Stop::on_signals().map_err(SurveyError::Signals)?;
    let is_live = args.layout == LayoutSource::Live;
    if args.tries && !is_live {
        return Err(SurveyError::TryLive);
    }
    if let Some(dir) = &args.report {
        html::writable(dir)?;
    }
    if is_live {
        restore_left();
    }
    if let Some(seconds) = args.why {
        why::run(seconds, is_live, args.json, &stop)?;
        return Ok(true);
    }
    let mut settled = None;
    if args.settle && !is_live {
        say("--settle is of use with --layout live only.");
    } else if args.settle {
        let lists = settled.insert(settle(&stop)?);
        let (before, after) = (thousands(lists.before), thousands(lists.after));
        say(&format!("Per-CPU free lists: {after} frames, {before} before trimming."));
    }
    let opened = behind_a_bar("Reading the frame table", |progress| args.layout.open(&stop, progress));
    let (mut layout, check) = match opened {
        Err(SourceError::Live(error @ (CaptureError::Permission(_) | CaptureError::Missing(_)))) if args.is_plain() => {
            return without_frames(&error);
        }
        opened => opened?,
    };
    let is_settled = settled.take().is_some();
    if let Some(blocks) = args.blocks {
        layout = layout.scale(blocks)?;
    }
    // Scaled, a layout has other PFNs than the machine.
    let is_whole = is_live && args.blocks.is_none();
    if let Some(note) = &args.note {
        layout = layout.with_source(note.clone())?;
    }
    let (layout, names) = behind_a_bar("Asking who holds them", |progress| named(layout, is_whole, &stop, progress))?;
    if let Some(path) = &args.save {
        layout.save(path)?;
        say(&format!(
            "Saved {} pageblocks to {}.",
            thousands(layout.block_groups().map(|group| group.count).sum()),
            path.display()
        ));
    }
    if args.tries {
        return compact_and_compare(&layout, args, &stop);
    }
    if let Some(text) = answer(args, &layout, &names, is_whole)? {
        print(&text)?;
        return Ok(true);
    }
    let mut view = View::of(&layout, &names);
    if is_whole {
        let counts = counters::vmstat();
        view.check = check;
        view.is_settled = is_settled;
        view.lacks_page_owner = names.allocated.is_none();
        view.sums = sums::read(&counts, layout.sizes().frame_bytes);
        view.pins = counters::pins(&counts);
        view.pinners = pinners::find(&stop)?;
        view.counters = counters::read(&counts);
        view.free_blocks = free::read(layout.pageblock_order());
        view.types = types::read();
    }
    if let Some(path) = &args.textfile {
        let metrics = metrics::textfile(&view);
        write_whole(path, |file| file.write_all(metrics.as_bytes()))
            .map_err(|error| LayoutError::Unwritable { path: path.clone(), error })?;
    }
    if let Some(dir) = &args.report {
        let path = html::write(&page::page(&view), dir, "survey.html")?;
        say(&format!("Report: {}", path.display()));
    }
    print(&if args.openmetrics {
        metrics::openmetrics(&view)
    } else if args.json {
        json(&view.json())?
    } else {
        text::describe(&view, !terminal::is_utf8())
    })?;
    if args.stacks {
        print(&text::stacks(&view, !terminal::is_utf8()))?;
    }
    Ok(args.threshold.is_none_or(|least| view.census.total.blocks.free >= least))
}

/// Answers a question about the layout; `None` if there is none, and all is to be told.
fn answer(args: &SurveyArgs, layout: &Layout, names: &Names, is_whole: bool) -> Result<Option<String>, SurveyError> {
    let ascii = !terminal::is_utf8();
    Ok(Some(if let Some(frame) = args.explain {
        let text = explain(layout, names, frame).ok_or(SurveyError::NoBlock(frame.0))?;
        terminal::shown(text, ascii)
    } else if let Some(range) = args.range {
        let frame_bytes = layout.sizes().frame_bytes;
        let memory_block = if is_whole { memory_blocks::frames(Path::new("/sys"), frame_bytes) } else { None };
        let rows = range::rows(layout, names, range, memory_block).ok_or(SurveyError::NoMemoryBlocks)?;
        if rows.is_empty() && range.is_a_place() {
            return Err(SurveyError::NoBlocks);
        }
        if args.json { json(&rows)? } else { range::describe(&rows, io::stdout().is_terminal(), ascii) }
    } else if args.plan {
        let plans = plan::plan(layout);
        if args.json { json(&plans)? } else { planned::describe(&plans, layout.sizes(), ascii) }
    } else {
        return Ok(None);
    }))
}

fn json(value: &impl Serialize) -> Result<String, SurveyError> {
    Ok(serde_json::to_string_pretty(value).map_err(io::Error::from)? + "\n")
}

/// Has Linux compact memory, and tells what changed.
fn compact_and_compare(before: &Layout, args: &SurveyArgs, stop: &Stop) -> Result<bool, SurveyError> {
    say("Linux compacts all memory; this can take minutes.");
    let (start, counted) = (Instant::now(), counters::vmstat());
    fs::write(COMPACT, "1").map_err(SurveyError::Compact)?;
    let (took, counts) = (start.elapsed(), counters::vmstat());
    stop.check()?;
    let settled = if args.settle { Some(settle(stop)?) } else { None };
    let (after, _) = behind_a_bar("Reading the frame table", |progress| args.layout.open(stop, progress))?;
    drop(settled);
    let (after, _) = behind_a_bar("Asking who holds them", |progress| named(after, true, stop, progress))?;
    let diff = Diff::of(before, &after)?;
    print(&describe(&diff, ["as it was", "compacted"].map(str::to_owned), !terminal::is_utf8()))?;
    print(&moved(&counted, &counts, took))?;
    Ok(true)
}

/// Says how many pages Linux moved in that time, by its own counters: also those that others asked for.
fn moved(before: &Vmstat, after: &Vmstat, took: Duration) -> String {
    let more = |field| {
        let count = |counts: &Vmstat| counts.get(field).copied().unwrap_or(0);
        count(after).saturating_sub(count(before)).max(0) as u64
    };
    let (moved, failed) = (more("pgmigrate_success"), more("pgmigrate_fail"));
    let rate = if took.is_zero() { 0 } else { (moved as f64 / took.as_secs_f64()) as u64 };
    format!(
        "Linux moved {} pages in {:.2} s, {} a second; {} couldn't be moved (pgmigrate_success, pgmigrate_fail).\n",
        thousands(moved),
        took.as_secs_f64(),
        thousands(rate),
        thousands(failed),
    )
}

/// Tells what anybody may know of this machine.
fn without_frames(error: &CaptureError) -> Result<bool, SurveyError> {
    let sizes = Sizes::of_this_machine();
    let text = free::describe(&free::read(sizes.pageblock_order), sizes.frame_bytes, !terminal::is_utf8());
    print(&text)?;
    let more = match error {
        CaptureError::Permission(_) => "As root, survey also tells",
        _ => "A kernel that has it also lets survey tell",
    };
    say(&format!("This is what anybody may read: {error}.\n{more} what is in each block, and who holds it."));
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_tells_what_it_moved() {
        let counts = |moved, failed| {
            Vmstat::from([("pgmigrate_success".to_owned(), moved), ("pgmigrate_fail".to_owned(), failed)])
        };
        let text = moved(&counts(10, 5), &counts(2010, 4), Duration::from_millis(500));
        assert_eq!(
            text.split(" (").next(),
            Some("Linux moved 2,000 pages in 0.50 s, 4,000 a second; 0 couldn't be moved")
        );
        assert!(moved(&Vmstat::new(), &Vmstat::new(), Duration::ZERO).contains("moved 0 pages"));
    }
}
