//! Guests: a stock kernel in QEMU, with an archive of ours as its only disk.
//!
//! Takes a kernel's image, an archive and orders; gives what the guest told, as JSON, line by line, and all of its
//! console. Promises an end within the limit, whatever the guest does, and that no QEMU outlives this process's interest.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::command::{bound, cant_start, tail};

/// The program.
pub(super) const QEMU: &str = "qemu-system-x86_64";

/// What the guest's own lines begin with.
const SIGN: &str = "@pagemove ";

/// How much of the console is repeated when something fails.
const LAST_LINES: usize = 40;

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
    /// Memory, half of it on each of two nodes.
    pub(super) memory_mib: u32,
    pub(super) limit: Duration,
}

/// Ends QEMU with its owner.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // If it has ended by itself, there's nothing to kill, and that is well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
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
            command.arg("-object").arg(format!("memory-backend-ram,id=m{node},size={}M", self.memory_mib / 2));
            command.arg("-numa").arg(format!("node,nodeid={node},cpus={node},memdev=m{node}"));
        }
        command.args(SPARE_MEMORY).args(SLOW_DISK);
        // A slow machine is not a hanging one: the limit here ends a guest that hangs. And the kernel is not to clear
        // memory by itself, so that whoever forgets to is found out.
        let huge = if self.memory_mib >= LARGE_MIB { "nokaslr hugetlb_cma=1:1G " } else { "" };
        let line = format!(
            "console=ttyS0 quiet panic=-1 nosoftlockup init_on_alloc=0 memhp_default_state=offline log_buf_len=4M \
             {huge}pagemove={}",
            self.orders
        );
        command.arg("-kernel").arg(self.image).args(["-initrd", "/dev/stdin", "-append"]).arg(line);
        command.stdin(archive).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut running = Running(command.spawn().map_err(|error| cant_start(&command, error))?);
        let output = running.0.stdout.take().context("no pipe from QEMU")?;
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            let mut output = BufReader::new(output);
            let mut line = Vec::new();
            while output.read_until(b'\n', &mut line).is_ok_and(|bytes| bytes > 0) {
                if sender.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                    return;
                }
                line.clear();
            }
        });
        let (started, mut console, mut ended) = (Instant::now(), String::new(), false);
        loop {
            match lines.recv_timeout(self.limit.saturating_sub(started.elapsed())) {
                Ok(line) => {
                    console += &line;
                    console.push('\n');
                    if let Some(value) = told(&line) {
                        ended |= value.get("end").is_some();
                        heard(&value);
                    }
                }
                Err(RecvTimeoutError::Disconnected) if ended => return Ok(console),
                Err(error) => {
                    let how = match error {
                        RecvTimeoutError::Timeout => format!("did not end within {} s", self.limit.as_secs()),
                        RecvTimeoutError::Disconnected => "ended before its time".to_owned(),
                    };
                    bail!("the guest {how}; its console's last lines:\n{}", tail(&console, LAST_LINES));
                }
            }
        }
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
