//! The kernel's complaints.
//!
//! Gives the log lines that no correct driver causes. Reads the log from its start, and checks the taint flags: only
//! those of an unsigned out-of-tree module are allowed.

use std::collections::VecDeque;
use std::fs;
use std::io::{ErrorKind, Read, Result};
use std::os::unix::fs::OpenOptionsExt;

/// Marks of a complaint.
const BAD: &[&str] = &[
    "WARNING:",
    "BUG:",
    "BUG ",
    "Oops",
    "general protection",
    "Call Trace",
    "kernel BUG",
    "Bad page",
    "use-after-free",
    "blocked for more than",
    "Busy inodes",
    "Kernel panic",
    "unable to handle",
];

/// Printed when an allocation fails or the OOM killer runs: no complaint about the driver.
const LOW_MEMORY: &str = "Call Trace";

/// Our own log lines around tests that use up memory.
const LOW_MEMORY_BEGINS: &str = "pagemove: memory is made short";
const LOW_MEMORY_ENDS: &str = "pagemove: memory is left alone";
/// How many lines to print before a complaint.
const CONTEXT: usize = 4;

const TEST_BEGINS: &str = "pagemove: test ";

/// Logs the start of a test.
pub(crate) fn begin(test: &str) -> Result<()> {
    // Without rate limit: the kernel would drop some of our lines.
    fs::write("/proc/sys/kernel/printk_devkmsg", "on\n")?;
    fs::write("/dev/kmsg", format!("{TEST_BEGINS}{test}"))
}

/// Logs that from here on the kernel is expected to run out of memory, or no longer.
pub(crate) fn expect_low_memory(expected: bool) -> Result<()> {
    fs::write("/dev/kmsg", if expected { LOW_MEMORY_BEGINS } else { LOW_MEMORY_ENDS })
}

/// Out of tree (12) and unsigned (13).
const ALLOWED_TAINT: u64 = 1 << 12 | 1 << 13;

/// Gives all complaints.
pub(crate) fn check() -> Result<Vec<String>> {
    let mut bad = Vec::new();
    let mut log = fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg")?;
    let mut record = [0; 8192];
    let (mut records, mut low_memory) = (0, false);
    let (mut test, mut before) = ("no test".to_owned(), VecDeque::new());
    loop {
        match log.read(&mut record) {
            Ok(0) => break,
            Ok(bytes) => {
                records += 1;
                let text = String::from_utf8_lossy(&record[..bytes]).into_owned();
                let text = text.split_once(';').map_or(&*text, |(_, text)| text).trim();
                if let Some((_, name)) = text.split_once(TEST_BEGINS) {
                    name.clone_into(&mut test);
                }
                low_memory = (low_memory || text.contains(LOW_MEMORY_BEGINS)) && !text.contains(LOW_MEMORY_ENDS);
                if BAD.iter().any(|&sign| text.contains(sign) && !(low_memory && sign == LOW_MEMORY)) {
                    bad.push(format!("in {test}: {text} (after: {})", before.make_contiguous().join(" / ")));
                }
                before.push_back(text.to_owned());
                before.drain(..before.len().saturating_sub(CONTEXT));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            // Records were overwritten while we read.
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
            Err(error) => return Err(error),
        }
    }
    if records == 0 {
        bad.push("the kernel's log is empty, so nothing was checked".to_owned());
    }
    let taint = fs::read_to_string("/proc/sys/kernel/tainted")?;
    let taint: u64 = taint.trim().parse().map_err(std::io::Error::other)?;
    if taint & !ALLOWED_TAINT != 0 {
        bad.push(format!("the kernel is tainted: {taint}"));
    }
    Ok(bad)
}
