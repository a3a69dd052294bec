//! What an administrator can find out of other people's opens of the device.
//!
//! Takes the driver freshly loaded; gives facts, as all tests do. Promises that what is listed was pinned by a process that
//! has told nobody of it.

use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use crate::device::Device;
use crate::sys::{self, Map, SHARED};
use crate::tests::{Outcome, check};

/// Longer than any process takes to open a file and pin a page.
const LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn pins_of_others() -> Outcome {
    let number = Map::new(None, 0, 1, SHARED)?;
    let child = sys::fork(|| {
        let Ok(device) = Device::open(8) else { return 1 };
        if device.pin(3, "theirs").is_err() {
            return 2;
        }
        number.store(0, 0, device.fd().as_raw_fd() as u64);
        loop {
            std::thread::park();
        }
    })?;
    let started = Instant::now();
    while number.load(0, 0) == 0 {
        if let Some(end) = child.ended() {
            return Err(format!("the process with the pin ended by {end:?}").into());
        }
        check(started.elapsed() < LIMIT, || "the process with the pin doesn't come to it".to_owned())?;
        std::thread::sleep(Duration::from_millis(5));
    }
    let device = Device { file: child.file(number.load(0, 0) as i32)? };
    let listed = device.list(0);
    child.kill();
    child.wait();
    let listed = listed?.ok_or("no list")?;
    let theirs = (u64::from(child.process()), 3);
    let is_theirs = (listed.pid, listed.index) == theirs && listed.name.starts_with(b"theirs\0");
    check(is_theirs, || format!("{listed:?}"))?;
    Ok("listed through a descriptor taken from the process".to_owned())
}
