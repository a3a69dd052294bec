//! Guests: a stock kernel in QEMU, with an archive of ours as its only disk.
//!
//! Takes a kernel's image, an archive and orders; gives what the guest told, as JSON, line by line, and all of its
//! console. Promises an end within the limit, whatever the guest does, and that no QEMU outlives this process's interest.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{
    command::bound,
    console::{self, QEMU},
};

/// What the guest's own lines begin with.
const SIGN: &str = "@pagemove ";

/// Memory that is plugged in but not used, unless the guest takes it into use: what a test takes away again.
const SPARE_MEMORY: [&str; 4] =
    ["-object", "memory-backend-ram,id=spare,size=256M", "-device", "pc-dimm,id=spare0,memdev=spare,node=1"];

/// A disk that takes two seconds for each request, reads zeros, and forgets what is written.
const SLOW_DISK: [&str; 4] = [
    "-blockdev",
    "driver=null-co,node-name=slow,size=16777216,latency-ns=2000000000,read-zeroes=on",
    "-device",
    "nvme,drive=slow,serial=slow",
];

/// A guest of this size keeps 1 GiB of its second node for a huge page, if its kernel can. The kernel itself is to stand
/// elsewhere, not where chance puts it.
const LARGE_MIB: u32 = 4096;

/// A guest to be run.
pub(super) struct Guest<'a> {
    pub(super) image: &'a Path,
    pub(super) archive: &'a [u8],
    pub(super) orders: &'a str,
    /// More words for the kernel's command line.
    pub(super) words: &'a str,
    /// Memory, half of it on each of two nodes.
    pub(super) memory_mib: u32,
    /// The host allocates all of it before the guest starts.
    pub(super) is_preallocated: bool,
    pub(super) limit: Duration,
}

impl Guest<'_> {
    /// Runs the guest; `heard` gets each thing that it tells at once. Gives the console.
    ///
    /// # Errors
    /// When QEMU can't be started, or the guest doesn't come to its end; with the console's last lines.
    pub(super) fn run(&self, mut heard: impl FnMut(&Value)) -> Result<String> {
        // A file without a name: there's nothing to be left behind.
        let archive = tempfile::tempfile().and_then(|mut file| file.write_all(self.archive).map(|()| file));
        let archive = archive
            .with_context(|| format!("can't write the guest's archive to {}", std::env::temp_dir().display()))?;
        self.run_with(archive, &mut heard)
    }

    fn run_with(&self, archive: File, heard: &mut impl FnMut(&Value)) -> Result<String> {
        let mut command = bound(QEMU)?;
        // No KVM: it may be there and not run an ordinary guest.
        command.args(["-machine", "q35", "-accel", "tcg", "-cpu", "max", "-smp", "2,sockets=2"]);
        command.args(["-display", "none", "-no-reboot", "-net", "none", "-monitor", "none"]);
        command.args(["-serial", "file:/dev/stdout"]);
        command.args(["-m", &format!("{}M,slots=1,maxmem=16G", self.memory_mib)]);
        for node in 0..2 {
            let (size, prealloc) = (self.memory_mib / 2, if self.is_preallocated { "on" } else { "off" });
            command.arg("-object").arg(format!("memory-backend-ram,id=m{node},size={size}M,prealloc={prealloc}"));
            command.arg("-numa").arg(format!("node,nodeid={node},cpus={node},memdev=m{node}"));
        }
        command.args(SPARE_MEMORY).args(SLOW_DISK);
        // A slow machine is not a hanging one: the limit here ends a guest that hangs. And the kernel is not to clear
        // memory by itself, so that whoever forgets to is found out.
        let huge = if self.memory_mib >= LARGE_MIB { "nokaslr hugetlb_cma=1:1G " } else { "" };
        let line = format!(
            "console=ttyS0 quiet panic=-1 nosoftlockup init_on_alloc=0 memhp_default_state=offline log_buf_len=4M \
             {huge}{} pagemove={}",
            self.words, self.orders
        );
        command.arg("-kernel").arg(self.image).args(["-initrd", "/dev/stdin", "-append"]).arg(line);
        command.stdin(archive);
        let mut ended = false;
        let heard = console::listen(command, self.limit, |line| {
            if let Some(value) = told(line) {
                ended |= value.get("end").is_some();
                heard(&value);
            }
        })?;
        if heard.status.is_none() {
            bail!("the guest did not end within {} s; {}", self.limit.as_secs(), heard.last_lines());
        }
        if !ended {
            bail!("the guest ended before its time; {}", heard.last_lines());
        }
        Ok(heard.console)
    }
}

/// What a line of the console tells, if it's the guest's own.
fn told(line: &str) -> Option<Value> {
    serde_json::from_str(line.split_once(SIGN)?.1).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_lines_are_told_from_the_kernels() {
        assert_eq!(told("[    2.1] @pagemove {\"end\":true}").and_then(|value| value["end"].as_bool()), Some(true));
        assert_eq!(told("[    2.1] something else"), None);
        assert_eq!(told("@pagemove {\"end\":"), None);
    }
}
