//! The kernel's counters of compaction, moves, huge pages and pins, of `/proc/vmstat`; anybody may read them.
//!
//! Takes the fields of that file, gives those that are shown, in the order of their use. They only rise, from the start of
//! the machine on.

use std::collections::HashMap;

/// The fields of `/proc/vmstat`.
pub(crate) type Vmstat = HashMap<String, i64>;

/// Their names; no kernel has all of them.
pub(crate) const NAMES: [&str; 26] = [
    "compact_stall",
    "compact_fail",
    "compact_success",
    "pgmigrate_success",
    "pgmigrate_fail",
    "compact_migrate_scanned",
    "compact_free_scanned",
    "compact_isolated",
    "compact_daemon_wake",
    "thp_fault_alloc",
    "thp_fault_fallback",
    "thp_collapse_alloc",
    "thp_collapse_alloc_failed",
    "thp_migration_success",
    "thp_migration_fail",
    "thp_split_page",
    "thp_split_page_failed",
    "allocstall_normal",
    "allocstall_movable",
    "allocstall_dma32",
    "allocstall_dma",
    "allocstall_device",
    "nr_foll_pin_acquired",
    "nr_foll_pin_released",
    "pgscan_direct",
    "pgsteal_direct",
];

/// Reads the fields; none if the kernel can't be asked.
pub(crate) fn vmstat() -> Vmstat {
    procfs::vmstat().unwrap_or_default()
}

/// Gives how many pages are pinned now, at most: what was acquired less what was released. `None`: the kernel doesn't count (before 5.7).
pub(crate) fn pins(counts: &Vmstat) -> Option<u64> {
    let of = |field| counts.get(field).copied();
    Some(of("nr_foll_pin_acquired")?.saturating_sub(of("nr_foll_pin_released")?).max(0) as u64)
}

/// Gives the counters that this kernel has.
pub(crate) fn read(counts: &Vmstat) -> Vec<(&'static str, u64)> {
    NAMES.into_iter().filter_map(|name| Some((name, u64::try_from(*counts.get(name)?).ok()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_the_kernel_has_are_given_in_order() {
        let counts = [("pgmigrate_fail", 3), ("compact_stall", 7), ("nr_dirty", 9), ("compact_fail", -1)];
        let counts: Vmstat = counts.into_iter().map(|(name, count)| (name.to_owned(), count)).collect();
        assert_eq!(read(&counts), [("compact_stall", 7), ("pgmigrate_fail", 3)]);
    }
}
