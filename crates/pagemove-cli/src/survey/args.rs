//! What a survey is asked for.

use std::{num::NonZeroUsize, path::PathBuf};

use crate::{
    layout::LayoutSource,
    owners::{explain::FrameNumber, range::Range},
};

/// Shows what physical memory holds, and which pages hold its blocks hostage.
#[derive(Debug, clap::Args)]
pub(crate) struct SurveyArgs {
    /// What to look at: this machine (without root only its free blocks by order), the sample that ships with the command, or a layout file.
    #[arg(long, value_name = "live|sample|FILE", default_value_t = LayoutSource::Live)]
    pub(super) layout: LayoutSource,
    /// Keeps this many pageblocks, evenly spread; more than there are repeat the pattern.
    #[arg(long, value_name = "N")]
    pub(super) blocks: Option<NonZeroUsize>,
    /// Saves the layout.
    #[arg(long, value_name = "FILE")]
    pub(super) save: Option<PathBuf>,
    /// Says in the saved file where the layout comes from.
    #[arg(long, value_name = "TEXT", requires = "save")]
    pub(super) note: Option<String>,
    /// Has Linux trim its per-CPU free lists first (a sysctl, set back afterwards): frames there look like the
    /// kernel's own.
    #[arg(long)]
    pub(super) settle: bool,
    /// Tells all about the pageblock of this PFN (decimal, or 0x and hexadecimal).
    #[arg(long, value_name = "PFN", group = "question", conflicts_with = "json")]
    pub(super) explain: Option<FrameNumber>,
    /// Lists the blocks of a range, with who holds them: all, hostages, memory32 (a memory block), or PFNs, the end not included, as 0x2ef00-0x2f00a.
    #[arg(long, value_name = "RANGE", group = "question")]
    pub(super) range: Option<Range>,
    /// Tells what compaction could free at most, and what it would cost, without doing it.
    #[arg(long, group = "question")]
    pub(super) plan: bool,
    /// Has Linux compact all memory (vm.compact_memory), and tells what came of it: which blocks that could be emptied were.
    #[arg(long = "try", group = "question", conflicts_with_all = ["json", "save", "blocks"])]
    pub(super) tries: bool,
    /// Watches for so many seconds why Linux doesn't compact or move memory (its tracepoints; it takes root).
    #[arg(
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        default_missing_value = "10",
        value_parser = clap::value_parser!(u64).range(1..),
        group = "question",
        conflicts_with_all = ["save", "blocks", "settle"]
    )]
    pub(super) why: Option<u64>,
    /// Also prints a stack of each owner that allocated memory, and the beginnings of functions' names that are passed over. It takes a
    /// kernel with page_owner.
    #[arg(long, conflicts_with_all = ["json", "openmetrics", "question"])]
    pub(super) stacks: bool,
    /// Also writes a page with a picture of every block to this folder: survey.html, which needs nothing else.
    #[arg(long, value_name = "DIR", conflicts_with = "question")]
    pub(super) report: Option<PathBuf>,
    /// Prints one JSON object.
    #[arg(long)]
    pub(super) json: bool,
    /// Prints metrics in the OpenMetrics format.
    #[arg(long, conflicts_with_all = ["json", "question"])]
    pub(super) openmetrics: bool,
    /// Also writes the metrics to this file, whole or not at all, for node_exporter's textfile collector.
    #[arg(long, value_name = "FILE", conflicts_with = "question")]
    pub(super) textfile: Option<PathBuf>,
    /// Exits with 1 if fewer blocks than this are wholly free.
    #[arg(long, value_name = "BLOCKS", conflicts_with = "question")]
    pub(super) threshold: Option<u64>,
}

impl SurveyArgs {
    /// Nothing is asked for that takes the frames' classes.
    pub(super) fn is_plain(&self) -> bool {
        let asks =
            self.json || self.openmetrics || self.explain.is_some() || self.range.is_some() || self.plan || self.tries;
        let writes = self.report.is_some() || self.textfile.is_some() || self.save.is_some();
        !asks && !writes && self.blocks.is_none() && self.threshold.is_none()
    }
}
