//! Why a machine can't be had.

use std::io;

/// Why a machine can't be had.
#[derive(Debug, thiserror::Error)]
pub enum HostedError {
    /// More memory than the host has free.
    #[error("{asked} MiB of memory were asked for, but only {available} MiB are available; ask for less")]
    NotEnoughMemory {
        /// MiB asked for.
        asked: u64,
        /// MiB available.
        available: u64,
    },
    /// Nothing was asked for.
    #[error("a machine needs at least one frame and one processor")]
    Nothing,
    /// The host TLB needs map areas, and too few are left.
    #[error(
        "the host TLB needs at least {needed} free map areas, but of vm.max_map_count = {most} only {free} are left; raise it (sysctl vm.max_map_count=65530) or take the soft TLB"
    )]
    MapAreas {
        /// What is needed.
        needed: usize,
        /// The host's limit.
        most: usize,
        /// What is left of it.
        free: usize,
    },
    /// The host refused memory.
    #[error("the host gave no memory for {what}: {source}")]
    Host {
        /// What for.
        what: &'static str,
        /// What the host said.
        source: io::Error,
    },
}
