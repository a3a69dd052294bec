//! The example kernel: builds it, runs it in QEMU, tests it.
//!
//! Takes the workspace, and how many processors and how much memory; gives the console, and a line for each test. Promises that all that a
//! build leaves is in the target folder, and that no machine outlives this process.

mod build;
mod guest;
mod machine;
mod test;

use std::path::Path;

use anyhow::Result;
use clap::Subcommand;

use crate::mutate::{self, Mutate};
use machine::Machine;

/// What can be done with the kernel. The first line of each is its help.
#[derive(Subcommand)]
pub(crate) enum Kernel {
    /// Run programs on it, and show its console
    Run {
        #[command(flatten)]
        machine: Machine,
        /// The programs, one after the other: hello, storm, changes, marks, bad, exhaust
        #[arg(long, default_value = "storm", value_delimiter = ',')]
        programs: Vec<String>,
        /// How much each does; 0 for the usual
        #[arg(long, default_value_t = 0)]
        amount: u64,
    },
    /// Build it and its programs, and say where they are
    Build,
    /// Run all programs on several machines; then break the kernel in several ways, each of which must be noticed
    Test {
        /// Numbers of processors
        #[arg(long, value_delimiter = ',', default_value = "1,2,4,8")]
        cpus: Vec<u32>,
        /// The seed of all random choices
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Don't break it
        #[arg(long)]
        no_sabotage: bool,
    },
}

/// Does what is asked for.
///
/// # Errors
/// When QEMU is missing, the kernel can't be built, or a test failed.
pub(crate) fn run(root: &Path, asked: &Kernel) -> Result<()> {
    match asked {
        Kernel::Run { machine, programs, amount } => {
            machine.check()?;
            let built = build::build(root)?;
            let heard = guest::run(&built, machine, programs, *amount, |line| println!("{line}"))?;
            guest::outcome(&heard)
        }
        Kernel::Build => {
            let built = build::build(root)?;
            println!("{}\n{}", built.kernel.display(), built.programs.display());
            Ok(())
        }
        Kernel::Test { cpus, seed, no_sabotage } => {
            let machines: Vec<Machine> = cpus.iter().map(|&cpus| Machine { cpus, memory: 256, seed: *seed }).collect();
            machines.iter().try_for_each(Machine::check)?;
            test::run(&build::build(root)?, &machines)?;
            if *no_sabotage { Ok(()) } else { mutate::run(root, &Mutate::for_check("kernel")) }
        }
    }
}

/// As [`run`], for the gate.
pub(crate) fn ci(root: &Path) -> Result<()> {
    run(root, &Kernel::Test { cpus: vec![1, 2, 4, 8], seed: 1, no_sabotage: false })
}
