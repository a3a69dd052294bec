//! What Linux counts of its own memory, in `/proc/meminfo` and `/proc/vmstat`: sums without places, which bound what has no name.

use std::{collections::HashMap, fs};

use procfs::{Current, Meminfo};
use serde::Serialize;

use super::lists::{Part, slab_caches, vmalloc_callers};

/// A count of Linux.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Sum {
    /// What it is.
    pub(crate) what: &'static str,
    /// The field that says it.
    pub(crate) field: &'static str,
    /// Bytes.
    pub(crate) bytes: u64,
    /// The largest of what it consists of, where the kernel tells.
    pub(crate) parts: Vec<Part>,
}

/// Fields of `/proc/vmstat` that count pages.
const PAGES: [(&str, &str); 6] = [
    ("compressed memory (zsmalloc)", "nr_zspages"),
    ("a GPU's memory", "nr_gpu_active"),
    ("an IOMMU's page tables", "nr_iommu_pages"),
    ("page tables of guests", "nr_sec_page_table_pages"),
    ("a balloon's", "nr_balloon_pages"),
    ("page tables of processes", "nr_page_table_pages"),
];

/// The fields of `/proc/vmstat`.
pub(crate) type Vmstat = HashMap<String, i64>;

/// Reads the fields; none if the kernel can't be asked.
pub(crate) fn vmstat() -> Vmstat {
    procfs::vmstat().unwrap_or_default()
}

/// Gives those that this kernel counts, the largest first.
pub(crate) fn read(counts: &Vmstat, frame_bytes: u64) -> Vec<Sum> {
    let mut sums = Vec::new();
    if let Ok(info) = Meminfo::current() {
        let bytes = [
            ("slabs", "Slab", Some(info.slab)),
            ("unreclaimable slabs", "SUnreclaim", info.s_unreclaim),
            ("kernel stacks", "KernelStack", info.kernel_stack),
            ("vmalloc", "VmallocUsed", Some(info.vmalloc_used)),
            ("per-CPU memory", "Percpu", info.per_cpu),
            ("hugetlb pools", "Hugetlb", info.hugetlb),
            ("areas for contiguous memory (CMA), free parts", "CmaFree", info.cma_free),
        ];
        sums.extend(bytes.into_iter().filter_map(|(what, field, bytes)| {
            Some(Sum { what, field, bytes: bytes?, parts: parts(field, frame_bytes) })
        }));
    }
    let pages = |field| u64::try_from(*counts.get(field)?).ok();
    let sum = |(what, field)| Some(Sum { what, field, bytes: pages(field)? * frame_bytes, parts: Vec::new() });
    sums.extend(PAGES.into_iter().filter_map(sum));
    sums.sort_by_key(|sum| std::cmp::Reverse(sum.bytes));
    sums
}

fn parts(field: &str, frame_bytes: u64) -> Vec<Part> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    match field {
        "Slab" => slab_caches(&read("/proc/slabinfo"), frame_bytes),
        "VmallocUsed" => vmalloc_callers(&read("/proc/vmallocinfo"), frame_bytes),
        _ => Vec::new(),
    }
}

/// Gives how many pages are pinned now, at most: what was acquired less what was released. `None`: the kernel doesn't count (before 5.7).
pub(crate) fn pins(counts: &Vmstat) -> Option<u64> {
    let of = |field| counts.get(field).copied();
    Some(of("nr_foll_pin_acquired")?.saturating_sub(of("nr_foll_pin_released")?).max(0) as u64)
}
