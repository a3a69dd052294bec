//! Tests of a hostile process beyond bad arguments: other ways to open a file, its memory, and its limits.
//!
//! None of them reaches another open's pages, loses contents, escapes a memory cgroup, or hides a pin.

use std::fs::{self, OpenOptions};
use std::os::fd::{AsFd, AsRawFd};

use crate::device::{Device, opens_of};
use crate::dmesg;
use crate::machine::{frames, wait_until};
use crate::marks;
use crate::sys::{self, End, Map, PAGE, PRIVATE, READ_ONLY, SHARED};
use crate::verdict::{Outcome, check, expect, needs};

/// An open or mapped file can be opened again through `/proc`: that gives a new, separate open.
pub(crate) fn opened_again() -> Outcome {
    let device = Device::open(16)?;
    let map = device.map(0, 16, SHARED)?;
    map.store(0, 0, 77);
    let (from, to) = (map.address(), map.address() + 16 * PAGE);
    let ways = [format!("map_files/{from:x}-{to:x}"), format!("fd/{}", device.fd().as_raw_fd())];
    for way in &ways {
        let path = format!("/proc/self/{way}");
        let again = Device { file: OpenOptions::new().read(true).write(true).open(path)? };
        let theirs = again.map(0, 16, SHARED)?;
        let (mapped, read) = (theirs.load(0, 0), again.read_word(0, 0)?);
        check(mapped == 0 && read == 0, || format!("{way} shows another open's page: {mapped}, {read}"))?;
        theirs.store(0, 0, 99);
        check(map.load(0, 0) == 77, || format!("{way} writes to another open's page"))?;
    }
    Ok("by map_files and by fd: opens of their own".to_owned())
}

/// All `madvise` values, including ones not assigned yet.
pub(crate) fn any_advice() -> Outcome {
    // Two huge pages, so that an aligned one fits.
    const MANY: usize = 1024;
    let word = |page: usize| page as u64 + 5;
    let device = Device::open(MANY as u64)?;
    (0..MANY as u64).try_for_each(|page| device.write_word(page, 3, word(page as usize)))?;
    let mut taken = 0;
    // 100 and 101 poison memory (tested elsewhere); 102 and 103 install and remove guards.
    for advice in (0..40).chain([102, 103]) {
        for kind in [SHARED, PRIVATE, READ_ONLY] {
            let map = device.map(0, MANY, kind)?;
            (0..MANY).for_each(|page| _ = map.load(page, 3));
            taken += usize::from(map.advise(0, MANY, advice).is_ok());
        }
        let map = device.map(0, MANY, READ_ONLY)?;
        let good = (0..MANY).all(|page| map.load(page, 3) == word(page));
        check(good, || format!("contents are gone after advice {advice}"))?;
    }
    check(taken > 0, || "no advice was accepted".to_owned())?;
    Ok(format!("advice accepted {taken} times, nothing lost"))
}

/// A transfer between the buffer and its own mapping: the fault inside must not need a lock that is held.
pub(crate) fn buffer_of_its_own() -> Outcome {
    let device = Device::open(8)?;
    let map = device.map(0, 8, SHARED)?;
    map.store(0, 0, 5);
    for (page, write) in [(0, false), (0, true), (1, false), (4, false), (4, true)] {
        let bytes = sys::transfer(device.fd(), &map, page, 4, write)?;
        check(bytes == 4 * PAGE, || format!("{bytes} bytes at page {page}"))?;
    }
    check(map.load(0, 0) == 5, || "a word has changed".to_owned())?;
    let long = device.map(0, 16, SHARED)?;
    let bytes = sys::transfer(device.fd(), &long, 7, 4, false)?;
    check(bytes == PAGE, || format!("{bytes} bytes into a mapping that extends past the end"))?;
    Ok("read and written by its own mapping".to_owned())
}

/// A process above its cgroup's limit is killed, whether it allocates by faults or by an ioctl. Freed pages are
/// uncharged.
pub(crate) fn memory_limit() -> Outcome {
    const MANY: usize = 8192;
    const LIMIT: u64 = 16 << 20;
    needs("CONFIG_MEMCG")?;
    // An OOM kill prints a call trace.
    dmesg::expect_low_memory(true)?;
    sys::mount("cgroup2", "/cgroup")?;
    fs::write("/cgroup/cgroup.subtree_control", "+memory")?;
    fs::create_dir_all("/cgroup/small")?;
    fs::write("/cgroup/small/memory.max", LIMIT.to_string())?;
    let charged = || crate::machine::number_in("/cgroup/small/memory.current");
    let device = Device::open(MANY as u64)?;
    for by_faults in [true, false] {
        let child = sys::fork(|| {
            let Ok(()) = fs::write("/cgroup/small/cgroup.procs", "0") else { return 2 };
            if by_faults {
                let Ok(map) = device.map(0, MANY, SHARED) else { return 3 };
                (0..MANY).for_each(|page| map.store(page, 0, 1));
            } else {
                let _ = device.fill(0, MANY as u64);
            }
            4
        })?;
        let (end, pages) = (child.wait(), device.counts()?.pages);
        check(end == End::Signal(libc::SIGKILL), || format!("it ended by {end:?}, with {pages} pages"))?;
        check(pages * PAGE as u64 <= LIMIT, || format!("{pages} pages, where {LIMIT} bytes are allowed"))?;
        device.free(0, MANY as u64)?;
        wait_until("freed memory to be uncharged", || Ok(charged()? < LIMIT / 4))?;
    }
    dmesg::expect_low_memory(false)?;
    Ok("killed at the limit by faults and by an ioctl; all memory uncharged".to_owned())
}

/// A process pins a page, then holds its open's lock with a `read` into memory whose fault never ends. The list must
/// not wait for it.
pub(crate) fn listed_while_blocked() -> Outcome {
    needs("CONFIG_USERFAULTFD")?;
    let begun = Map::new(None, 0, 1, SHARED)?;
    let child = sys::fork(|| {
        let blocked = || -> std::io::Result<()> {
            let device = Device::open(8)?;
            device.pin(3, "hidden")?;
            let buffer = Map::new(None, 0, 1, PRIVATE)?;
            let missing = sys::userfaultfd()?;
            marks::register_missing(missing.as_fd(), &buffer)?;
            begun.store(0, 0, 1);
            sys::transfer(device.fd(), &buffer, 0, 1, false).map(drop)
        };
        begun.store(0, 1, 1 + u64::from(blocked().is_ok()));
        0
    })?;
    wait_until("the other process", || Ok(begun.load(0, 0) != 0 || begun.load(0, 1) != 0))?;
    let path = format!("/proc/{}/wchan", child.process());
    let waits = wait_until("it to wait for its memory", || Ok(fs::read_to_string(&path)?.contains("userfault")));
    let lines = opens_of(child.process());
    let ended = begun.load(0, 1);
    child.kill();
    child.wait();
    waits?;
    let lines = lines?;
    check(ended == 0, || format!("its read ended: {ended}"))?;
    check(lines.iter().any(|line| line.contains("name=\"hidden\"")), || format!("not listed: {lines:?}"))?;
    Ok("listed while its open's lock is held for ever".to_owned())
}

/// A load of a present page also maps its neighbours, as with any file.
pub(crate) fn neighbours() -> Outcome {
    let device = Device::open(64)?;
    device.fill(0, 48)?;
    let map = device.map(0, 64, READ_ONLY)?;
    map.load(20, 0);
    let mapped: Vec<usize> =
        frames(&map)?.iter().enumerate().filter(|(_, frame)| **frame != 0).map(|(at, _)| at).collect();
    check(mapped.len() > 4, || format!("only {mapped:?} are mapped"))?;
    check(mapped.iter().all(|&page| page < 48), || format!("holes are mapped: {mapped:?}"))?;
    check(device.counts()?.pages == 48, || "pages were made".to_owned())?;
    device.resize(21)?;
    let left = frames(&map)?.iter().skip(21).filter(|frame| **frame != 0).count();
    check(left == 0, || format!("{left} pages past the end are mapped"))?;
    expect("a resize", device.resize(0), 0)?;
    Ok(format!("{} pages by one load", mapped.len()))
}
