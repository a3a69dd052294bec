//! Deliberate faults.

/// A deliberate fault, to check that it is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// Moves flush no TLB.
    SkipFlushes,
    /// Moves don't copy a page's last word.
    LoseContents,
    /// Moves remove the right to store and the soft-dirty mark from entries.
    LoseWrite,
}
