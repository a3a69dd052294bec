//! The example kernel: builds it, runs it in QEMU, tests it.
//!
//! Takes the workspace, and how many processors and how much memory; gives the console, and a line for each test. Promises that all that a
//! build leaves is in the target folder, and that no machine outlives this process.

mod build;
mod compare;
mod guest;
mod machine;
mod test;

use std::path::Path;

use anyhow::Result;
use clap::Subcommand;

use crate::{
    command::bound,
    console::QEMU,
    linux::Wanted,
    mutate::{self, Mutate},
};
use build::Profile;
use machine::Machine;

/// What can be done with the kernel. The first line of each is its help.
#[derive(Subcommand)]
pub(crate) enum Kernel {
    /// Run programs on it, and show its console
    Run {
        #[command(flatten)]
        machine: Machine,
        /// The programs, one after the other: hello, storm, changes, marks, registers, vectors, bad, exhaust, greedy, starve, histories, unflushed
        #[arg(long, default_value = "storm", value_delimiter = ',')]
        programs: Vec<String>,
        /// How much each does; 0 for the usual
        #[arg(long, default_value_t = 0)]
        amount: u64,
    },
    /// Build it and its programs, and say where they are
    Build,
    /// Compare it with Linux in the same machine: moves, faults, fork, munmap, compaction
    Compare {
        /// Boots of each kernel
        #[arg(long, default_value_t = 5)]
        boots: u8,
        /// Linux kernels: a series such as 6.12, or newest
        #[arg(long, value_delimiter = ',', default_value = "6.12,newest")]
        kernel: Vec<Wanted>,
    },
    /// Run all programs on several machines; then break the kernel in several ways, each of which must be noticed
    Test {
        /// Numbers of processors
        #[arg(long, value_delimiter = ',', default_value = "1,2,4,8")]
        cpus: Vec<u32>,
        /// The seed of all random choices
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Seconds after which a machine hangs
        #[arg(long, default_value_t = Machine::LIMIT)]
        limit: u64,
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
            let built = build::build(root, Profile::Checked)?;
            let heard = guest::run(&built, machine, programs, *amount, |line| println!("{line}"))?;
            guest::outcome(&heard, machine)
        }
        Kernel::Build => {
            let built = build::build(root, Profile::Checked)?;
            println!("{}\n{}", built.kernel.display(), built.programs.display());
            Ok(())
        }
        Kernel::Compare { boots, kernel } => {
            let built = build::build(root, Profile::Fast)?;
            compare::run(root, &built, usize::from(*boots).max(1), kernel)
        }
        Kernel::Test { cpus, seed, limit, no_sabotage } => {
            let full = cpus.iter().map(|&cpus| (cpus, Machine::FULL));
            let machines: Vec<Machine> = full
                .chain([(2, Machine::PLAIN)])
                .map(|(cpus, model)| Machine {
                    cpus,
                    memory: 256,
                    seed: *seed,
                    model: model.into(),
                    is_preallocated: false,
                    limit: *limit,
                })
                .collect();
            machines.iter().try_for_each(Machine::check)?;
            test::run(&build::build(root, Profile::Checked)?, &machines)?;
            if *no_sabotage { Ok(()) } else { mutate::run(root, &Mutate::after("kernel")) }
        }
    }
}

/// As [`run`], for the gate. Gives why it can't be run here, if so.
pub(crate) fn ci(root: &Path) -> Result<Option<String>> {
    if let Err(missing) = bound(QEMU) {
        return Ok(Some(format!("{missing:#}")));
    }
    run(root, &Kernel::Test { cpus: vec![1, 2, 4, 8], seed: 1, limit: Machine::LIMIT, no_sabotage: false })?;
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All code of the page stands in the example, which is compiled.
    #[test]
    fn the_page_for_authors_shows_what_is_built() {
        let plain = |text: &str| text.lines().map(|line| format!("{}\n", line.trim())).collect::<String>();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/kernel/kernel/src");
        let files: Vec<String> = std::fs::read_dir(folder)
            .expect("the example's source")
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| path.is_file())
            .map(|path| plain(&std::fs::read_to_string(path).expect("text")))
            .collect();
        let mut shown = 0;
        for rest in include_str!("../../docs/kernel.md").split("\n```rust\n").skip(1) {
            let block = plain(rest.split("```").next().unwrap_or_default());
            assert!(files.iter().any(|file| file.contains(&block)), "stands in no file:\n{block}");
            shown += 1;
        }
        assert!(shown >= 10, "only {shown} blocks were found");
    }
}
