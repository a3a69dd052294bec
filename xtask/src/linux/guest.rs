//! What a guest boots from: one program, modules and the kernel's configuration, in an archive that the kernel unpacks
//! into memory.
//!
//! Takes the workspace, the modules' files and the configuration; gives the archive's bytes. Promises a program that needs
//! no library, since there's none in the guest, and an archive in the form `newc` that every kernel takes.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::static_program;

/// Builds the guests' program; gives its bytes.
pub(super) fn program(root: &Path) -> Result<Vec<u8>> {
    build(root, "pagemove-guest", "pagemove-guest")
}

/// Builds the command, and packs it as an archive to be put behind another one.
pub(super) fn command(root: &Path) -> Result<Vec<u8>> {
    let command = build(root, "pagemove-cli", "pagemove")?;
    let mut archive = Vec::new();
    entry(&mut archive, "pagemove", 0o100_755, (0, 0), &command);
    entry(&mut archive, "TRAILER!!!", 0, (0, 0), &[]);
    // As `cpio` ends one.
    archive.resize(archive.len().next_multiple_of(512), 0);
    Ok(archive)
}

fn build(root: &Path, package: &str, name: &str) -> Result<Vec<u8>> {
    let file = static_program::build(root, package, name)?;
    fs::read(&file).with_context(|| format!("can't read {}", file.display()))
}

/// Packs the program, modules under their files' names, and the configuration of the kernel that they are for.
pub(super) fn archive(program: &[u8], modules: &[PathBuf], config: &[u8]) -> Result<Vec<u8>> {
    let mut archive = Vec::new();
    for folder in ["dev", "proc", "sys"] {
        entry(&mut archive, folder, 0o040_755, (0, 0), &[]);
    }
    // What the program says goes here before anything is mounted.
    entry(&mut archive, "dev/console", 0o020_600, (5, 1), &[]);
    entry(&mut archive, "init", 0o100_755, (0, 0), program);
    for file in modules {
        let module = fs::read(file).with_context(|| format!("can't read {}", file.display()))?;
        let name = file.file_name().with_context(|| format!("{} has no name", file.display()))?;
        entry(&mut archive, &name.to_string_lossy(), 0o100_644, (0, 0), &module);
    }
    entry(&mut archive, "config", 0o100_644, (0, 0), config);
    entry(&mut archive, "TRAILER!!!", 0, (0, 0), &[]);
    Ok(archive)
}

/// Adds a file: a header of 13 numbers, its name, its bytes; each padded to four bytes.
fn entry(archive: &mut Vec<u8>, name: &str, mode: u32, device: (u32, u32), bytes: &[u8]) {
    let number = archive.len() as u32;
    archive.extend(b"070701");
    for field in [number, mode, 0, 0, 1, 0, bytes.len() as u32, 0, 0, device.0, device.1, name.len() as u32 + 1, 0] {
        archive.extend(format!("{field:08x}").bytes());
    }
    archive.extend(name.bytes().chain([0]));
    pad(archive);
    archive.extend(bytes);
    pad(archive);
}

fn pad(archive: &mut Vec<u8>) {
    archive.resize(archive.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_begin_at_four_bytes() {
        let mut archive = Vec::new();
        entry(&mut archive, "a", 0o100_644, (0, 0), b"xyz");
        // 110 bytes of header, 2 of name, 3 of contents, 1 of padding.
        assert_eq!(archive.len(), 116);
        assert!(archive.starts_with(b"070701") && archive[112..].starts_with(b"xyz\0"));
    }
}
