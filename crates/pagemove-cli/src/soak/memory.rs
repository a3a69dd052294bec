//! What the program itself takes from the host. Frames of the machine count apart: they come with their first use, and are
//! counted again in each window that shows them.

use std::{fmt, fs};

/// The program's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Resident {
    /// Its own: heap, stacks, tables about frames.
    own_kib: u64,
    /// Frames of the machine, as often as they are mapped.
    frames_kib: u64,
}

impl Resident {
    /// Looks now; nothing where the host doesn't tell.
    pub(super) fn now() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/self/status").ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| -> Option<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().strip_suffix("kB")?.trim().parse().ok()
        };
        Some(Self { own_kib: field("RssAnon:")?, frames_kib: field("RssShmem:")? })
    }

    /// Gives by how much its own memory has grown since.
    pub(super) fn growth_kib(self, since: Self) -> u64 {
        self.own_kib.saturating_sub(since.own_kib)
    }
}

impl fmt::Display for Resident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB + {} MiB of frames", self.own_kib >> 10, self.frames_kib >> 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_is_read() {
        let text = "VmRSS:\t 9000 kB\nRssAnon:\t    5120 kB\nRssFile:\t 1 kB\nRssShmem:\t 2048 kB\n";
        let resident = Resident::parse(text).expect("both are there");
        assert_eq!(resident.to_string(), "5 MiB + 2 MiB of frames");
        let before = Resident { own_kib: 5000, frames_kib: 0 };
        assert_eq!((resident.growth_kib(before), before.growth_kib(resident)), (120, 0));
        assert_eq!(Resident::parse("RssAnon: 1 kB\n"), None);
        assert!(Resident::now().is_some());
    }
}
