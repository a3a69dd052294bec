//! What a run found, in the shape that `--json` prints; the pictures beside it are for the table and the HTML report.

use std::collections::BTreeMap;

use serde::Serialize;

/// What one invocation of `pagemove run` found.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Results {
    /// Seed of every random choice of the run.
    pub(crate) seed: u64,
    /// Where the layout of memory came from, and its size.
    pub(crate) layout: LayoutInfo,
    /// One entry for each policy that was run, in order.
    pub(crate) policies: Vec<PolicyResult>,
    /// Rate of moving, beside the rate of copying the same frames.
    pub(crate) throughput: Throughput,
    /// Command that repeats the run.
    #[serde(skip)]
    pub(crate) again: String,
}

/// Where the layout came from.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct LayoutInfo {
    /// `live`, `sample`, or the file's name.
    pub(crate) source: String,
    /// Frames in the engine's zone after scaling.
    pub(crate) frames: u64,
    /// Order of a pageblock (9: 2 MiB).
    pub(crate) pageblock_order: u8,
}

/// What one policy achieved.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct PolicyResult {
    /// `unmovable`, `unmapped` or `any`.
    pub(crate) policy: String,
    /// Wholly free pageblocks before compaction.
    pub(crate) free_blocks_before: u64,
    /// Wholly free pageblocks after compaction.
    pub(crate) free_blocks_after: u64,
    /// Blocks that hold at least one page which this policy can't move, and are not wholly full of such.
    pub(crate) hostage_blocks_after: u64,
    /// Pages moved.
    pub(crate) moved: u64,
    /// Pages that stayed, by reason: those that a move was tried for, and those that hold a block hostage, for which
    /// the policy tries none.
    pub(crate) not_moved: BTreeMap<String, u64>,
    /// How long a thread was blocked on a moving page.
    pub(crate) blocked_us: BlockedMicros,
    /// Words read back and compared with the shadow copy.
    pub(crate) words_checked: u64,
    /// Words whose last store was lost.
    pub(crate) lost_writes: u64,
    /// Loads that saw an overwritten value.
    pub(crate) stale_reads: u64,
    /// Seconds of compaction.
    pub(crate) seconds: f64,
    /// Classes that the policy leaves where they are, in the order of [`CLASSES`].
    #[serde(skip)]
    pub(crate) fixed: [bool; CLASSES.len()],
    /// Blocks before compaction, in order of their PFN.
    #[serde(skip)]
    pub(crate) before: Vec<BlockPicture>,
    /// Blocks after compaction, in order of their PFN.
    #[serde(skip)]
    pub(crate) after: Vec<BlockPicture>,
    /// Hostage blocks after compaction by the name of who holds them, most first; a block counts once for each holder.
    #[serde(skip)]
    pub(crate) hostages: Vec<(String, u64)>,
    /// Histogram of blocked times: (upper bound in microseconds, count), rising; empty if none was blocked.
    #[serde(skip)]
    pub(crate) blocked_histogram: Vec<(f64, u64)>,
}

/// Percentiles of blocked time, in microseconds; zeros if no thread was blocked.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct BlockedMicros {
    /// Median.
    pub(crate) p50: f64,
    /// 99th percentile.
    pub(crate) p99: f64,
    /// Maximum.
    pub(crate) max: f64,
}

/// Rate of moving beside the rate of copying.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Throughput {
    /// GB moved a second (10^9 bytes), mapped 4 KiB pages, batch of 512.
    pub(crate) moved_gb_per_s: f64,
    /// GB a second of a bare `memcpy` of the same frames in the same order.
    pub(crate) memcpy_gb_per_s: f64,
}

/// What a pageblock holds: frames by class, in the order of [`CLASSES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct BlockPicture {
    /// Frames of each class.
    pub(crate) frames: [u16; CLASSES.len()],
}

/// Classes of a block picture, in the order in which [`BlockPicture::frames`] counts them.
pub(crate) const CLASSES: [&str; 10] = [
    "free",
    "LRU (anonymous, file)",
    "driver, unmapped",
    "driver, mapped",
    "pinned",
    "slab",
    "page table",
    "kernel",
    "reserved",
    "page table of a process",
];
