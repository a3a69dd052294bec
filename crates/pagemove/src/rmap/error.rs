//! Why a mapping can't be changed. Plain data.

use crate::{frame::TooManyMappings, zone::AllocError};

/// Why an entry can't be split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    /// There is no memory for the table.
    #[error(transparent)]
    OutOfMemory(#[from] AllocError),
    /// The page's map count would overflow.
    #[error(transparent)]
    TooManyMappings(#[from] TooManyMappings),
}
