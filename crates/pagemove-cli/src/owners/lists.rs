//! What a sum of the kernel's own memory consists of: slab caches (`/proc/slabinfo`), callers of vmalloc (`/proc/vmallocinfo`). Root may read both.
//!
//! Takes their texts, gives the largest parts. They have no places: which cache a slab page is of only `page_owner` tells. Promises no panic,
//! whatever the texts say.

use std::collections::HashMap;

use serde::Serialize;

use crate::terminal::plain;

/// Parts that are named.
const MOST: usize = 5;

/// A part of a sum.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Part {
    /// A cache, or a function.
    pub(crate) name: String,
    /// Bytes.
    pub(crate) bytes: u64,
}

/// The largest slab caches: lines `name active num size perslab pagesperslab : tunables … : slabdata active num shared`.
pub(super) fn slab_caches(slabinfo: &str, frame_bytes: u64) -> Vec<Part> {
    let cache = |line: &str| {
        let (head, rest) = line.split_once(" : tunables ")?;
        let mut head = head.split_whitespace();
        let (name, pages) = (head.next()?, head.nth(4)?.parse::<u64>().ok()?);
        let slabs = rest.split_once(" : slabdata ")?.1.split_whitespace().nth(1)?.parse::<u64>().ok()?;
        Some((name.to_owned(), slabs.saturating_mul(pages).saturating_mul(frame_bytes)))
    };
    largest(slabinfo.lines().filter_map(cache))
}

/// The functions that hold most memory by vmalloc: lines `0x…-0x… size function+0x1/0x2 [module] pages=4 vmalloc …`; mapped devices have no
/// pages.
pub(super) fn vmalloc_callers(vmallocinfo: &str, frame_bytes: u64) -> Vec<Part> {
    let caller = |line: &str| {
        let mut words = line.split_whitespace().skip(2);
        let function = words.next()?.split_once("+0x")?.0;
        let (mut name, mut pages) = (function.to_owned(), None);
        for word in words {
            if word.starts_with('[') && word.ends_with(']') {
                name = format!("{function} {word}");
            } else if let Some(count) = word.strip_prefix("pages=") {
                pages = count.parse::<u64>().ok();
            }
        }
        Some((name, pages?.saturating_mul(frame_bytes)))
    };
    largest(vmallocinfo.lines().filter_map(caller))
}

fn largest(all: impl Iterator<Item = (String, u64)>) -> Vec<Part> {
    let mut sums = HashMap::<String, u64>::new();
    for (name, bytes) in all {
        let sum = sums.entry(name).or_default();
        *sum = sum.saturating_add(bytes);
    }
    let mut parts: Vec<Part> = sums.into_iter().map(|(name, bytes)| Part { name: plain(&name), bytes }).collect();
    parts.sort_by(|left, right| (right.bytes, &left.name).cmp(&(left.bytes, &right.name)));
    parts.truncate(MOST);
    parts.retain(|part| part.bytes > 0);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(parts: Vec<Part>) -> Vec<(String, u64)> {
        parts.into_iter().map(|part| (part.name, part.bytes)).collect()
    }

    #[test]
    fn caches_and_callers_are_summed() {
        let slabinfo = "slabinfo - version: 2.1\n# name <active_objs> … : tunables <limit> … : slabdata <active_slabs>\n\
                        dentry 90 100 192 21 1 : tunables 0 0 0 : slabdata 40 50 0\nkmalloc-8k 8 8 8192 4 8 : tunables 0 0 0 : slabdata 20 20 0\n\
                        empty 0 0 8 512 1 : tunables 0 0 0 : slabdata 0 0 0\n";
        assert_eq!(told(slab_caches(slabinfo, 4096)), [("kmalloc-8k".into(), 655_360), ("dentry".into(), 204_800)]);
        let vmallocinfo = "0x1-0x2   20480 kernel_clone+0x94/0x3e0 pages=4 vmalloc N0=4\n0x1-0x2 8192 map+0x1/0x2 phys=0x1 ioremap\n\
                           0x1-0x2   20480 kernel_clone+0x99/0x3e0 pages=1 vmalloc\n0x1-0x2 8 fill+0x1/0x2 [leaky] pages=9 vmalloc\nx\n";
        assert_eq!(
            told(vmalloc_callers(vmallocinfo, 4096)),
            [("fill [leaky]".into(), 36_864), ("kernel_clone".into(), 20_480)]
        );
        assert_eq!((slab_caches("", 4096), vmalloc_callers("a b c d", 4096)), (vec![], vec![]));
    }
}
