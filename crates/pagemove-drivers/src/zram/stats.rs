//! Figures, under Linux' names and in its columns, so that tools which read them can read ours.

use core::fmt;

use pagemove::sync::{AtomicU64, Ordering};

/// Memory (Linux: `mm_stat`).
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct MmStat {
    /// Bytes of all pages that are stored, as they were written.
    pub orig_data_size: u64,
    /// Bytes of all objects.
    pub compr_data_size: u64,
    /// Bytes of the pages that the objects are in.
    pub mem_used_total: u64,
    /// The bound of these, in bytes; 0: none.
    pub mem_limit: u64,
    /// The most that they were, in bytes.
    pub mem_used_max: u64,
    /// Pages of one word.
    pub same_pages: u64,
    /// Pages that compaction has freed.
    pub pages_compacted: u64,
    /// Pages that are stored as they are.
    pub huge_pages: u64,
    /// Pages that were stored so, ever.
    pub huge_pages_since: u64,
}

/// The backing store, in pages (Linux: `bd_stat`).
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct BdStat {
    /// Pages that are in it.
    pub bd_count: u64,
    /// Pages that were read from it.
    pub bd_reads: u64,
    /// Pages that were written to it.
    pub bd_writes: u64,
}

/// Failures and discards (Linux: `io_stat`).
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct IoStat {
    /// Reads that failed.
    pub failed_reads: u64,
    /// Writes that failed.
    pub failed_writes: u64,
    /// Calls for pages beyond the end.
    pub invalid_io: u64,
    /// Pages that were discarded.
    pub notify_free: u64,
}

impl fmt::Display for MmStat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        columns(
            f,
            &[
                self.orig_data_size,
                self.compr_data_size,
                self.mem_used_total,
                self.mem_limit,
                self.mem_used_max,
                self.same_pages,
                self.pages_compacted,
                self.huge_pages,
                self.huge_pages_since,
            ],
        )
    }
}

impl fmt::Display for BdStat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        columns(f, &[self.bd_count, self.bd_reads, self.bd_writes])
    }
}

impl fmt::Display for IoStat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        columns(f, &[self.failed_reads, self.failed_writes, self.invalid_io, self.notify_free])
    }
}

fn columns(f: &mut fmt::Formatter<'_>, values: &[u64]) -> fmt::Result {
    values.iter().enumerate().try_for_each(|(at, value)| write!(f, "{}{value:>8}", if at == 0 { "" } else { " " }))
}

/// A count. Relaxed: it orders nothing.
#[derive(Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub(super) fn sub(&self, less: u64) {
        self.0.fetch_sub(less, Ordering::Relaxed);
    }

    pub(super) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Raises it to `value`, if that is more.
    pub(super) fn raise(&self, value: u64) {
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| (value > now).then_some(value));
    }
}

/// All counts of a device.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) stored: Count,
    pub(super) compressed: Count,
    pub(super) most_used: Count,
    pub(super) same: Count,
    pub(super) compacted: Count,
    pub(super) huge: Count,
    pub(super) huge_since: Count,
    pub(super) backed: Count,
    pub(super) backing_reads: Count,
    pub(super) backing_writes: Count,
    pub(super) failed_reads: Count,
    pub(super) failed_writes: Count,
    pub(super) invalid: Count,
    pub(super) freed: Count,
}
