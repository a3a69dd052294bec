//! Who may have memory pinned: processes with pinned memory (`VmPin`), buffers of io_uring, and open devices that pin (VFIO, RDMA).
//!
//! Takes all processes of this machine, gives those that may pin, most first. It bounds and names what a capture can't see: which pages are pinned.
//! Promises to read only; processes that end meanwhile are passed over.

use std::{collections::BTreeSet, fs};

use procfs::process::{FDTarget, Process, all_processes};
use serde::Serialize;

use crate::{
    cancel::{Stop, Stopped},
    terminal::plain,
};

/// Devices whose users pin memory.
const DEVICES: [&str; 3] = ["/dev/vfio/", "/dev/infiniband/", "/dev/iommu"];

/// A process that may have memory pinned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Pinner {
    /// Its name.
    pub(crate) process: String,
    pub(crate) pid: i32,
    /// Pinned by drivers that count it (Linux: `VmPin`).
    pub(crate) pinned_bytes: u64,
    /// Buffers registered with io_uring.
    pub(crate) io_uring_bytes: u64,
    /// Devices that it has open.
    pub(crate) devices: Vec<String>,
}

/// Looks at all processes.
pub(crate) fn find(stop: &Stop) -> Result<Vec<Pinner>, Stopped> {
    let mut found = Vec::new();
    for process in all_processes().into_iter().flatten().flatten() {
        stop.check()?;
        found.extend(look_at(&process));
    }
    found.sort_by_key(|pinner| std::cmp::Reverse(pinner.pinned_bytes + pinner.io_uring_bytes));
    Ok(found)
}

fn look_at(process: &Process) -> Option<Pinner> {
    let status = process.status().ok()?;
    let pinned_bytes = status.vmpin.unwrap_or(0) << 10;
    let (mut io_uring_bytes, mut devices) = (0_u64, BTreeSet::new());
    for fd in process.fd().into_iter().flatten().flatten() {
        match fd.target {
            FDTarget::AnonInode(kind) if kind.contains("io_uring") => {
                let path = format!("/proc/{}/fdinfo/{}", process.pid, fd.fd);
                io_uring_bytes += buffers(&fs::read_to_string(path).unwrap_or_default());
            }
            FDTarget::Path(path) => {
                let path = path.to_string_lossy();
                if DEVICES.iter().any(|device| path.starts_with(device)) {
                    devices.insert(plain(&path));
                }
            }
            _ => {}
        }
    }
    let is_one = pinned_bytes > 0 || io_uring_bytes > 0 || !devices.is_empty();
    is_one.then(|| Pinner {
        process: plain(&status.name),
        pid: process.pid,
        pinned_bytes,
        io_uring_bytes,
        devices: devices.into_iter().collect(),
    })
}

/// Sums the buffers that an fdinfo of io_uring lists: lines `    0: 0x7f0012340000/65536`, or `    0: <none>`, after `UserBufs:`, until the next
/// field.
fn buffers(fdinfo: &str) -> u64 {
    let lines = fdinfo.lines().skip_while(|line| !line.starts_with("UserBufs:")).skip(1);
    let length = |line: &str| line.trim_start().split_once(": 0x")?.1.split_once('/')?.1.trim().parse::<u64>().ok();
    lines.take_while(|line| line.starts_with(' ')).filter_map(length).fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_urings_buffers_are_summed() {
        let fdinfo = "pos:\t0\nUserFiles:\t1\n    0: f\nUserBufs:\t3\n    0: 0x7f00/4096\n    1: <none>\n    2: 0x7f10/65536\nPollList:\n  0: 0x1/5\n";
        assert_eq!(buffers(fdinfo), 69_632);
        assert_eq!([buffers(""), buffers("UserBufs:\t1\n    0: 0x7f00/x\n")], [0, 0]);
    }

    #[test]
    fn this_machine_is_looked_at() {
        let found = find(&Stop::default()).expect("nobody stops it");
        assert!(found.iter().all(|pinner| pinner.pid > 0 && !pinner.process.is_empty()), "{found:?}");
    }
}
