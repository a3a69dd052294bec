//! Why a machine can't be made.

use std::io;

/// Why a machine can't be made.
#[derive(Debug, thiserror::Error)]
pub enum HostedError {
    /// More memory than the host has free.
    #[error("{asked} MiB of memory were asked for, but only {available} MiB are available; ask for less")]
    NotEnoughMemory {
        /// Requested MiB.
        asked: u64,
        /// Available MiB.
        available: u64,
    },
    /// No frames or no CPUs were requested, or more frames than their range has.
    #[error("a machine needs at least one frame and one processor, and a range of all its frames")]
    Nothing,
    /// The host TLB needs map areas, and too few are left.
    #[error(
        "the host TLB needs at least {needed} free map areas, but of vm.max_map_count = {most} only {free} are left; raise it (sysctl vm.max_map_count=65530) or take the soft TLB"
    )]
    MapAreas {
        /// The number needed.
        needed: usize,
        /// The host's limit.
        most: usize,
        /// The number left.
        free: usize,
    },
    /// The host refused memory.
    #[error("the host gave no memory for {what}: {source}")]
    Host {
        /// The use of the memory.
        what: &'static str,
        /// The host's error.
        source: io::Error,
    },
}
