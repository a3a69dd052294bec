//! What can be broken in the machine on purpose.

/// A fault put into the machine on purpose, to see that it's found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// Moves flush no TLB.
    SkipFlushes,
    /// Moves don't copy a page's last word.
    LoseContents,
    /// Moves take the right to store, and the soft-dirty mark, out of entries.
    LoseWrite,
}
