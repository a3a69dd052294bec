//! Which layout a run takes: the one asked for, or else this machine's, or if that can't be read the sample.

use super::{error::RunError, progress::Progress};
use crate::layout::{Layout, LayoutSource, SourceError};

/// Opens the layout; says where it comes from.
pub(crate) fn open(asked: Option<&LayoutSource>, progress: &Progress) -> Result<(LayoutSource, Layout), RunError> {
    progress.stage("reading the layout");
    let mut hear = |done: u64, all: u64| progress.part(done as f64 / all.max(1) as f64);
    if let Some(source) = asked {
        return Ok((source.clone(), source.open(&mut hear)?.0));
    }
    match LayoutSource::Live.open(&mut hear) {
        Ok((layout, _)) => Ok((LayoutSource::Live, layout)),
        Err(error @ SourceError::Live(_)) => {
            progress.say(&format!("This run takes the sample that ships with the command: {error}."));
            Ok((LayoutSource::Sample, Layout::sample()))
        }
        Err(error) => Err(error.into()),
    }
}
