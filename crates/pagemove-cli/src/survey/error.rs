//! Why there is no survey, in sentences that say what to do.

use std::io;

use crate::{
    cancel::{STOPPED, Stopped},
    diff::DiffError,
    html::PageError,
    layout::{LayoutError, SourceError, settle::SettleError},
    why::WhyError,
};

/// Why there is no survey.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SurveyError {
    /// There is no layout to look at.
    #[error("{0}{advice}", advice = .0.advice("survey"))]
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
    /// There are no such blocks.
    #[error("no pageblock of this layout is in that range")]
    NoBlocks,
    /// The range is of memory blocks, and there are none.
    #[error("this layout has no memory blocks to name a range by: give PFNs, as 0x2ef00-0x2f00a")]
    NoMemoryBlocks,
    /// Linux doesn't compact.
    #[error("can't have Linux compact memory: /proc/sys/vm/compact_memory: {0}; it takes root")]
    Compact(io::Error),
    /// Only this machine can be compacted.
    #[error("--try is of use with --layout live only")]
    TryLive,
    /// Linux can't be watched.
    #[error(transparent)]
    Why(WhyError),
    /// The machine has changed while it was looked at.
    #[error(transparent)]
    Diff(#[from] DiffError),
    /// The report can't be written.
    #[error(transparent)]
    Report(#[from] PageError),
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

impl From<WhyError> for SurveyError {
    fn from(error: WhyError) -> Self {
        match error {
            WhyError::Stopped(stopped) => Self::Stopped(stopped),
            error => Self::Why(error),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::capture::CaptureError;

    #[test]
    fn what_cant_be_read_comes_with_advice() {
        let denied = SourceError::from(CaptureError::Permission("/proc/kpageflags".into()));
        let error = SurveyError::from(denied);
        let said = error.to_string();
        assert!(said.contains("/proc/kpageflags can be read by root only\nRun it as root"), "{said}");
        assert_eq!((error.exit_code(), SurveyError::from(LayoutError::NoZone).exit_code()), (2, 2));
    }
}
