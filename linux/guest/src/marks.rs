//! Tests of page-table marks: soft-dirty, and write protection by a userfaultfd.
//!
//! Moves keep these marks, as they do for the kernel's own memory.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd};

use crate::device::Device;
use crate::machine::{SOFT_DIRTY, UFFD_PROTECTED, marked};
use crate::sys::{self, Map, PAGE, PRIVATE, SHARED, errno};
use crate::triggers::move_across;
use crate::verdict::{Outcome, Skip, check, expect, needs};

const PAGES: usize = 64;

/// Writes to every second page, then moves all; gives each page's soft-dirty bit before and after.
fn written(map: &Map) -> Result<[Vec<bool>; 2], Box<dyn std::error::Error>> {
    (0..PAGES).for_each(|page| map.store(page, 0, 1));
    fs::write("/proc/self/clear_refs", "4")?;
    (0..PAGES).step_by(2).for_each(|page| map.store(page, 1, 2));
    let before = marked(map, SOFT_DIRTY)?;
    let moved = move_across(map, &(0..PAGES).collect::<Vec<_>>())?;
    check(moved == PAGES, || format!("{moved} of {PAGES} moved"))?;
    let after = marked(map, SOFT_DIRTY)?;
    check((0..PAGES).all(|page| map.load(page, 0) == 1), || "a word has changed".to_owned())?;
    Ok([before, after])
}

pub(crate) fn soft_dirty() -> Outcome {
    needs("CONFIG_MEM_SOFT_DIRTY")?;
    let device = Device::open(PAGES as u64)?;
    let [before, after] = written(&device.map(0, PAGES, SHARED)?)?;
    // The kernel's own shared memory, to compare with.
    let [own_before, own_after] = written(&Map::new(None, 0, PAGES, SHARED)?)?;
    let is_right = |marks: &[bool]| marks.iter().enumerate().all(|(page, &mark)| mark == (page % 2 == 0));
    check(is_right(&before) && is_right(&own_before), || format!("before the move: {before:?}, {own_before:?}"))?;
    check(after.iter().step_by(2).all(|&mark| mark), || format!("a move loses a soft-dirty bit: {after:?}"))?;
    check(after == own_after, || format!("after the move: {after:?}, and the kernel's own {own_after:?}"))?;
    let more = after.iter().filter(|&&mark| mark).count() - PAGES / 2;
    Ok(format!(
        "{} soft-dirty pages before and after a move, {more} more after it, as for the kernel's own memory",
        PAGES / 2
    ))
}

/// Calls an ioctl whose argument is a `struct uffdio_…`: consecutive numbers.
fn call(uffd: BorrowedFd<'_>, number: u32, argument: &[u64]) -> std::io::Result<i64> {
    const READ_WRITE: u32 = 3;
    let mut bytes: Vec<u8> = argument.iter().flat_map(|number| number.to_ne_bytes()).collect();
    sys::ioctl(uffd, READ_WRITE << 30 | (bytes.len() as u32) << 16 | 0xaa << 8 | number, &mut bytes)
}

const API: u32 = 0x3f;
const API_VERSION: u64 = 0xaa;
const REGISTER: u32 = 0;
const MODE_MISSING: u64 = 1;
const WRITE_PROTECT: u32 = 6;
/// Writes to protected pages are recorded, and nobody waits.
const WRITE_PROTECT_ASYNC: u64 = 1 << 15;
const MODE_WRITE_PROTECT: u64 = 1 << 1;

fn register(uffd: BorrowedFd<'_>, map: &Map, mode: u64) -> std::io::Result<i64> {
    call(uffd, REGISTER, &[map.address() as u64, (map.pages() * PAGE) as u64, mode, 0])
}

/// Blocks every first access to this memory for ever.
pub(crate) fn register_missing(uffd: BorrowedFd<'_>, map: &Map) -> std::io::Result<()> {
    call(uffd, API, &[API_VERSION, 0, 0])?;
    register(uffd, map, MODE_MISSING).map(drop)
}

/// A userfaultfd can't handle faults on a driver's pages.
pub(crate) fn userfaultfd() -> Outcome {
    needs("CONFIG_USERFAULTFD")?;
    let device = Device::open(PAGES as u64)?;
    let (map, private) = (device.map(0, PAGES, SHARED)?, device.map(0, PAGES, PRIVATE)?);
    let plain = sys::userfaultfd()?;
    expect("userfaultfd's version", call(plain.as_fd(), API, &[API_VERSION, 0, 0]), 0)?;
    for (what, mode) in [("missing pages", MODE_MISSING), ("write protection", MODE_WRITE_PROTECT), ("minor faults", 4)]
    {
        for map in [&map, &private] {
            expect(&format!("userfaultfd for {what}"), register(plain.as_fd(), map, mode), libc::EINVAL)?;
        }
    }

    Ok("refused, as for any file".to_owned())
}

/// Newer kernels can record writes in any kind of memory.
pub(crate) fn userfaultfd_notes() -> Outcome {
    needs("CONFIG_USERFAULTFD")?;
    let noting = sys::userfaultfd()?;
    let api = call(noting.as_fd(), API, &[API_VERSION, WRITE_PROTECT_ASYNC, 0]);
    if errno(&api) == libc::EINVAL {
        return Err(Skip("this kernel doesn't record writes by userfaultfd".to_owned()).into());
    }
    api?;
    let device = Device::open(PAGES as u64)?;
    let map = device.map(0, PAGES, SHARED)?;
    (0..PAGES).for_each(|page| map.store(page, 0, 1));
    expect("noting writes", register(noting.as_fd(), &map, MODE_WRITE_PROTECT), 0)?;
    let whole = [map.address() as u64, (PAGES * PAGE) as u64, 1];
    expect("protecting", call(noting.as_fd(), WRITE_PROTECT, &whole), 0)?;
    (0..PAGES).step_by(2).for_each(|page| map.store(page, 1, 2));
    let right: Vec<bool> = (0..PAGES).map(|page| page % 2 == 1).collect();
    let before = marked(&map, UFFD_PROTECTED)?;
    check(before == right, || format!("protected before the move: {before:?}"))?;
    let moved = move_across(&map, &(0..PAGES).collect::<Vec<_>>())?;
    check(moved == PAGES, || format!("{moved} of {PAGES} moved"))?;
    let after = marked(&map, UFFD_PROTECTED)?;
    check(after == right, || format!("protected after the move: {after:?}"))?;
    (0..PAGES).for_each(|page| map.store(page, 1, 3));
    check(!marked(&map, UFFD_PROTECTED)?.contains(&true), || "a write after the move isn't recorded".to_owned())?;
    check((0..PAGES).all(|page| map.load(page, 0) == 1), || "a word has changed".to_owned())?;
    Ok("recorded writes are kept across a move".to_owned())
}
