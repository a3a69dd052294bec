//! Calls: operations with their objects, the same for model and engine; and the answers of both.

use alloc::vec::Vec;

use pagemove::{
    migrate::Options,
    report::Reason,
    space::{FaultError, FileError, Orders, PinError, Protection, SpaceError},
    units::Order,
};

use crate::moody::Mood;

/// The words of a page that are used: its edges and its middle.
pub(crate) const WORDS: [usize; 4] = [0, 255, 256, 511];
/// The number of TLBs that loads and stores use.
pub(crate) const TLBS: usize = 3;

/// A word of a process's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The process's position in the list of live ones.
    pub process: usize,
    /// The page, counted from the first that a process can map.
    pub page: u32,
    /// The position of the word among the used ones.
    pub word: usize,
}

/// Pages of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields' names say it")]
pub struct Pages {
    pub process: usize,
    pub page: u32,
    pub pages: u32,
}

/// The source of a mapping; `file` is a file's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Backing {
    Anonymous { orders: Orders },
    Shared { file: usize, first: u32 },
    Private { file: usize, first: u32 },
}

/// A call.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "as the operations of the same names")]
pub enum Call {
    Load { at: Address, cpu: usize },
    Store { at: Address, cpu: usize, value: u64 },
    Fetch { at: Address },
    Map { process: usize, at: Option<u32>, pages: u32, rights: Protection, backing: Backing },
    Unmap(Pages),
    Protect { range: Pages, rights: Protection },
    Remap { range: Pages, pages: u32, to: Option<u32> },
    ClearSoftDirty { process: usize },
    Collapse(Pages),
    Start,
    Fork { process: usize },
    Exit { process: usize },
    Pin { range: Pages, write: bool },
    Unpin { pin: usize },
    PinStore { pin: usize, word: usize, value: u64 },
    FileLoad { file: usize, page: u32, word: usize },
    FileStore { file: usize, page: u32, word: usize, value: u64 },
    Truncate { file: usize, page: u32, pages: u32 },
    DropClean { file: usize },
    Mood(Mood),
    Move { process: usize, pages: Vec<u32>, options: Options },
    MoveAll(Options),
    Compact(Options),
    Take { order: Order, frozen: bool },
    TakeHuge(Options),
    Give { taken: usize },
    Inflate { pages: u32 },
    Deflate { pages: u32 },
    Drain,
    ZramWrite { page: u32, pages: u32, value: u64 },
    ZramRead { page: u32 },
    ZramDiscard { page: u32, pages: u32 },
    ZramCompact { pages: u32 },
    Report { order: Order },
}

/// The answer to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Answer {
    Done,
    Word(u64),
    Count(u32),
    Mapped {
        page: u32,
        pages: u32,
    },
    /// The pages that should move but stayed, and why.
    Stayed(Vec<(u32, Reason)>),
    Space(SpaceError),
    Fault(FaultError),
    Pin(PinError),
    File(FileError),
    /// Only the engine answers this; then the model does nothing, and nothing visible may have changed.
    OutOfMemory,
}

impl From<SpaceError> for Answer {
    fn from(error: SpaceError) -> Self {
        match error {
            SpaceError::OutOfMemory { .. } => Answer::OutOfMemory,
            error => Answer::Space(error),
        }
    }
}

impl From<FaultError> for Answer {
    fn from(error: FaultError) -> Self {
        match error {
            FaultError::OutOfMemory(_) => Answer::OutOfMemory,
            error => Answer::Fault(error),
        }
    }
}

impl From<PinError> for Answer {
    fn from(error: PinError) -> Self {
        match error {
            PinError::Fault(FaultError::OutOfMemory(_)) => Answer::OutOfMemory,
            error => Answer::Pin(error),
        }
    }
}

impl From<FileError> for Answer {
    fn from(error: FileError) -> Self {
        match error {
            FileError::OutOfMemory(_) => Answer::OutOfMemory,
            error => Answer::File(error),
        }
    }
}

impl Answer {
    /// Tells whether the engine may answer this if the model expects `expected`. The model has no frames, so it doesn't
    /// know for which pages there is no destination: these are not compared.
    pub(crate) fn is_allowed_for(&self, expected: &Answer) -> bool {
        let (Answer::Stayed(found), Answer::Stayed(expected)) = (self, expected) else { return self == expected };
        let has_no_room = |page: u32| {
            let no_room = |reason| matches!(reason, Reason::NoDestination | Reason::Order);
            found.iter().any(|&(other, reason)| other == page && no_room(reason))
        };
        let found = found.iter().filter(|(page, _)| !has_no_room(*page));
        found.eq(expected.iter().filter(|(page, _)| !has_no_room(*page)))
    }
}

/// Turns an error into its answer.
pub(crate) fn answer<E: Into<Answer>>(outcome: Result<Answer, E>) -> Answer {
    outcome.unwrap_or_else(Into::into)
}
