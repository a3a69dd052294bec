//! Which layout a run takes: the one asked for, or else this machine's, or if that can't be read the sample.

use super::{args::RunArgs, error::RunError, progress::Progress};
use crate::{
    cancel::Stop,
    layout::{
        Layout, LayoutSource, SourceError,
        settle::{restore_left, settle},
    },
    numbers::thousands,
};

/// Opens the layout; gives where it comes from, and says what is uncertain about it.
pub(crate) fn open(args: &RunArgs, progress: &Progress, stop: &Stop) -> Result<(LayoutSource, Layout), RunError> {
    let source = args.layout.clone().unwrap_or(LayoutSource::Live);
    if source == LayoutSource::Live {
        restore_left();
    }
    // Until the layout is read.
    let _settled = if args.settle && source == LayoutSource::Live {
        progress.stage("trimming the per-CPU free lists");
        Some(settle(stop)?)
    } else {
        None
    };
    progress.stage("reading the layout");
    match source.open(stop, &mut |done, all| progress.part(done as f64 / all.max(1) as f64)) {
        Ok((layout, check)) => {
            // Many enough to make hostages of blocks that are none.
            if let Some(check) = check.filter(|check| check.per_cpu > check.captured / 1000) {
                progress.say(&format!(
                    "{} frames that count as the kernel's here may be free, on per-CPU lists: --settle trims these first.",
                    thousands(check.per_cpu)
                ));
            }
            Ok((source, layout))
        }
        Err(error @ SourceError::Live(_)) if args.layout.is_none() => {
            progress.say(&format!("This run takes the sample that ships with the command: {error}."));
            Ok((LayoutSource::Sample, Layout::sample()))
        }
        Err(error) => Err(error.into()),
    }
}
