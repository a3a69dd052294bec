//! The kernel in QEMU.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Result, bail};

use super::{build::Built, machine::Machine};
use crate::{
    command::bound,
    console::{self, Heard, QEMU},
};

/// The exit code of QEMU when the kernel says that all went well, or that something failed (`isa-debug-exit`).
const WELL: i32 = 33;
const BADLY: i32 = 35;

/// Runs programs; `heard` gets each line of the console as it comes.
///
/// # Errors
/// When QEMU is missing.
pub(super) fn run(
    built: &Built,
    machine: &Machine,
    programs: &[String],
    amount: u64,
    heard: impl FnMut(&str),
) -> Result<Heard> {
    let mut command = bound(QEMU)?;
    // No KVM: it may be there and not run an ordinary guest. TCG with a thread for each processor keeps TLB entries as a CPU does.
    command.args([
        "-machine",
        "q35,memory-backend=ram",
        "-accel",
        "tcg,thread=multi",
        "-cpu",
        &machine.model,
        "-no-reboot",
        "-net",
        "none",
    ]);
    command.args(["-display", "none", "-monitor", "none", "-serial", "stdio"]);
    command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]);
    command.args(["-smp", &machine.cpus.to_string(), "-m", &format!("{}M", machine.memory)]);
    let prealloc = if machine.is_preallocated { "on" } else { "off" };
    command.arg("-object").arg(format!("memory-backend-ram,id=ram,size={}M,prealloc={prealloc}", machine.memory));
    command.arg("-kernel").arg(&built.kernel).arg("-initrd").arg(&built.programs);
    command.arg("-append").arg(format!("run={} seed={} amount={amount}", programs.join(","), machine.seed));
    command.stdin(Stdio::null());
    console::listen(command, Duration::from_secs(machine.limit), heard)
}

/// Tells how the kernel ended.
///
/// # Errors
/// When it didn't end well.
pub(super) fn outcome(heard: &Heard, machine: &Machine) -> Result<()> {
    match heard.status.map(|status| status.code()) {
        Some(Some(WELL)) => Ok(()),
        Some(Some(BADLY)) => bail!("the kernel says that something failed; {}", heard.last_lines()),
        Some(_) => bail!("the machine ended by itself; {}", heard.last_lines()),
        None => bail!("the kernel did not end within {} s; {}", machine.limit, heard.last_lines()),
    }
}
