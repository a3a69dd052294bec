//! A call: an operation whose objects are found, the same for the model and the engine; and the answer, which both give.

use pagemove::{
    migrate::Options,
    report::Reason,
    space::{FaultError, FileError, PinError, Protection, SpaceError},
    units::Order,
};

use crate::moody::Mood;

/// Words of a page that are used: its edges, and its middle.
pub(crate) const WORDS: [usize; 4] = [0, 255, 256, 511];
/// TLBs that loads and stores go through in turn.
pub(crate) const TLBS: usize = 3;

/// A word of a process's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The process's place in the list of those that live.
    pub process: usize,
    /// Page, from the first that a process can map.
    pub page: u32,
    /// Place in [`WORDS`].
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

/// What a mapping maps; numbers are those of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Backing {
    Anonymous { huge: bool },
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
}

/// What a call gives.
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
    /// Pages asked to move that stayed, and why.
    Stayed(Vec<(u32, Reason)>),
    Space(SpaceError),
    Fault(FaultError),
    Pin(PinError),
    File(FileError),
    /// Only the engine says so; the model then does nothing, and what can be seen must stay as it was.
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
            PinError::Split(_) | PinError::Fault(FaultError::OutOfMemory(_)) => Answer::OutOfMemory,
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
    /// Tells whether the engine may give this where the model expects `expected`: the model has no frames, so it doesn't know
    /// which pages find no room to move to. Those are asked for nothing else.
    pub(crate) fn is_as(&self, expected: &Answer) -> bool {
        let (Answer::Stayed(found), Answer::Stayed(expected)) = (self, expected) else { return self == expected };
        let has_no_room = |page: u32| {
            let no_room = |reason| matches!(reason, Reason::NoDestination | Reason::Order);
            found.iter().any(|&(other, reason)| other == page && no_room(reason))
        };
        let found = found.iter().filter(|(page, _)| !has_no_room(*page));
        found.eq(expected.iter().filter(|(page, _)| !has_no_room(*page)))
    }
}

/// Gives the answer of either outcome.
pub(crate) fn answer<E: Into<Answer>>(outcome: Result<Answer, E>) -> Answer {
    outcome.unwrap_or_else(Into::into)
}
