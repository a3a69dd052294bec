//! What the kernel tells of its memory, and the switch that makes it compact.
//!
//! Takes files below `/proc`; gives numbers. Promises an error rather than a number when a file says something unexpected.

use std::fs::{self, File};
use std::io::{Error, Result};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use crate::sys::{Map, PAGE};

/// What `pagemap` tells of each page of a mapping.
fn entries(map: &Map) -> Result<Vec<u64>> {
    let file = File::open("/proc/self/pagemap")?;
    let mut bytes = vec![0; map.pages() * 8];
    file.read_exact_at(&mut bytes, (map.address() / PAGE * 8) as u64)?;
    Ok(bytes.chunks_exact(8).map(|entry| u64::from_ne_bytes(entry.try_into().unwrap_or_default())).collect())
}

/// The frame of each page of a mapping; 0 where there's none now.
pub(crate) fn frames(map: &Map) -> Result<Vec<u64>> {
    // Bit 63: present. Bits 0 to 54: the frame.
    let frame = |entry: u64| if entry >> 63 == 1 { entry & ((1 << 55) - 1) } else { 0 };
    Ok(entries(map)?.into_iter().map(frame).collect())
}

/// The bit of `pagemap` for a page written to since `clear_refs`.
pub(crate) const SOFT_DIRTY: u32 = 55;
/// The bit of `pagemap` for a page that a userfaultfd protects from writing.
pub(crate) const UFFD_PROTECTED: u32 = 57;

/// Which pages of a mapping have this bit.
pub(crate) fn marked(map: &Map, bit: u32) -> Result<Vec<bool>> {
    Ok(entries(map)?.into_iter().map(|entry| entry >> bit & 1 == 1).collect())
}

/// Free blocks of 2 MiB, at least: of order 9, and twice those of order 10.
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

/// Free memory in pages, with what processors have to themselves: that isn't counted as free, and can be a lot.
pub(crate) fn free_pages_everywhere() -> Result<u64> {
    let text = fs::read_to_string("/proc/zoneinfo")?;
    let own = text.lines().filter_map(|line| line.trim().strip_prefix("count:")?.trim().parse::<u64>().ok());
    Ok(free_pages()? + own.sum::<u64>())
}

/// Free memory of a node, in pages.
pub(crate) fn free_pages_of(node: i32) -> Result<u64> {
    Ok(kib(&format!("/sys/devices/system/node/node{node}/meminfo"), "MemFree:")? / 4)
}

/// A number that a file tells after a name.
pub(crate) fn kib(file: &str, name: &str) -> Result<u64> {
    let text = fs::read_to_string(file)?;
    let kib = text.lines().find_map(|line| line.split_once(name)?.1.split_whitespace().next()?.parse().ok());
    kib.ok_or_else(|| Error::other(format!("no {name} in {file}")))
}

/// Reads a file that holds one number.
pub(crate) fn number_in(file: &str) -> Result<u64> {
    fs::read_to_string(file)?.trim().parse().map_err(|_| Error::other(format!("no number in {file}")))
}

/// Waits for something to come true; an error if it doesn't within a minute.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let started = Instant::now();
    while !is_so()? {
        if started.elapsed() > Duration::from_secs(60) {
            return Err(Error::other(format!("waited in vain for {what}")));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Whether the kernel is built with an option, as its own configuration says.
pub(crate) fn is_configured(option: &str) -> Result<bool> {
    let text = fs::read_to_string("/config")?;
    Ok(text.lines().any(|line| line.strip_prefix(option).is_some_and(|rest| rest == "=y")))
}

/// Has the kernel move pages when it's asked to, not when it likes: neither nearer to who touches them (for which it takes
/// entries away; `move_pages` of older kernels then finds no page there), nor together, in the background. What has moved
/// before anybody looks is missing from what is counted, and memory that was compacted has little left to move.
pub(crate) fn move_only_when_asked() -> Result<()> {
    fs::write("/proc/sys/kernel/numa_balancing", "0")?;
    fs::write("/proc/sys/vm/compaction_proactiveness", "0")
}

pub(crate) fn compact() -> Result<()> {
    fs::write("/proc/sys/vm/compact_memory", "1")
}

/// Random numbers that are good enough for tests, from a seed (xorshift).
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
