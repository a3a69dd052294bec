//! The sample driver's interface, typed. A failed call gives the kernel's errno.

use std::fs::{self, File, OpenOptions};
use std::io::Result;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;

use pagemove_sample::uapi::{self, Counts, Listed, Named, One, Policy, Range, Watched};

use crate::sys::{self, Kind, Map};

/// The debugfs list: a line for each open, each pin, and pages held by others.
pub(crate) fn opens() -> Result<String> {
    fs::read_to_string(format!("/sys/kernel/debug/{}/opens", uapi::DEVICE.to_string_lossy()))
}

/// The lines of a process's opens.
pub(crate) fn opens_of(process: u32) -> Result<Vec<String>> {
    let text = opens()?;
    let mut is_its = false;
    let lines = text.lines().filter(|line| {
        if !line.starts_with(' ') {
            is_its = line.starts_with(&format!("open pid={process} "));
        }
        is_its
    });
    Ok(lines.map(String::from).collect())
}

/// An open of the device.
pub(crate) struct Device {
    pub(crate) file: File,
}

impl Device {
    /// Opens the device, with a buffer of `pages` pages.
    pub(crate) fn open(pages: u64) -> Result<Self> {
        let path = format!("/dev/{}", uapi::DEVICE.to_string_lossy());
        let device = Self { file: OpenOptions::new().read(true).write(true).open(path)? };
        device.resize(pages)?;
        Ok(device)
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    pub(crate) fn call(&self, command: u32, argument: &mut [u8]) -> Result<i64> {
        sys::ioctl(self.fd(), command, argument)
    }

    pub(crate) fn resize(&self, pages: u64) -> Result<i64> {
        self.call(uapi::RESIZE, &mut One { number: pages }.to_bytes())
    }

    pub(crate) fn free(&self, first: u64, pages: u64) -> Result<i64> {
        self.call(uapi::FREE, &mut Range { first, pages }.to_bytes())
    }

    pub(crate) fn fill(&self, first: u64, pages: u64) -> Result<i64> {
        self.call(uapi::FILL, &mut Range { first, pages }.to_bytes())
    }

    pub(crate) fn policy(&self, policy: Policy) -> Result<i64> {
        self.call(uapi::POLICY, &mut One { number: policy as u64 }.to_bytes())
    }

    pub(crate) fn pin(&self, index: u64, name: &str) -> Result<i64> {
        self.call(uapi::PIN, &mut named(index, name))
    }

    pub(crate) fn unpin(&self, index: u64, name: &str) -> Result<i64> {
        self.call(uapi::UNPIN, &mut named(index, name))
    }

    pub(crate) fn watch(&self, index: u64) -> Result<i64> {
        self.call(uapi::WATCH, &mut One { number: index }.to_bytes())
    }

    /// The frame in the driver's own table.
    pub(crate) fn look(&self, index: u64) -> Result<u64> {
        let mut bytes = Watched { index, pfn: 0 }.to_bytes();
        self.call(uapi::LOOK, &mut bytes)?;
        Ok(Watched::from_bytes(&bytes).map_or(0, |watched| watched.pfn))
    }

    pub(crate) fn list(&self, place: u64) -> Result<Option<Listed>> {
        let mut bytes = Listed { place, index: 0, since_ns: 0, pid: 0, by: [0; 16], name: [0; 24] }.to_bytes();
        self.call(uapi::LIST, &mut bytes)?;
        Ok(Listed::from_bytes(&bytes))
    }

    pub(crate) fn counts(&self) -> Result<Counts> {
        let mut bytes = [0; Counts::BYTES];
        self.call(uapi::COUNT, &mut bytes)?;
        Counts::from_bytes(&bytes).ok_or_else(|| std::io::Error::other("counts of a wrong length"))
    }

    /// Writes a word by `write`, not through a mapping.
    pub(crate) fn write_word(&self, page: u64, word: u64, value: u64) -> Result<()> {
        self.file.write_all_at(&value.to_ne_bytes(), page * sys::PAGE as u64 + word * 8)
    }

    /// Reads a word by `read`.
    pub(crate) fn read_word(&self, page: u64, word: u64) -> Result<u64> {
        self.read_words(page, word).map(|[word]| word)
    }

    /// Reads consecutive words by `read`.
    pub(crate) fn read_words<const WORDS: usize>(&self, page: u64, first: u64) -> Result<[u64; WORDS]> {
        let mut bytes = [[0; 8]; WORDS];
        self.file.read_exact_at(bytes.as_flattened_mut(), page * sys::PAGE as u64 + first * 8)?;
        Ok(bytes.map(u64::from_ne_bytes))
    }

    pub(crate) fn map(&self, first: u64, pages: usize, kind: Kind) -> Result<Map> {
        Map::new(Some(self.fd()), first, pages, kind)
    }
}

fn named(index: u64, name: &str) -> [u8; Named::BYTES] {
    let mut padded = [0; 24];
    padded[..name.len()].copy_from_slice(name.as_bytes());
    Named { index, name: padded }.to_bytes()
}
