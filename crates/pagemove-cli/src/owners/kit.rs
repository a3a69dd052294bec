//! Pages that drivers of pagemove's kit have pinned: their own lists in debugfs (`opens`, docs/linux-driver.md), which say who, and what for.
//!
//! Takes the text of such a list, gives the frames with names. Promises no panic, whatever the text says.

use std::{collections::HashMap, fs, path::Path};

use crate::terminal::plain;

/// Names of pinned frames.
#[derive(Debug, Default)]
pub(super) struct Pins {
    names: Vec<String>,
    numbers: HashMap<String, u32>,
    frames: HashMap<u64, u32>,
}

impl Pins {
    /// Reads all lists in a folder like `/sys/kernel/debug`.
    pub(super) fn find(debug: &Path) -> Self {
        let mut found = Self::default();
        for device in fs::read_dir(debug).into_iter().flatten().flatten() {
            if let Ok(text) = fs::read_to_string(device.path().join("opens")) {
                found.add(&device.file_name().to_string_lossy(), &text);
            }
        }
        found
    }

    /// Reads lines such as `  pin pid=7 by="x" uid=0 for_ms=5 page=1 frame=0x1234 name="dma"`, of opens and of those left over.
    fn add(&mut self, device: &str, text: &str) {
        for line in text.lines() {
            let fields = fields(line);
            let field = |key| fields.iter().find(|field| field.0 == key).map(|field| field.1);
            let frame = field("frame").and_then(|frame| u64::from_str_radix(frame.strip_prefix("0x")?, 16).ok());
            let (Some(frame), Some(by)) = (frame, field("by")) else { continue };
            let name = plain(&format!("{device}, pinned by {by} ({})", field("name").unwrap_or_default()));
            let next = self.names.len() as u32;
            let number = *self.numbers.entry(name).or_insert_with_key(|name| {
                self.names.push(name.clone());
                next
            });
            self.frames.insert(frame, number);
        }
    }

    /// Tells whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Gives the number of a pinned frame's name.
    pub(super) fn number(&self, pfn: u64) -> Option<u32> {
        self.frames.get(&pfn).copied()
    }

    /// Gives a name.
    pub(super) fn name(&self, number: u32) -> &str {
        &self.names[number as usize]
    }
}

/// Gives the fields of a line in their order: `key=value`, or `key="value"`, in which the driver escapes quotes but not blanks.
fn fields(line: &str) -> Vec<(&str, &str)> {
    let (mut fields, mut rest) = (Vec::new(), line);
    while let Some((before, after)) = rest.split_once('=') {
        let key = before.rsplit(' ').next().unwrap_or(before);
        let (value, behind) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => after.split_once(' ').unwrap_or((after, "")),
        };
        fields.push((key, value));
        rest = behind;
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pinned_frames_have_the_names_that_the_driver_gives() {
        let folder = tempfile::tempdir().expect("a folder");
        let device = folder.path().join("pmsample");
        fs::create_dir(&device).expect("a folder");
        let list = "open pid=5 by=\"writer\" uid=0 size=8\n  pin pid=5 by=\"wri\\x22ter x\" uid=0 for_ms=5 page=1 frame=0x1234 name=\"dma\"\n\
                    \x20 pin pid=5 by=\"a\" frame=1234 name=\"dma\"\n  others pages=2\n\
                    \x20 pin pid=5 by=\"x frame=0x99 y\" uid=0 for_ms=5 page=1 frame=0x77 name=\"\"\n";
        fs::write(device.join("opens"), list).expect("a file");
        let pins = Pins::find(folder.path());
        let name = |pfn| pins.number(pfn).map(|number| pins.name(number));
        assert_eq!([name(0x1234), name(1234)], [Some("pmsample, pinned by wri\\x22ter x (dma)"), None]);
        // A process may have any name.
        assert_eq!([name(0x77), name(0x99)], [Some("pmsample, pinned by x frame=0x99 y ()"), None]);
        assert!(Pins::find(Path::new("/none")).number(0).is_none());
    }
}
