//! What a machine has.

use anyhow::{Result, bail};
use clap::Args;

use crate::bad_input::BadInput;

/// A machine.
#[derive(Args, Clone)]
pub(crate) struct Machine {
    /// The number of processors, 1 to 64
    #[arg(long, default_value_t = 2)]
    pub(crate) cpus: u32,
    /// Memory in MiB
    #[arg(long, default_value_t = 256)]
    pub(crate) memory: u32,
    /// The seed of all random choices
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// The CPU's model, as QEMU names it
    #[arg(long, default_value = Machine::FULL)]
    pub(crate) model: String,
    /// The host allocates all of its memory before it starts, so that no time is the host's
    #[arg(skip)]
    pub(crate) is_preallocated: bool,
    /// Seconds after which it hangs
    #[arg(long, default_value_t = Machine::LIMIT)]
    pub(crate) limit: u64,
}

impl Machine {
    /// Whatever runs in it has ended by then, also on a busy machine: on a quiet one it's 30 s.
    pub(super) const LIMIT: u64 = 400;
    /// A CPU with all that QEMU has.
    pub(super) const FULL: &str = "max";
    /// One with little more than x86-64: no pages of 1 GiB.
    pub(super) const PLAIN: &str = "qemu64";

    /// Checks that the kernel can have it.
    pub(super) fn check(&self) -> Result<()> {
        if !(1..=64).contains(&self.cpus) {
            bail!(BadInput(format!("--cpus takes 1 to 64, not {}", self.cpus)));
        }
        if !(1..=1 << 20).contains(&self.memory) {
            bail!(BadInput(format!("--memory takes 1 to 1048576 MiB, not {}", self.memory)));
        }
        Ok(())
    }
}
