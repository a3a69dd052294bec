//! What lies at fixed places: `/proc/iomem` (the kernel's image, memory for a crash kernel) and the areas of CMA in debugfs, which root may read.
//!
//! Takes their texts, gives ranges of frames with names. Promises no panic, whatever the text says.

use std::{fs, path::Path};

use crate::terminal::plain;

/// Ranges of frames with names, upwards, those within others left out.
#[derive(Debug, Default)]
pub(super) struct Regions(Vec<(u64, u64, String)>);

impl Regions {
    /// Reads lines such as `  01000000-02209987 : Kernel code`: addresses in hexadecimal, the last one included.
    pub(super) fn parse(text: &str, frame_bytes: u64) -> Self {
        let mut regions = Vec::new();
        for line in text.lines() {
            let Some((range, name)) = line.trim_start().split_once(" : ") else { continue };
            let Some((first, last)) = range.split_once('-') else { continue };
            let number = |text| u64::from_str_radix(text, 16).ok();
            let (Some(first), Some(last)) = (number(first), number(last)) else { continue };
            // Without root all addresses are 0; and memory as a whole is no owner.
            if (first, last) != (0, 0) && first <= last && !["System RAM", "Reserved", "reserved"].contains(&name) {
                regions.push((first / frame_bytes, last / frame_bytes + 1, plain(name)));
            }
        }
        Self::sorted(regions)
    }

    /// Finds the areas of CMA in a folder like `/sys/kernel/debug` (`cma/NAME/base_pfn` and `count`; `ranges` of several are left out).
    pub(super) fn cma(debug: &Path) -> Self {
        let mut areas = Vec::new();
        for area in fs::read_dir(debug.join("cma")).into_iter().flatten().flatten() {
            let number = |file| fs::read_to_string(area.path().join(file)).ok()?.trim().parse::<u64>().ok();
            if let (Some(first), Some(frames)) = (number("base_pfn"), number("count"))
                && let Some(end) = first.checked_add(frames)
            {
                let name = area.file_name().to_string_lossy().into_owned();
                areas.push((first, end, format!("CMA area {}", plain(name.strip_prefix("cma-").unwrap_or(&name)))));
            }
        }
        Self::sorted(areas)
    }

    fn sorted(mut regions: Vec<(u64, u64, String)>) -> Self {
        regions.sort_by_key(|&(first, end, _)| (first, std::cmp::Reverse(end)));
        let mut behind = 0;
        regions.retain(|&(first, end, _)| {
            let is_new = first >= behind;
            behind = behind.max(end);
            is_new
        });
        Self(regions)
    }

    /// Gives the number of the region that has a frame.
    pub(super) fn number(&self, pfn: u64) -> Option<u32> {
        let behind = self.0.partition_point(|&(first, ..)| first <= pfn);
        let at = behind.checked_sub(1)?;
        (pfn < self.0[at].1).then_some(at as u32)
    }

    /// Gives the name of a region.
    pub(super) fn name(&self, number: u32) -> &str {
        &self.0[number as usize].2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_the_image_are_named() {
        let text = "00001000-0009fbff : System RAM\n00100000-bfffffff : System RAM\n  01000000-02209987 : Kernel code\n\
                    \x20   02000000-02000fff : part\n  0220a000-0220afff : Crash\x1b kernel\nnonsense\n-1-2 : x\n5-1 : y\n";
        let regions = Regions::parse(text, 4096);
        let name = |pfn| regions.number(pfn).map(|number| regions.name(number));
        assert_eq!(
            [name(0x100), name(0x1000), name(0x2000), name(0x2209)],
            [None, Some("Kernel code"), Some("Kernel code"), Some("Kernel code")]
        );
        assert_eq!([name(0x220a), name(0x220b), name(0)], [Some("Crash\u{fffd} kernel"), None, None]);
        let debug = tempfile::tempdir().expect("a folder");
        for (name, first, frames) in
            [("cma-reserved", "16\n", "8\n"), ("video", "40\n", "x"), ("far", "18446744073709551615", "9")]
        {
            let area = debug.path().join("cma").join(name);
            fs::create_dir_all(&area).expect("a folder");
            fs::write(area.join("base_pfn"), first).expect("a file");
            fs::write(area.join("count"), frames).expect("a file");
        }
        let areas = Regions::cma(debug.path());
        let name = |pfn| areas.number(pfn).map(|number| areas.name(number));
        assert_eq!(
            [name(15), name(16), name(23), name(24), name(40)],
            [None, Some("CMA area reserved"), Some("CMA area reserved"), None, None]
        );
        // As anybody but root sees it.
        assert!(Regions::parse("00000000-00000000 : Kernel code\n", 4096).number(0).is_none());
    }
}
