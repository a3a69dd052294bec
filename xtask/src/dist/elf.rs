//! Tells whether an x86-64 program is static.
//!
//! Takes the bytes of an ELF file, gives an error that says what it needs at run time. Promises never to panic, whatever the bytes are. A static program that
//! can be loaded anywhere has a dynamic section, for its own relocations: what counts is the loader and the libraries that it names.

use anyhow::{Context, Result, bail, ensure};

/// Kinds of program headers, and of entries in the dynamic section (`elf.h`).
const PT_DYNAMIC: u64 = 2;
const PT_INTERP: u64 = 3;
const DT_NULL: u64 = 0;
const DT_NEEDED: u64 = 1;

/// Refuses a program that needs a loader or a library.
pub(super) fn check_static(file: &[u8]) -> Result<()> {
    ensure!(file.starts_with(b"\x7fELF\x02\x01"), "it is no ELF file of 64 bits, little-endian");
    let (table, size, count) = (number(file, 32, 8)?, number(file, 54, 2)?, number(file, 56, 2)?);
    ensure!(count > 0, "it has no program headers");
    for header in (0..count).map(|index| table.saturating_add(index * size)) {
        match number(file, header, 4)? {
            PT_INTERP => bail!("it names a loader"),
            PT_DYNAMIC => {
                let (start, length) = (field(file, header, 8)?, field(file, header, 32)?);
                check_dynamic(file, start, length)?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn check_dynamic(file: &[u8], start: u64, length: u64) -> Result<()> {
    for entry in (0..length / 16).map(|index| start.saturating_add(index * 16)) {
        match number(file, entry, 8)? {
            DT_NEEDED => bail!("it names a library"),
            DT_NULL => break,
            _ => {}
        }
    }
    Ok(())
}

/// Reads eight bytes of a header.
fn field(file: &[u8], header: u64, offset: u64) -> Result<u64> {
    number(file, header.saturating_add(offset), 8)
}

/// Reads a number of so many bytes.
fn number(file: &[u8], at: u64, bytes: usize) -> Result<u64> {
    let start = usize::try_from(at).ok();
    let found = start.and_then(|start| file.get(start..start.checked_add(bytes)?)).context("it is cut off")?;
    Ok(found.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with one program header of this kind, and a dynamic section behind it.
    fn program(kind: u32, dynamic: &[u64]) -> Vec<u8> {
        let mut file = b"\x7fELF\x02\x01".to_vec();
        file.resize(64 + 56, 0);
        file[32] = 64;
        file[54] = 56;
        file[56] = 1;
        file[64..68].copy_from_slice(&kind.to_le_bytes());
        file[64 + 8] = 120;
        file[64 + 32] = dynamic.len() as u8 * 8;
        file.extend(dynamic.iter().flat_map(|word| word.to_le_bytes()));
        file
    }

    #[test]
    fn loaders_and_libraries_are_seen() {
        let said = |file: &[u8]| check_static(file).map_err(|error| error.to_string());
        assert_eq!(said(&program(1, &[])), Ok(()));
        assert_eq!(said(&program(2, &[7, 99, 0, 0])), Ok(()));
        assert_eq!(said(&program(2, &[7, 99, 1, 5, 0, 0])), Err("it names a library".into()));
        assert_eq!(said(&program(2, &[0, 0, 1, 5])), Ok(()), "behind the end mark");
        assert_eq!(said(&program(3, &[])), Err("it names a loader".into()));
        assert_eq!(said(b"#!/bin/sh\n"), Err("it is no ELF file of 64 bits, little-endian".into()));
        let whole = program(2, &[7, 99, 0, 0]);
        let cut_off = (6..whole.len() - 16).filter(|&length| said(&whole[..length]).is_err());
        assert!(cut_off.count() > 100);
        let mut wild = whole;
        wild[32..40].copy_from_slice(&[0xff; 8]);
        assert_eq!(said(&wild), Err("it is cut off".into()));
    }

    /// Cargo builds tests with a loader and libraries.
    #[test]
    fn this_program_isnt_static() {
        let own = std::fs::read(std::env::current_exe().expect("has a name")).expect("reads");
        let error = check_static(&own).expect_err("is dynamic").to_string();
        assert!(error.starts_with("it names"), "{error}");
    }
}
