//! What the kernel reports about memory, and the switch for compaction.
//!
//! Reads files below `/proc` and `/sys`; unexpected contents give an error.

use std::fs::{self, File};
use std::io::{Error, Result};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use crate::sys::{Map, PAGE};

/// The `pagemap` entry of each page of a mapping.
fn entries(map: &Map) -> Result<Vec<u64>> {
    let file = File::open("/proc/self/pagemap")?;
    let mut bytes = vec![0; map.pages() * 8];
    file.read_exact_at(&mut bytes, (map.address() / PAGE * 8) as u64)?;
    Ok(bytes.chunks_exact(8).map(|entry| u64::from_ne_bytes(entry.try_into().unwrap_or_default())).collect())
}

/// The frame of each page of a mapping; 0 if it isn't present.
pub(crate) fn frames(map: &Map) -> Result<Vec<u64>> {
    // Bit 63: present. Bits 0 to 54: the frame.
    let frame = |entry: u64| if entry >> 63 == 1 { entry & ((1 << 55) - 1) } else { 0 };
    Ok(entries(map)?.into_iter().map(frame).collect())
}

/// `pagemap` bit: written since `clear_refs`.
pub(crate) const SOFT_DIRTY: u32 = 55;
/// `pagemap` bit: write-protected by a userfaultfd.
pub(crate) const UFFD_PROTECTED: u32 = 57;

/// Tells for each page of a mapping whether this bit is set.
pub(crate) fn marked(map: &Map, bit: u32) -> Result<Vec<bool>> {
    Ok(entries(map)?.into_iter().map(|entry| entry >> bit & 1 == 1).collect())
}

/// The number of free 2 MiB blocks, of orders 9 and above.
pub(crate) fn free_order9() -> Result<u64> {
    let text = fs::read_to_string("/proc/buddyinfo")?;
    let mut free = 0;
    for line in text.lines() {
        let Some((_, counts)) = line.split_once("zone") else { continue };
        let counts: Vec<u64> = counts.split_whitespace().skip(1).filter_map(|count| count.parse().ok()).collect();
        free += counts.iter().skip(9).enumerate().map(|(above, count)| count << above).sum::<u64>();
    }
    Ok(free)
}

/// Free memory in pages.
pub(crate) fn free_pages() -> Result<u64> {
    Ok(kib("/proc/meminfo", "MemFree:")? / 4)
}

/// Free memory in pages, including per-CPU lists: they aren't in `MemFree`, and can be long.
pub(crate) fn free_pages_everywhere() -> Result<u64> {
    let text = fs::read_to_string("/proc/zoneinfo")?;
    let own = text.lines().filter_map(|line| line.trim().strip_prefix("count:")?.trim().parse::<u64>().ok());
    Ok(free_pages()? + own.sum::<u64>())
}

/// Free memory of a node, in pages.
pub(crate) fn free_pages_of(node: i32) -> Result<u64> {
    Ok(kib(&format!("/sys/devices/system/node/node{node}/meminfo"), "MemFree:")? / 4)
}

/// The number after `name` in a file.
pub(crate) fn kib(file: &str, name: &str) -> Result<u64> {
    let text = fs::read_to_string(file)?;
    let kib = text.lines().find_map(|line| line.split_once(name)?.1.split_whitespace().next()?.parse().ok());
    kib.ok_or_else(|| Error::other(format!("no {name} in {file}")))
}

/// Reads a file that holds one number.
pub(crate) fn number_in(file: &str) -> Result<u64> {
    fs::read_to_string(file)?.trim().parse().map_err(|_| Error::other(format!("no number in {file}")))
}

/// Waits for a condition; fails after a minute.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let started = Instant::now();
    while !is_so()? {
        if started.elapsed() > Duration::from_secs(60) {
            return Err(Error::other(format!("timed out waiting for {what}")));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Tells whether the kernel is built with an option, from its own configuration.
pub(crate) fn is_configured(option: &str) -> Result<bool> {
    let text = fs::read_to_string("/config")?;
    Ok(text.lines().any(|line| line.strip_prefix(option).is_some_and(|rest| rest == "=y")))
}

/// Switches off the kernel's own moves: NUMA balancing and proactive compaction. NUMA balancing takes entries away, and
/// `move_pages` of older kernels finds no page there. Moves before the first look aren't counted, and compacted memory
/// leaves little to move.
pub(crate) fn move_only_when_asked() -> Result<()> {
    fs::write("/proc/sys/kernel/numa_balancing", "0")?;
    fs::write("/proc/sys/vm/compaction_proactiveness", "0")
}

/// Reads a counter of `/proc/vmstat`.
pub(crate) fn count(name: &str) -> Result<u64> {
    let text = fs::read_to_string("/proc/vmstat")?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    value.ok_or_else(|| Error::other(format!("/proc/vmstat has no {name}")))
}

pub(crate) fn compact() -> Result<()> {
    fs::write("/proc/sys/vm/compact_memory", "1")
}

/// A random number generator (xorshift), with a seed; good enough for tests.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn draw(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        ((self.draw() >> 16) % end.max(1) as u64) as usize
    }
}
