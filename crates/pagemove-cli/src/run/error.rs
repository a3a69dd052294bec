//! Why a run ends early, and with which exit code: 1 a check failed, 2 bad input or a machine that can't be had,
//! 130 stopped by a signal. Each error is one sentence that a user can act on.

use std::io;

use pagemove::{
    space::{FaultError, FileError, PinError, SpaceError},
    zone::{AllocError, BootError, Invalid},
};
use pagemove_drivers::{balloon::InflateError, zram::ZramError};
use pagemove_hosted::HostedError;

use crate::{
    cancel::{STOPPED, Stopped},
    layout::{LayoutError, Sizes, SourceError, capture::CaptureError, settle::SettleError},
};

/// Why a run ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    /// Ctrl-C, or `kill`.
    #[error("stopped; nothing was written")]
    Stopped,
    /// There is no layout.
    #[error("{0}{advice}", advice = advice(.0))]
    Source(SourceError),
    /// The per-CPU lists can't be trimmed.
    #[error("can't trim the per-CPU free lists: {0}; leave out --settle, or run as root")]
    Settle(SettleError),
    /// The layout can't be scaled to the memory asked for.
    #[error("can't scale the layout: {0}")]
    Scale(#[from] LayoutError),
    /// The layout is of a machine whose frames or pageblocks the engine doesn't have.
    #[error(
        "the layout has frames of {} KiB and pageblocks of order {}; a run takes frames of 4 KiB and pageblocks up to order 10",
        .0.frame_bytes >> 10, .0.pageblock_order
    )]
    OtherSizes(Sizes),
    /// The memory asked for is no whole number of the layout's blocks.
    #[error("the memory must be a whole number of the layout's blocks of {block_kib} KiB")]
    NotWholeBlocks {
        /// Size of a block.
        block_kib: u64,
    },
    /// The layout is full of what never moves or is never freed.
    #[error(
        "the layout leaves {free} of {frames} frames free, too few for processes; take another one, or more memory"
    )]
    NoRoom {
        /// Free frames.
        free: u32,
        /// All frames.
        frames: u32,
    },
    /// No memory for the table of compressed pages.
    #[error("there is no memory for the table of compressed pages; ask for less with --memory")]
    NoTable,
    /// There is no page whose word could be checked.
    #[error("the layout leaves no room for a page whose word can be checked; take another one, or more memory")]
    NothingToCheck,
    /// The report can't be written.
    #[error(transparent)]
    Report(#[from] crate::html::PageError),
    /// Signals can't be caught.
    #[error("can't catch Ctrl-C: {0}")]
    Signals(io::Error),
    /// Stdout is gone.
    #[error("can't print: {0}")]
    Print(io::Error),
    /// No machine.
    #[error(transparent)]
    Machine(#[from] HostedError),
    /// The engine does not take the machine.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The engine refused what it must do: a finding about the engine, not about the input.
    #[error("the engine failed: {what}; repeat with --seed {seed}")]
    Engine {
        /// Seed of the run.
        seed: u64,
        /// What it refused.
        what: EngineError,
    },
    /// `validate()` failed.
    #[error("after policy {policy}, memory contradicts itself: {what}; repeat with --seed {seed}")]
    Invalid {
        /// The policy.
        policy: &'static str,
        /// Seed of the run.
        seed: u64,
        /// What was found.
        what: Invalid,
    },
    /// The same seed gave two states.
    #[error("policy {policy} did not start from the same memory as the one before it; repeat with --seed {seed}")]
    Differs {
        /// The policy.
        policy: &'static str,
        /// Seed of the run.
        seed: u64,
    },
}

/// What the engine refused while memory was built, written or checked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EngineError {
    /// A system call.
    #[error(transparent)]
    Space(#[from] SpaceError),
    /// A page fault.
    #[error(transparent)]
    Fault(#[from] FaultError),
    /// A file's page.
    #[error(transparent)]
    File(#[from] FileError),
    /// A frame.
    #[error(transparent)]
    Alloc(#[from] AllocError),
    /// A pin.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// The balloon.
    #[error(transparent)]
    Balloon(#[from] InflateError),
    /// A compressed page.
    #[error(transparent)]
    Zram(#[from] ZramError),
    /// A frame of the layout can't be placed, or a page is gone that nobody freed.
    #[error("{0}")]
    Lost(String),
}

impl From<Stopped> for RunError {
    fn from(Stopped: Stopped) -> Self {
        Self::Stopped
    }
}

impl From<SourceError> for RunError {
    fn from(error: SourceError) -> Self {
        match error {
            SourceError::Stopped(Stopped) => Self::Stopped,
            error => Self::Source(error),
        }
    }
}

impl From<SettleError> for RunError {
    fn from(error: SettleError) -> Self {
        match error {
            SettleError::Stopped(Stopped) => Self::Stopped,
            error => Self::Settle(error),
        }
    }
}

impl EngineError {
    /// Adds the seed, by which the failure can be repeated.
    pub(crate) fn with_seed(self, seed: u64) -> RunError {
        RunError::Engine { seed, what: self }
    }
}

impl RunError {
    /// Gives the code to exit with.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Stopped => STOPPED,
            Self::Engine { .. } | Self::Invalid { .. } | Self::Differs { .. } => 1,
            _ => 2,
        }
    }
}

/// Says what a user can do about it.
fn advice(error: &SourceError) -> &'static str {
    match error {
        SourceError::Live(CaptureError::Permission(_)) => "; run it as root, or take --layout sample",
        SourceError::Live(CaptureError::Missing(_)) => "; take --layout sample",
        _ => "",
    }
}
