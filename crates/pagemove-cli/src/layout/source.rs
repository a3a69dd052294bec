//! Where a layout comes from, as a user names it on the command line.
//!
//! Takes `live`, `sample` or a file's name, gives the layout. A file that is called `live` or `sample` goes by
//! `./live`.

use std::{
    convert::Infallible,
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use super::{
    Layout, LayoutError,
    capture::{Capture, CaptureError, FreeCheck},
};

use crate::cancel::{Stop, Stopped};

/// How often it looks for a signal while a file is read.
const LOOK: Duration = Duration::from_millis(20);

/// A source of layouts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LayoutSource {
    /// This machine, now.
    Live,
    /// The layout that ships with the command.
    Sample,
    /// A layout file.
    File(PathBuf),
}

/// Why a source gives no layout.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    /// This machine can't be captured.
    #[error("can't capture this machine's memory: {0}")]
    Live(CaptureError),
    /// A signal.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// The file can't be read at all.
    #[error(transparent)]
    Unreadable(LayoutError),
    /// What the file holds is no layout.
    #[error("can't load the layout {source}: {error}", source = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: LayoutError,
    },
}

impl From<CaptureError> for SourceError {
    fn from(error: CaptureError) -> Self {
        match error {
            CaptureError::Stopped(stopped) => Self::Stopped(stopped),
            error => Self::Live(error),
        }
    }
}

impl SourceError {
    /// Says what a user of a subcommand can do about it; nothing if the error says so itself.
    pub(crate) fn advice(&self, subcommand: &str) -> String {
        let sample = "ook at the sample: pagemove survey --layout sample";
        match self {
            Self::Live(CaptureError::Permission(_)) => {
                format!("\nRun it as root (sudo pagemove {subcommand}), or l{sample}")
            }
            Self::Live(CaptureError::Missing(_)) => format!("\nL{sample}"),
            _ => String::new(),
        }
    }
}

impl LayoutSource {
    /// Gets the layout, and for a live one what Linux says of it; `progress` hears frames read and their total.
    pub(crate) fn open(
        &self,
        stop: &Stop,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(Layout, Option<FreeCheck>), SourceError> {
        match self {
            Self::Live => {
                let Capture { layout, check } = Layout::capture(&mut |done, total| {
                    progress(done, total);
                    stop.check()
                })?;
                Ok((layout, Some(check)))
            }
            Self::Sample => Ok((Layout::sample(), None)),
            Self::File(path) => match load(path, stop)? {
                Ok(layout) => Ok((layout, None)),
                Err(error @ LayoutError::Unreadable { .. }) => Err(SourceError::Unreadable(error)),
                Err(error) => Err(SourceError::File { path: path.clone(), error }),
            },
        }
    }
}

/// Loads a file. On a thread of its own, since a pipe may have nothing to read for long.
fn load(path: &Path, stop: &Stop) -> Result<Result<Layout, LayoutError>, Stopped> {
    let (send, receive) = mpsc::channel();
    let path = path.to_owned();
    // Left behind at a signal, it ends with the program.
    let loading = thread::spawn(move || send.send(Layout::load(&path)));
    loop {
        match receive.recv_timeout(LOOK) {
            Ok(loaded) => return Ok(loaded),
            Err(RecvTimeoutError::Timeout) => stop.check()?,
            Err(RecvTimeoutError::Disconnected) => {
                if let Err(panic) = loading.join() {
                    std::panic::resume_unwind(panic);
                }
                return Err(Stopped);
            }
        }
    }
}

impl FromStr for LayoutSource {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text {
            "live" => Self::Live,
            "sample" => Self::Sample,
            path => Self::File(path.into()),
        })
    }
}

impl fmt::Display for LayoutSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Live => f.write_str("live"),
            Self::Sample => f.write_str("sample"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_sources_and_files_open() {
        let source = |text: &str| text.parse::<LayoutSource>().unwrap_or_else(|never| match never {});
        assert_eq!(source("live"), LayoutSource::Live);
        assert_eq!(source("./live"), LayoutSource::File("./live".into()));
        let (sample, check) = source("sample").open(&Stop::default(), &mut |_, _| {}).expect("ships");
        assert!(check.is_none());

        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.layout");
        sample.save(&path).expect("saves");
        let file = source(&path.to_string_lossy());
        assert_eq!(file.open(&Stop::default(), &mut |_, _| {}).expect("opens").0, sample);
        std::fs::write(&path, "no").expect("writes");
        let said = file.open(&Stop::default(), &mut |_, _| {}).expect_err("not a layout").to_string();
        assert!(said.ends_with("x.layout: not a layout file: it isn't gzip"), "{said}");
    }
}
