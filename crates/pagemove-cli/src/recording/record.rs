//! `pagemove record`: captures this machine's memory every so often, into a folder of bounded size.
//!
//! Takes a folder, gives files of which each is whole. Promises that a signal ends it with nothing half written, and that
//! captures take a tenth of one CPU's time at most.

use std::{
    fs, io,
    path::PathBuf,
    time::{Duration, Instant},
};

use super::store::{Store, StoreError};
use crate::{
    cancel::{STOPPED, Stop, Stopped},
    layout::{LayoutSource, SourceError, settle::restore_left},
    message::say,
    numbers::{counted, seconds, thousands},
    terminal::plain,
    watch::{gather::capture, state::pause_after},
};

/// Records the layout of this machine's memory every so often; replay shows it.
///
/// A capture is followed by a pause that is at least nine times as long, whatever the interval: a tenth of one CPU's time
/// at most.
#[derive(Debug, clap::Args)]
pub(crate) struct RecordArgs {
    /// The folder; made if need be. Nothing else in it is touched.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Seconds from the start of a capture to the next.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    interval: u64,
    /// Ends after so many captures.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Removes the oldest captures where all take more: bytes, or with K, M, G or T.
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = size)]
    most_bytes: u64,
    /// Another source, for tests of this command.
    #[arg(long, hide = true, default_value_t = LayoutSource::Live)]
    layout: LayoutSource,
}

/// Why nothing more is recorded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    /// There is nothing to record.
    #[error("{0}{advice}", advice = .0.advice("record DIR"))]
    Source(SourceError),
    /// The folder.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A signal.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// Signals can't be caught.
    #[error("can't catch Ctrl-C: {0}")]
    Signals(io::Error),
}

impl RecordError {
    /// Gives the code to exit with.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Stopped(Stopped) => STOPPED,
            _ => 2,
        }
    }
}

impl From<SourceError> for RecordError {
    fn from(error: SourceError) -> Self {
        match error {
            SourceError::Stopped(stopped) => Self::Stopped(stopped),
            error => Self::Source(error),
        }
    }
}

/// Runs the command.
pub(crate) fn run(args: &RecordArgs) -> Result<(), RecordError> {
    let stop = Stop::on_signals().map_err(RecordError::Signals)?;
    // A second signal mustn't end it in the midst of a file; each step looks at the first.
    let _hold = stop.hold();
    let is_new = !args.dir.exists();
    let mut store = Store::open(&args.dir, args.most_bytes)?;
    if args.layout == LayoutSource::Live {
        restore_left();
    }
    let mut done = 0;
    let ended = record(args, &stop, &mut store, &mut done);
    if done > 0 {
        let (kept, bytes) = store.size();
        let kept = counted(kept as u64, "capture");
        say(&format!(
            "Recorded {}; {} has {kept}, {} bytes.",
            counted(done, "capture"),
            args.dir.display(),
            thousands(bytes)
        ));
    }
    if done == 0 && is_new {
        // What it has made and not used; nothing is removed that has a file.
        let _ = fs::remove_dir(&args.dir);
    }
    ended
}

fn record(args: &RecordArgs, stop: &Stop, store: &mut Store, done: &mut u64) -> Result<(), RecordError> {
    let mut is_said = false;
    loop {
        let start = Instant::now();
        match capture(&args.layout, stop, &mut |_, _| {}) {
            Ok((snapshot, layout)) => {
                store.add(&layout, &snapshot)?;
                *done += 1;
            }
            // Memory may come or go while it is read; the next try may do.
            Err(error @ SourceError::Live(_)) if *done > 0 => {
                say(&plain(&format!("No capture: {error}")));
            }
            Err(error) => return Err(error.into()),
        }
        if args.count.is_some_and(|count| *done >= count) {
            return Ok(());
        }
        // Writing it counts as well.
        let took = start.elapsed();
        let (pause, is_longer) = pause_after(took, Duration::from_secs(args.interval));
        if is_longer && !is_said {
            is_said = true;
            say(&format!(
                "A capture takes {}: captures begin some {} apart, so that they take a tenth of a CPU's time at most.",
                seconds(took.as_secs_f64()),
                seconds((took + pause).as_secs_f64()),
            ));
        }
        stop.sleep(pause)?;
    }
}

/// Reads a size.
fn size(text: &str) -> Result<u64, String> {
    let units = [("K", 10), ("M", 20), ("G", 30), ("T", 40)];
    let (digits, shift) =
        units.iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift))).unwrap_or((text, 0));
    let number = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
    number
        .filter(|&number| number > 0)
        .ok_or_else(|| "a size is a number of bytes such as 1000000, 64K, 256M or 2G".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(["1", "64K", "256M", "2G"].map(size), [Ok(1), Ok(64 << 10), Ok(256 << 20), Ok(2 << 30)]);
        for text in ["", "0", "M", "-1", "1.5G", "1 M", "99999999999T", "5m"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
