//! Counters, named as in Linux's `/proc/vmstat` where it has them; accessed without locks.

use super::Reason;
// Not from `sync`: counters order nothing, and would only add interleavings for the checkers.
use core::sync::atomic::{AtomicU64, Ordering};

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Counter {
    /// Pages moved.
    PgmigrateSuccess,
    /// Pages not moved.
    PgmigrateFail,
    /// Blocks that compaction tried to empty.
    CompactBlocks,
    /// Blocks that compaction emptied.
    CompactSuccess,
    /// Blocks that compaction failed to empty.
    CompactFail,
    /// Allocations that compacted because no free block was large enough.
    CompactStall,
    /// Page faults.
    Pgfault,
    /// Faults that waited for a moving page.
    MigrationWait,
    /// TLB flushes requested.
    TlbFlush,
    /// Ranges in these flushes.
    TlbFlushRanges,
    /// Large folios split into base folios.
    ThpSplitPage,
    /// 2 MiB entries split into tables.
    ThpSplitPmd,
    /// Large folios moved whole.
    ThpMigrationSuccess,
    /// Large folios that a move split, since no destination of their order was free.
    ThpMigrationSplit,
    /// 2 MiB mappings made of base pages.
    ThpCollapseAlloc,
    /// Page tables moved.
    PagetableMigrationSuccess,
}

impl Counter {
    /// All counters, in numeric order.
    pub const ALL: [Counter; 16] = [
        Counter::PgmigrateSuccess,
        Counter::PgmigrateFail,
        Counter::CompactBlocks,
        Counter::CompactSuccess,
        Counter::CompactFail,
        Counter::CompactStall,
        Counter::Pgfault,
        Counter::MigrationWait,
        Counter::TlbFlush,
        Counter::TlbFlushRanges,
        Counter::ThpSplitPage,
        Counter::ThpSplitPmd,
        Counter::ThpMigrationSuccess,
        Counter::ThpMigrationSplit,
        Counter::ThpCollapseAlloc,
        Counter::PagetableMigrationSuccess,
    ];

    /// The name in the style of `/proc/vmstat`.
    pub const fn name(self) -> &'static str {
        match self {
            Counter::PgmigrateSuccess => "pgmigrate_success",
            Counter::PgmigrateFail => "pgmigrate_fail",
            Counter::CompactBlocks => "compact_blocks",
            Counter::CompactSuccess => "compact_success",
            Counter::CompactFail => "compact_fail",
            Counter::CompactStall => "compact_stall",
            Counter::Pgfault => "pgfault",
            Counter::MigrationWait => "migration_wait",
            Counter::TlbFlush => "tlb_flush",
            Counter::TlbFlushRanges => "tlb_flush_ranges",
            Counter::ThpSplitPage => "thp_split_page",
            Counter::ThpSplitPmd => "thp_split_pmd",
            Counter::ThpMigrationSuccess => "thp_migration_success",
            Counter::ThpMigrationSplit => "thp_migration_split",
            Counter::ThpCollapseAlloc => "thp_collapse_alloc",
            Counter::PagetableMigrationSuccess => "pagetable_migration_success",
        }
    }
}

/// Buckets of the histogram of blocked times: eight for each power of two of nanoseconds.
const BUCKETS: usize = 64 * 8;

/// All counters of an engine.
#[derive(Debug)]
pub struct Counters {
    values: [AtomicU64; Counter::ALL.len()],
    stayed: [AtomicU64; Reason::ALL.len()],
    blocked: [AtomicU64; BUCKETS],
    blocked_max: AtomicU64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            values: [const { AtomicU64::new(0) }; _],
            stayed: [const { AtomicU64::new(0) }; _],
            blocked: [const { AtomicU64::new(0) }; _],
            blocked_max: AtomicU64::new(0),
        }
    }
}

// Relaxed throughout: counters are independent and publish nothing.
impl Counters {
    /// Adds `by` to a counter.
    pub fn add(&self, counter: Counter, by: u64) {
        self.values[counter as usize].fetch_add(by, Ordering::Relaxed);
    }

    /// Reads a counter.
    pub fn get(&self, counter: Counter) -> u64 {
        self.values[counter as usize].load(Ordering::Relaxed)
    }

    /// Counts a page that wasn't moved, with the reason.
    pub fn stayed(&self, reason: Reason) {
        self.stayed[reason as usize].fetch_add(1, Ordering::Relaxed);
        self.add(Counter::PgmigrateFail, 1);
    }

    /// Reads how many pages weren't moved for `reason`.
    pub fn stayed_for(&self, reason: Reason) -> u64 {
        self.stayed[reason as usize].load(Ordering::Relaxed)
    }

    /// Records that a thread waited `ns` nanoseconds for a moving page.
    pub fn blocked(&self, ns: u64) {
        self.blocked[bucket(ns)].fetch_add(1, Ordering::Relaxed);
        self.blocked_max.fetch_max(ns, Ordering::Relaxed);
        self.add(Counter::MigrationWait, 1);
    }

    /// Walks the non-empty buckets of the histogram of blocked times, upwards: upper bound in nanoseconds, count.
    pub fn blocked_histogram(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.blocked.iter().enumerate().filter_map(|(bucket, count)| {
            let count = count.load(Ordering::Relaxed);
            (count > 0).then(|| (upper_bound(bucket), count))
        })
    }

    /// The longest time that a thread waited, in nanoseconds.
    pub fn blocked_max_ns(&self) -> u64 {
        self.blocked_max.load(Ordering::Relaxed)
    }
}

fn bucket(ns: u64) -> usize {
    if ns < 16 {
        return ns as usize;
    }
    let power = 63 - ns.leading_zeros() as usize;
    (power - 3) * 8 + ((ns >> (power - 3)) & 7) as usize + 8
}

fn upper_bound(bucket: usize) -> u64 {
    if bucket < 16 {
        return bucket as u64;
    }
    let (power, step) = ((bucket - 8) / 8 + 3, (bucket - 8) % 8);
    ((1u128 << power) + ((step as u128 + 1) << (power - 3)) - 1) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_their_values_within_an_eighth() {
        for ns in (0..4096).chain([1 << 20, (1 << 40) + 12345, u64::MAX]) {
            let bound = upper_bound(bucket(ns));
            assert!(bound >= ns && bound - ns <= ns / 8, "{ns} {bound}");
            assert!(bucket(ns) < BUCKETS);
        }
    }

    #[test]
    fn names_match_numbers() {
        for (number, counter) in Counter::ALL.into_iter().enumerate() {
            assert_eq!(counter as usize, number);
        }
        for (number, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, number);
        }
    }
}
