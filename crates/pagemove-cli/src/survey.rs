//! `pagemove survey`: what physical memory holds, and what keeps its pageblocks from becoming free.
//!
//! Takes a layout (by default this machine's), prints tables and a picture, or one JSON object. Promises that stdout
//! holds the result and nothing else; progress, notes and errors go to stderr.

use std::{
    io::{self, Write},
    num::NonZeroUsize,
    path::PathBuf,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::{
    cancel::{STOPPED, Stop, Stopped},
    layout::{
        FrameClass, Layout, LayoutError, LayoutSource, SourceError,
        capture::{CaptureError, FreeCheck},
        census::{Census, Verdict},
        picture::Picture,
        settle::{SettleError, restore_left, settle},
        tables::{block_table, frame_tables, grouped, holder_table, mib},
    },
    terminal::{self, plain},
};

/// A bar that is gone at once says nothing.
const QUIET: Duration = Duration::from_secs(1);
/// Shows what physical memory holds, and which pages hold its blocks hostage.
#[derive(Debug, clap::Args)]
pub(crate) struct SurveyArgs {
    /// What to look at: this machine (root only), the sample that ships with the command, or a layout file.
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
    /// Prints one JSON object.
    #[arg(long)]
    json: bool,
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

/// What `--json` prints.
#[derive(Serialize)]
struct Survey<'a> {
    source: &'a str,
    pageblock_order: u8,
    frames: u64,
    free_check: Option<FreeCheck>,
    #[serde(flatten)]
    census: &'a Census,
}

/// Runs the command.
pub(crate) fn run(args: &SurveyArgs) -> Result<(), SurveyError> {
    let stop = Stop::on_signals().map_err(SurveyError::Signals)?;
    if args.layout == LayoutSource::Live {
        restore_left();
    }
    if args.settle && args.layout != LayoutSource::Live {
        eprintln!("--settle is of use with --layout live only.");
    } else if args.settle {
        let (before, after) = settle(&stop)?;
        eprintln!("Per-CPU free lists: {} frames, {} before trimming.", grouped(after), grouped(before));
    }
    let (mut layout, mut check) = open(&args.layout, &stop)?;
    if let Some(blocks) = args.blocks {
        layout = layout.scale(blocks)?;
        check = None;
    }
    if let Some(note) = &args.note {
        layout = layout.with_source(note.clone())?;
    }
    if let Some(path) = &args.save {
        layout.save(path)?;
        eprintln!("Saved {} pageblocks to {}.", grouped(layout.blocks().count() as u64), path.display());
    }

    let (mut picture, mut held) = (Picture::default(), Held::default());
    let census = Census::take(&layout, |frames, verdict| {
        picture.add(frames, verdict);
        if verdict == Verdict::Hostage {
            held.stay += frames.sum(|class| class.stays() && class != FrameClass::Absent);
            held.others += frames.sum(|class| !class.stays());
        }
    });
    let text = if args.json {
        let (source, pageblock_order) = (layout.source(), layout.pageblock_order());
        let survey = Survey { source, pageblock_order, frames: layout.frames(), free_check: check, census: &census };
        serde_json::to_string_pretty(&survey).map_err(io::Error::from)? + "\n"
    } else {
        let ascii = !terminal::is_utf8();
        describe(&layout, &census, &picture, held, check, ascii)
    };
    match io::stdout().lock().write_all(text.as_bytes()) {
        // `| head` has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

/// Opens the layout behind a progress bar.
fn open(source: &LayoutSource, stop: &Stop) -> Result<(Layout, Option<FreeCheck>), SourceError> {
    let (start, mut bar) = (Instant::now(), None::<ProgressBar>);
    let opened = source.open(stop, &mut |done, total| {
        if start.elapsed() < QUIET {
            return;
        }
        let bar = bar.get_or_insert_with(|| {
            let style = ProgressStyle::with_template("Reading the frame table {wide_bar} {percent} %");
            let bar = ProgressBar::new(total);
            // The template is a constant; the plain bar would do as well.
            if let Ok(style) = style { bar.with_style(style) } else { bar }
        });
        bar.set_position(done);
    });
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    opened
}

/// Frames in hostage blocks.
#[derive(Debug, Clone, Copy, Default)]
struct Held {
    /// Those that stay.
    stay: u64,
    /// Those that are free or could move.
    others: u64,
}

/// Writes the tables, the picture and what it comes to.
fn describe(
    layout: &Layout,
    census: &Census,
    picture: &Picture,
    held: Held,
    check: Option<FreeCheck>,
    ascii: bool,
) -> String {
    let block = layout.block_bytes();
    let block = if block < 1 << 20 { format!("{} KiB", block >> 10) } else { format!("{} MiB", block >> 20) };
    let blocks = &census.total.blocks;
    let mut text = format!("{}\n{} pageblocks of {block}\n", plain(layout.source()), grouped(blocks.total));
    for table in [frame_tables(census, ascii), vec![block_table(census, ascii)], holder_table(census, ascii)].concat() {
        text += &format!("\n{table}\n");
    }

    let per_char = picture.blocks_per_char() as u64;
    let each = if per_char == 1 { "one block".to_owned() } else { format!("{per_char} blocks") };
    text += &format!("\nBlocks by rising PFN, each character {each}; the fuller, the more of it:\n");
    for (caption, strip) in picture.strips(ascii) {
        text += format!("  {caption:>16}  {strip}").trim_end();
        text += "\n";
    }

    let percent = |part: u64, whole: u64| part as f64 * 100.0 / whole.max(1) as f64;
    text += &format!(
        "\n{} of {} blocks are hostages ({:.1} %): {} frames that Linux can't move keep {} others,\n{} MiB, \
         from becoming whole free blocks.\n",
        grouped(blocks.hostage),
        grouped(blocks.total),
        percent(blocks.hostage, blocks.total),
        grouped(held.stay),
        grouped(held.others),
        mib(held.others, census.frame_bytes),
    );
    if let Some(FreeCheck { captured, zoneinfo, per_cpu }) = check {
        text += &format!(
            "Check: {} frames are free here, Linux counts {} ({:.2} % apart).\nOf the kernel's frames, {} may be free \
             as well, on per-CPU lists{}\n",
            grouped(captured),
            grouped(zoneinfo),
            percent(captured.abs_diff(zoneinfo), zoneinfo),
            grouped(per_cpu),
            if per_cpu > captured / 1000 { "; --settle trims these." } else { "." },
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_says_what_the_census_counts_in_ascii_as_well() {
        let sample = Layout::sample();
        let mut picture = Picture::default();
        let census = Census::take(&sample, |frames, verdict| picture.add(frames, verdict));
        let (held, check) = (Held { stay: 7, others: 9_999 }, FreeCheck { captured: 1_000, zoneinfo: 990, per_cpu: 3 });
        let text = describe(&sample, &census, &picture, held, Some(check), true);
        let hostages = format!("{} of 1,024 blocks are hostages", grouped(census.total.blocks.hostage));
        for words in [&hostages, "driver, mapped", "hostage blocks held by", "7 frames", "(1.01 % apart)", "--settle"] {
            assert!(text.contains(words), "{words:?} isn't in\n{text}");
        }
        assert!(text.is_ascii(), "{text}");
        let longest = text.lines().map(str::len).max();
        assert!(longest <= Some(110), "{longest:?} columns:\n{text}");
        assert!(describe(&sample, &census, &picture, held, None, false).contains('█'));
    }

    #[test]
    fn what_cant_be_read_comes_with_advice() {
        let denied = SourceError::from(CaptureError::Permission("/proc/kpageflags".into()));
        let error = SurveyError::from(denied);
        let said = error.to_string();
        assert!(said.contains("/proc/kpageflags can be read by root only\nRun it as root"), "{said}");
        assert_eq!((error.exit_code(), SurveyError::from(LayoutError::NoZone).exit_code()), (2, 2));
    }
}
