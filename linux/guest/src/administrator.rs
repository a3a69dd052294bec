//! Tests of what an administrator can find out about other users' opens.
//!
//! Each listed page is pinned by a process that reported it to nobody else.

use std::os::fd::AsRawFd;

use pagemove_sample::uapi::Policy;

use crate::device::{Device, opens_of};
use crate::machine::wait_until;
use crate::sys::{self, Child, End, Map, Pipe, SHARED, errno};
use crate::verdict::{Outcome, check, expect};

/// Starts a process that runs `body` and then waits; gives it with `body`'s result.
fn background_process(body: impl FnOnce() -> std::io::Result<u64>) -> std::io::Result<(Child, u64)> {
    let number = Map::new(None, 0, 1, SHARED)?;
    let child = sys::fork(|| {
        let done = body();
        number.store(0, 0, done.as_ref().map_or(u64::MAX, |number| number + 1));
        // Keep what `body` returned for as long as the process lives.
        std::mem::forget(done);
        loop {
            std::thread::park();
        }
    })?;
    wait_until("the other process", || Ok(number.load(0, 0) != 0))?;
    match number.load(0, 0) {
        u64::MAX => Err(std::io::Error::other("the other process has failed")),
        number => Ok((child, number - 1)),
    }
}

/// More opens than one `read` of the list returns: each is listed once, in order, also after every other one is closed.
pub(crate) fn many_opens() -> Outcome {
    const MANY: u64 = 600;
    let sizes = || -> std::io::Result<Vec<u64>> {
        let lines = opens_of(std::process::id())?;
        let sizes = lines.iter().filter_map(|line| line.split(" size=").nth(1)?.split(' ').next()?.parse().ok());
        Ok(sizes.collect())
    };
    // The size identifies an open.
    let mut devices = (1..=MANY).map(Device::open).collect::<std::io::Result<Vec<_>>>()?;
    let listed = sizes()?;
    check(listed.iter().copied().eq(1..=MANY), || format!("of {MANY} opens there are {listed:?}"))?;
    let mut place = 0;
    devices.retain(|_| {
        place += 1;
        place % 2 == 0
    });
    let listed = sizes()?;
    check(listed.iter().copied().eq((2..=MANY).step_by(2)), || format!("of every other open there are {listed:?}"))?;
    Ok(format!("{MANY} opens, and half of them"))
}

/// Through a descriptor taken from the process.
pub(crate) fn pins_of_others() -> Outcome {
    let (child, fd) = background_process(|| {
        let device = Device::open(8)?;
        device.pin(3, "theirs")?;
        let fd = device.fd().as_raw_fd() as u64;
        std::mem::forget(device);
        Ok(fd)
    })?;
    let device = Device { file: child.file(fd as i32)? };
    let listed = device.list(0);
    child.kill();
    child.wait();
    let listed = listed?.ok_or("no list")?;
    let theirs = (u64::from(child.process()), 3);
    let is_theirs = (listed.pid, listed.index) == theirs && listed.name.starts_with(b"theirs\0");
    check(is_theirs, || format!("{listed:?}"))?;
    Ok("listed through a descriptor taken from the process".to_owned())
}

/// Only an administrator may set a policy that refuses moves.
pub(crate) fn policy_of_others() -> Outcome {
    let device = Device::open(8)?;
    expect("an administrator's policy", device.policy(Policy::Refuse), 0)?;
    let number = sys::fork(|| {
        if sys::become_nobody().is_err() {
            return -1;
        }
        errno(&device.policy(Policy::Refuse))
    })?
    .wait();
    check(number == End::Exit(libc::EPERM), || format!("a process without rights ended by {number:?}"))?;
    Ok("EPERM for others".to_owned())
}

/// Through debugfs, after all descriptors are closed and only a mapping is left.
pub(crate) fn pins_left_behind() -> Outcome {
    let (child, _) = background_process(|| {
        let device = Device::open(8)?;
        let map = device.map(0, 8, SHARED)?;
        (0..8).for_each(|page| map.store(page, 0, 1));
        device.pin(3, "an \"odd\"\nnamé")?;
        let pipe = Pipe::new(64)?;
        map.vmsplice(5, &pipe)?;
        std::mem::forget((map, pipe));
        Ok(0)
    })?;
    let pid = child.process();
    let mut lines = Vec::new();
    // A page on its way between LRU lists is also counted, for a moment.
    let found = wait_until("debugfs to list the pages", || {
        lines = opens_of(pid)?;
        Ok(lines.len() == 3 && lines[2].contains(" pages=1 "))
    });
    child.kill();
    child.wait();
    found.map_err(|error| format!("{error}: {lines:?}"))?;
    let has = |line: usize, words: &[&str]| words.iter().all(|word| lines[line].contains(word));
    let own = format!(" pid={pid} by=\"");
    let is_told = has(0, &["open", &own, " uid=0 ", " size=8 pages=8 moved="])
        && has(1, &["  pin", &own, " uid=0 ", " page=3 frame=0x", " name=\"an \\\"odd\\\"\\nnam\\303\\251\""])
        && lines[2] == "  others pages=1 for_transfers=0 first=5";
    check(is_told, || lines.join("\n"))?;
    let left = opens_of(pid)?;
    check(left.is_empty(), || format!("still listed after its end: {left:?}"))?;
    Ok(format!("listed while only mapped: {}", lines[1].trim()))
}
