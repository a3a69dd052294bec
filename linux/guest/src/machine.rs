//! What the kernel tells of its memory, and the switch that makes it compact.
//!
//! Takes files below `/proc`; gives numbers. Promises an error rather than a number when a file says something unexpected.

use std::fs::{self, File};
use std::io::{Error, Result};
use std::os::unix::fs::FileExt;

use crate::sys::{Map, PAGE};

/// The frame of each page of a mapping; 0 where there's none now.
pub(crate) fn frames(map: &Map) -> Result<Vec<u64>> {
    let file = File::open("/proc/self/pagemap")?;
    let mut bytes = vec![0; map.pages() * 8];
    file.read_exact_at(&mut bytes, (map.address() / PAGE * 8) as u64)?;
    let entries = bytes.chunks_exact(8).map(|entry| u64::from_ne_bytes(entry.try_into().unwrap_or_default()));
    // Bit 63: present. Bits 0 to 54: the frame.
    Ok(entries.map(|entry| if entry >> 63 == 1 { entry & ((1 << 55) - 1) } else { 0 }).collect())
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
    let text = fs::read_to_string("/proc/meminfo")?;
    let kib =
        text.lines().find_map(|line| line.strip_prefix("MemFree:")?.split_whitespace().next()?.parse::<u64>().ok());
    kib.map(|kib| kib / 4).ok_or_else(|| Error::other("no MemFree in /proc/meminfo"))
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
