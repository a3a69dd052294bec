//! `pagemove survey --why`: why Linux doesn't compact or move memory, as its own tracepoints tell it.
//!
//! Takes a number of seconds; prints a summary with tables, or one JSON object ([`sums::Report`] has its fields). Promises to
//! leave Linux' tracing as it was, whatever ends it.

mod event;
mod instance;
mod sums;
mod text;

use std::{
    io,
    path::Path,
    time::{Duration, Instant},
};

use self::{
    instance::{Instance, TraceError, find},
    sums::{Report, Sums},
};
use crate::{
    bar::Bar,
    cancel::{Stop, Stopped},
    message::print,
    terminal,
};

/// How long Linux gathers events before they are read.
const PAUSE: Duration = Duration::from_millis(20);

/// Why there is nothing to tell.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WhyError {
    /// A file tells of no events.
    #[error("--why is of use with --layout live only")]
    Live,
    /// Linux can't be watched.
    #[error("can't watch what Linux does: {0}")]
    Trace(#[from] TraceError),
    /// A signal.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// Stdout is gone.
    #[error("can't print: {0}")]
    Print(#[from] io::Error),
}

/// Watches for so many seconds, and tells what there was. A signal ends that early; what there was until then is told as well.
pub(crate) fn run(seconds: u64, is_live: bool, is_json: bool, stop: &Stop) -> Result<(), WhyError> {
    if !is_live {
        return Err(WhyError::Live);
    }
    let report = watch(Duration::from_secs(seconds), stop)?;
    let told = if is_json {
        serde_json::to_string_pretty(&report).map_err(io::Error::from)? + "\n"
    } else {
        text::describe(&report, procfs::page_size(), !terminal::is_utf8())
    };
    let printed = print(&told);
    if report.interrupted {
        // With a closed terminal nothing can be printed.
        return Err(Stopped.into());
    }
    Ok(printed?)
}

/// Sums the events of that time; of less if a signal comes, which the report says.
pub(crate) fn watch(time: Duration, stop: &Stop) -> Result<Report, WhyError> {
    let _hold = stop.hold();
    let tracefs = find(Path::new("/sys"))?;
    let mut instance = Instance::make(&tracefs, Path::new("/proc"))?;
    let missing = instance.start()?;
    let (start, mut bar, mut sums) = (Instant::now(), Bar::new("Watching Linux move memory"), Sums::default());
    let is_over = || stop.is_set() || start.elapsed() >= time;
    while !is_over() {
        while instance.read(|line| sums.line(line))? && !is_over() {}
        bar.show(millis(start.elapsed()), millis(time));
        // That it was stopped is seen above.
        let _ = stop.sleep(PAUSE.min(time.saturating_sub(start.elapsed())));
    }
    let watched = start.elapsed();
    // What is still in the buffers has an end only if nothing is added.
    if instance.stop() {
        while instance.read(|line| sums.line(line))? {}
    }
    Ok(sums.report(watched.as_secs_f64(), stop.is_set(), missing))
}

fn millis(time: Duration) -> u64 {
    time.as_millis().try_into().unwrap_or(u64::MAX)
}
