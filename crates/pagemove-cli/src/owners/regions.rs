//! What lies at fixed places: `/proc/iomem` (the kernel's image, memory for a crash kernel) and the areas of CMA in debugfs, which root may read.
//!
//! Takes their texts, gives ranges of frames with names. Promises no panic, whatever the text says.

use std::{collections::HashMap, fs, path::Path};

use crate::terminal::plain;

/// Ranges of frames with names, upwards, those within others left out.
#[derive(Debug, Default)]
pub(super) struct Regions {
    /// First frame, end, and the name's number: several ranges may have one name.
    ranges: Vec<(u64, u64, u32)>,
    names: Vec<String>,
}

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

    /// Finds the areas of CMA in a folder like `/sys/kernel/debug` (`cma/NAME/base_pfn` and `count`); one of several ranges is left out.
    pub(super) fn cma(debug: &Path) -> Self {
        let mut areas = Vec::new();
        for area in fs::read_dir(debug.join("cma")).into_iter().flatten().flatten() {
            let number = |file| fs::read_to_string(area.path().join(file)).ok()?.trim().parse::<u64>().ok();
            // `base_pfn` is the first range's, `count` that of all.
            let is_one_range = !area.path().join("ranges/1").exists();
            if let (true, Some(first), Some(frames)) = (is_one_range, number("base_pfn"), number("count"))
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
        let (mut sorted, mut behind) = (Self::default(), 0);
        let mut numbers = HashMap::<String, u32>::new();
        for (first, end, name) in regions {
            // With large frames two may share one: it's the first one's.
            let first = first.max(behind);
            if first < end {
                behind = end;
                let next = sorted.names.len() as u32;
                let number = *numbers.entry(name).or_insert_with_key(|name| {
                    sorted.names.push(name.clone());
                    next
                });
                sorted.ranges.push((first, end, number));
            }
        }
        sorted
    }

    /// Gives the number of the name of a frame's region.
    pub(super) fn number(&self, pfn: u64) -> Option<u32> {
        let behind = self.ranges.partition_point(|&(first, ..)| first <= pfn);
        let &(_, end, number) = self.ranges.get(behind.checked_sub(1)?)?;
        (pfn < end).then_some(number)
    }

    /// Gives a name.
    pub(super) fn name(&self, number: u32) -> &str {
        &self.names[number as usize]
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
