//! What Linux counts of its own memory, in `/proc/meminfo` and `/proc/vmstat`: sums without places, which bound what has no name.

use std::fs;

use procfs::{Current, Meminfo};
use serde::Serialize;

use super::lists::{Part, slab_caches, vmalloc_callers};
use crate::kernel::counters::Vmstat;

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
    let sockets = sockets(&fs::read_to_string("/proc/net/sockstat").unwrap_or_default());
    sums.push(Sum { what: "buffers of sockets", field: "sockstat", bytes: sockets * frame_bytes, parts: Vec::new() });
    let pages = |field| u64::try_from(*counts.get(field)?).ok();
    let sum = |(what, field)| Some(Sum { what, field, bytes: pages(field)? * frame_bytes, parts: Vec::new() });
    sums.extend(PAGES.into_iter().filter_map(sum));
    sums.sort_by_key(|sum| std::cmp::Reverse(sum.bytes));
    sums
}

/// Sums the pages of socket buffers: `mem 5` in lines such as `TCP: inuse 5 orphan 0 tw 0 alloc 6 mem 5`.
fn sockets(sockstat: &str) -> u64 {
    let pages = |line: &str| line.split_once(" mem ")?.1.split_whitespace().next()?.parse::<u64>().ok();
    sockstat.lines().filter_map(pages).fold(0, u64::saturating_add)
}

/// Sums of memory whose frames have the class `kernel`.
const KERNELS: [&str; 8] = [
    "KernelStack",
    "VmallocUsed",
    "Percpu",
    "sockstat",
    "nr_zspages",
    "nr_gpu_active",
    "nr_iommu_pages",
    "nr_sec_page_table_pages",
];

/// Gives how many of the kernel's frames, at least, no sum explains: buffers of pipes, what drivers keep to themselves. `per_cpu` are free.
pub(crate) fn unexplained(sums: &[Sum], kernels: u64, per_cpu: u64, frame_bytes: u64) -> u64 {
    let explained = sums.iter().filter(|sum| KERNELS.contains(&sum.field)).map(|sum| sum.bytes / frame_bytes);
    kernels.saturating_sub(per_cpu).saturating_sub(explained.fold(0, u64::saturating_add))
}

fn parts(field: &str, frame_bytes: u64) -> Vec<Part> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    match field {
        "Slab" => slab_caches(&read("/proc/slabinfo"), frame_bytes),
        "VmallocUsed" => vmalloc_callers(&read("/proc/vmallocinfo"), frame_bytes),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nothing_explains_is_left() {
        let sum = |field, frames: u64| Sum { what: "", field, bytes: frames * 4096, parts: Vec::new() };
        let sums = [sum("KernelStack", 10), sum("VmallocUsed", 5), sum("Slab", 1_000)];
        assert_eq!([unexplained(&sums, 100, 20, 4096), unexplained(&sums, 10, 20, 4096)], [65, 0]);
        assert_eq!(
            sockets("sockets: used 9\nTCP: inuse 5 orphan 0 tw 0 alloc 6 mem 5\nUDP: inuse 2 mem 3\nRAW: inuse 0\n"),
            8
        );
    }
}
