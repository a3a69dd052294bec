//! How much memory the machine has: what a user asks for, and the default.
//!
//! Takes `512M`, `2G`, `1.5G` or a number of bytes; gives a size that a machine can have, or a sentence.

use std::{fmt, fs, str::FromStr};

use pagemove_hosted::HostedError;

const MIB: u64 = 1 << 20;
/// Least memory: enough blocks for compaction to have a choice.
const LEAST: u64 = 64 * MIB;
/// Most memory: beyond it lie typing errors.
const MOST: u64 = 1 << 40;
/// Most memory by default: what a run in less than a minute has time for.
const MOST_BY_DEFAULT: u64 = 4096 * MIB;
/// Sizes are whole numbers of this, a pageblock of x86-64.
const STEP: u64 = 2 * MIB;

/// A size of memory: a whole number of 2 MiB, at least 64 MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory(u64);

impl Memory {
    /// Gives the bytes.
    pub(crate) fn bytes(self) -> u64 {
        self.0
    }

    /// Refuses more than this program may use: a control group's limit kills who passes it.
    pub(crate) fn check(self) -> Result<(), HostedError> {
        match ram() {
            Some(ram) if self.0 > ram => {
                Err(HostedError::NotEnoughMemory { asked: self.0 / MIB, available: ram / MIB })
            }
            _ => Ok(()),
        }
    }

    /// Gives a quarter of this machine's RAM, at most 4 GiB.
    pub(crate) fn by_default() -> Self {
        let quarter = ram().unwrap_or(0) / 4;
        Self(quarter.clamp(LEAST, MOST_BY_DEFAULT) / STEP * STEP)
    }
}

/// Gives the bytes of RAM that this program may use: the machine's, or its control group's if that is less.
fn ram() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let kib = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?.split_whitespace().next()?;
    let total = kib.parse::<u64>().ok()? * 1024;
    let limit = group_limit().unwrap_or(u64::MAX);
    Some(total.min(limit))
}

/// Gives the limit of the control group (version 2) that this program runs in.
fn group_limit() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let limit = fs::read_to_string(format!("/sys/fs/cgroup{path}/memory.max")).ok()?;
    limit.trim().parse().ok()
}

impl FromStr for Memory {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let letters = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
        let (number, unit) = text.split_at(letters);
        let unit = match unit.to_ascii_uppercase().trim_end_matches('B').trim_end_matches('I') {
            "" => 1,
            "K" => 1 << 10,
            "M" => MIB,
            "G" => 1 << 30,
            "T" => 1 << 40,
            _ => return Err(format!("{unit:?} is no unit of memory; say for example 512M or 2G")),
        };
        let number: f64 = number.trim().parse().map_err(|_| "say for example 512M or 2G".to_owned())?;
        let bytes = number * unit as f64;
        if !bytes.is_finite() || bytes < LEAST as f64 {
            return Err("the least is 64M".into());
        }
        if bytes > MOST as f64 {
            return Err("the most is 1T".into());
        }
        let bytes = bytes as u64;
        if !bytes.is_multiple_of(STEP) {
            return Err("it must be a whole number of 2 MiB blocks".into());
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(1 << 30) { write!(f, "{}G", self.0 >> 30) } else { write!(f, "{}M", self.0 >> 20) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, mib) in
            [("64M", 64), ("512MiB", 512), ("2g", 2048), ("1.5G", 1536), ("67108864", 64), ("65536K", 64)]
        {
            let memory: Memory = text.parse().unwrap();
            assert_eq!(memory.bytes(), mib * MIB, "{text}");
            assert_eq!(memory.to_string().parse(), Ok(memory));
        }
    }

    #[test]
    fn absurd_sizes_are_refused() {
        for text in
            ["", "0", "-1G", "63M", "65M", "1e30T", "nan", "NaNG", "1025G", "inf", "5T", "12 parsecs", "G", "1GG"]
        {
            assert!(text.parse::<Memory>().is_err(), "{text:?} is taken");
        }
    }

    #[test]
    fn the_default_is_whole_and_within_bounds() {
        let bytes = Memory::by_default().bytes();
        assert!((LEAST..=MOST_BY_DEFAULT).contains(&bytes) && bytes.is_multiple_of(STEP));
    }
}
