//! The project's chores, as `cargo xtask NAME`.
//!
//! Takes the name of a chore, runs it on the workspace that xtask stands in, and prints what it found. Promises
//! exit code 0 when all is well, 1 when a check found something or couldn't run, and 2 for wrong arguments and input.
//! `cargo xtask ci` runs those that every change must pass, and the compiler's, formatter's and linter's own.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

mod bad_input;
mod cargo;
mod checkers;
mod ci;
mod command;
mod console;
mod dist;
mod formats;
mod kernel;
mod layers;
mod linux;
mod mutate;
mod no_archive;
mod no_std;
mod package;
mod prose;
mod sanitize;
mod static_program;

use bad_input::BadInput;

/// The project's chores.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

/// What can be asked for. The first line of each is its help.
#[derive(Subcommand)]
enum Chore {
    /// Run the project's whole test command: the checks that every change must pass, and the tests
    Ci,
    /// Build the command as a static binary, in an archive and a Debian package
    Dist,
    /// Run the hosted machine's tests with page tables of aarch64 and riscv64
    Formats(formats::Asked),
    /// Build the example kernel, run it, and test it with real page tables and ring 3, in QEMU
    #[command(subcommand)]
    Kernel(kernel::Kernel),
    /// Check that the core's modules, all files, and the crates depend on each other one way only
    Layers,
    /// Build a driver whose mapped pages move for stock Linux kernels, test it in guests, show it
    #[command(subcommand)]
    Linux(linux::Linux),
    /// Explore small models of the core's protocols completely, weak orderings included (loom)
    Models,
    /// Break the core one line at a time, and show which check notices
    Mutate(mutate::Mutate),
    /// Prove that the core builds and links without the standard library
    NoStd,
    /// Prove that the published crates build from their packages alone
    Package,
    /// Check committed files for paths of one machine, files too long and work left open
    Prose,
    /// Run the suites under the address or the thread sanitizer
    Sanitize(sanitize::Asked),
    /// Explore histories of whole moves against all that can happen to a page meanwhile (shuttle)
    Schedules(checkers::Schedules),
}

fn main() -> ExitCode {
    let root = root();
    let outcome: Result<()> = match Arguments::parse().chore {
        Chore::Ci => ci::run(&root),
        Chore::Dist => dist::run(&root),
        Chore::Formats(asked) => formats::run(&root, &asked),
        Chore::Kernel(asked) => kernel::run(&root, &asked),
        Chore::Layers => layers::run(&root),
        Chore::Linux(asked) => linux::run(&root, asked),
        Chore::Models => checkers::models(&root),
        Chore::Schedules(asked) => checkers::schedules(&root, &asked),
        Chore::Mutate(asked) => mutate::run(&root, &asked),
        Chore::NoStd => no_std::run(&root),
        Chore::Package => package::run(&root),
        Chore::Prose => prose::run(&root),
        Chore::Sanitize(asked) => sanitize::run(&root, &asked),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            if error.is::<BadInput>() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

/// The workspace's folder: the one above xtask's own.
fn root() -> PathBuf {
    // `cargo run` names the folder at run time; a binary started by hand only knows where it was built.
    let own = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let mut root = PathBuf::from(own);
    root.pop();
    root
}
