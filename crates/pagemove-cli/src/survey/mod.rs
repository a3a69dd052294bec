//! `pagemove survey`: what physical memory holds, and what keeps its pageblocks from becoming free.
//!
//! Takes a layout (by default this machine's), prints tables and a picture, or one JSON object. Promises that stdout
//! holds the result and nothing else; progress, notes and errors go to stderr.

mod free;
mod metrics;
mod text;
mod view;

#[cfg(test)]
mod dashboard_tests;
#[cfg(test)]
mod schema_tests;

use std::{
    fs, io,
    num::NonZeroUsize,
    path::PathBuf,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

use self::view::View;
use crate::{
    cancel::{STOPPED, Stop, Stopped},
    diff::{Diff, DiffError, describe},
    layout::{
        Layout, LayoutError, LayoutSource, Sizes, SourceError,
        capture::CaptureError,
        file::write_whole,
        settle::{SettleError, restore_left, settle},
        tables::grouped,
    },
    message::{print, say},
    owners::{
        explain::{FrameNumber, explain},
        mapped::Mapped,
        sums,
    },
    terminal,
};

/// Where Linux is told to compact.
const COMPACT: &str = "/proc/sys/vm/compact_memory";
/// A bar that is gone at once says nothing.
const QUIET: Duration = Duration::from_secs(1);

/// Shows what physical memory holds, and which pages hold its blocks hostage.
#[derive(Debug, clap::Args)]
pub(crate) struct SurveyArgs {
    /// What to look at: this machine (without root only its free blocks by order), the sample that ships with the command, or a layout file.
    #[arg(long, value_name = "live|sample|FILE", default_value_t = LayoutSource::Live)]
    layout: LayoutSource,
    /// Keeps this many pageblocks, evenly spread; more than there are repeat the pattern.
    #[arg(long, value_name = "N")]
    blocks: Option<NonZeroUsize>,
    /// Saves the layout.
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Says in the saved file where the layout comes from.
    #[arg(long, value_name = "TEXT", requires = "save")]
    note: Option<String>,
    /// Has Linux trim its per-CPU free lists first (a sysctl, set back afterwards): frames there look like the
    /// kernel's own.
    #[arg(long)]
    settle: bool,
    /// Tells all about the pageblock of this PFN (decimal, or 0x and hexadecimal).
    #[arg(long, value_name = "PFN", conflicts_with_all = ["json", "textfile", "threshold"])]
    explain: Option<FrameNumber>,
    /// Has Linux compact all memory (vm.compact_memory), and tells what came of it: which blocks that could be emptied were.
    #[arg(long = "try", conflicts_with_all = ["json", "explain", "openmetrics", "textfile", "save", "blocks", "threshold"])]
    tries: bool,
    /// Prints one JSON object.
    #[arg(long)]
    json: bool,
    /// Prints metrics in the OpenMetrics format.
    #[arg(long, conflicts_with_all = ["json", "explain"])]
    openmetrics: bool,
    /// Also writes the metrics to this file, whole or not at all, for node_exporter's textfile collector.
    #[arg(long, value_name = "FILE")]
    textfile: Option<PathBuf>,
    /// Exits with 1 if fewer blocks than this are wholly free.
    #[arg(long, value_name = "BLOCKS")]
    threshold: Option<u64>,
}

impl SurveyArgs {
    /// Nothing is asked for that takes the frames' classes.
    fn is_plain(&self) -> bool {
        let is_text = !self.json && !self.openmetrics && self.explain.is_none() && self.textfile.is_none();
        is_text && !self.tries && self.save.is_none() && self.blocks.is_none() && self.threshold.is_none()
    }
}

/// Why there is no survey.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SurveyError {
    /// There is no layout to look at.
    #[error("{0}{advice}", advice = advice(.0))]
    Source(SourceError),
    /// The layout can't be scaled or saved.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The per-CPU lists can't be trimmed.
    #[error("can't trim the per-CPU free lists: {0}; leave out --settle, or run as root")]
    Settle(SettleError),
    /// A signal.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// There is no such block.
    #[error("PFN {0:#x} is in no pageblock of this layout")]
    NoBlock(u64),
    /// Linux doesn't compact.
    #[error("can't have Linux compact memory: {COMPACT}: {0}; it takes root")]
    Compact(io::Error),
    /// Only this machine can be compacted.
    #[error("--try is of use with --layout live only")]
    TryLive,
    /// The machine has changed while it was looked at.
    #[error(transparent)]
    Diff(#[from] DiffError),
    /// Signals can't be caught.
    #[error("can't catch Ctrl-C: {0}")]
    Signals(io::Error),
    /// Stdout is gone.
    #[error("can't print: {0}")]
    Print(#[from] io::Error),
}

impl SurveyError {
    /// Gives the code to exit with: a survey checks nothing, so what fails is the input or the machine.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Stopped(Stopped) => STOPPED,
            _ => 2,
        }
    }
}

impl From<SourceError> for SurveyError {
    fn from(error: SourceError) -> Self {
        match error {
            SourceError::Stopped(stopped) => Self::Stopped(stopped),
            error => Self::Source(error),
        }
    }
}

impl From<SettleError> for SurveyError {
    fn from(error: SettleError) -> Self {
        match error {
            SettleError::Stopped(stopped) => Self::Stopped(stopped),
            error => Self::Settle(error),
        }
    }
}

/// Says what a user can do about it.
fn advice(error: &SourceError) -> &'static str {
    match error {
        SourceError::Live(CaptureError::Permission(_)) => {
            "\nRun it as root (sudo pagemove survey), or look at the sample: pagemove survey --layout sample"
        }
        SourceError::Live(CaptureError::Missing(_)) => "\nLook at the sample: pagemove survey --layout sample",
        _ => "",
    }
}

/// Runs the command; gives false if fewer blocks are free than were asked for.
pub(crate) fn run(args: &SurveyArgs) -> Result<bool, SurveyError> {
    let stop = Stop::on_signals().map_err(SurveyError::Signals)?;
    let is_live = args.layout == LayoutSource::Live;
    if args.tries && !is_live {
        return Err(SurveyError::TryLive);
    }
    if is_live {
        restore_left();
    }
    if args.settle && !is_live {
        say("--settle is of use with --layout live only.");
    } else if args.settle {
        let (before, after) = settle(&stop)?;
        say(&format!("Per-CPU free lists: {} frames, {} before trimming.", grouped(after), grouped(before)));
    }
    let opened = behind_a_bar("Reading the frame table", |progress| args.layout.open(&stop, progress));
    let (mut layout, check) = match opened {
        Err(SourceError::Live(error @ (CaptureError::Permission(_) | CaptureError::Missing(_)))) if args.is_plain() => {
            return without_frames(&error);
        }
        opened => opened?,
    };
    if let Some(blocks) = args.blocks {
        layout = layout.scale(blocks)?;
    }
    // Scaled, a layout has other PFNs than the machine.
    let is_whole = is_live && args.blocks.is_none();
    if let Some(note) = &args.note {
        layout = layout.with_source(note.clone())?;
    }
    if let Some(path) = &args.save {
        layout.save(path)?;
        say(&format!(
            "Saved {} pageblocks to {}.",
            grouped(layout.block_groups().map(|group| group.count).sum()),
            path.display()
        ));
    }

    if args.tries {
        return compact_and_compare(&layout, args, &stop);
    }
    let mapped = if is_whole {
        behind_a_bar("Reading what processes map", |progress| Mapped::find(&layout, &stop, progress))?
    } else {
        Mapped::default()
    };
    let mut is_enough = true;
    let text = if let Some(frame) = args.explain {
        let text = explain(&layout, &mapped, frame).ok_or(SurveyError::NoBlock(frame.0))?;
        if terminal::is_utf8() { text } else { terminal::to_ascii(&text) }
    } else {
        let mut view = View::of(&layout, &mapped);
        if is_whole {
            let counts = sums::vmstat();
            view.check = check;
            view.sums = sums::read(&counts, layout.sizes().frame_bytes);
            view.pins = sums::pins(&counts);
            view.counters = metrics::counters(&counts);
            view.free_blocks = free::read(layout.pageblock_order());
        }
        if let Some(path) = &args.textfile {
            let metrics = metrics::textfile(&view);
            write_whole(path, |file| file.write_all(metrics.as_bytes()))
                .map_err(|error| LayoutError::Unwritable { path: path.clone(), error })?;
        }
        is_enough = args.threshold.is_none_or(|least| view.census.total.blocks.free >= least);
        if args.openmetrics {
            metrics::openmetrics(&view)
        } else if args.json {
            serde_json::to_string_pretty(&view.json()).map_err(io::Error::from)? + "\n"
        } else {
            text::describe(&view, !terminal::is_utf8())
        }
    };
    print(&text)?;
    Ok(is_enough)
}

/// Has Linux compact memory, and tells what changed.
fn compact_and_compare(before: &Layout, args: &SurveyArgs, stop: &Stop) -> Result<bool, SurveyError> {
    say("Linux compacts all memory; this can take minutes.");
    fs::write(COMPACT, "1").map_err(SurveyError::Compact)?;
    stop.check()?;
    if args.settle {
        settle(stop)?;
    }
    let (after, _) = behind_a_bar("Reading the frame table", |progress| args.layout.open(stop, progress))?;
    let diff = Diff::of(before, &after)?;
    print(&describe(&diff, ["as it was", "compacted"].map(str::to_owned), !terminal::is_utf8()))?;
    Ok(true)
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

/// Does something behind a progress bar.
fn behind_a_bar<R>(what: &'static str, work: impl FnOnce(&mut dyn FnMut(u64, u64)) -> R) -> R {
    let (start, mut bar) = (Instant::now(), None::<ProgressBar>);
    let result = work(&mut |done, total| {
        if start.elapsed() < QUIET {
            return;
        }
        let bar = bar.get_or_insert_with(|| {
            let style = ProgressStyle::with_template("{msg} {wide_bar} {percent} %");
            let bar = ProgressBar::new(total).with_message(what);
            // The template is a constant; the plain bar would do as well.
            if let Ok(style) = style { bar.with_style(style) } else { bar }
        });
        bar.set_position(done);
    });
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cant_be_read_comes_with_advice() {
        let denied = SourceError::from(CaptureError::Permission("/proc/kpageflags".into()));
        let error = SurveyError::from(denied);
        let said = error.to_string();
        assert!(said.contains("/proc/kpageflags can be read by root only\nRun it as root"), "{said}");
        assert_eq!((error.exit_code(), SurveyError::from(LayoutError::NoZone).exit_code()), (2, 2));
    }
}
