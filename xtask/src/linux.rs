//! The Linux side: builds the kit's sample driver for stock Debian kernels, tests it in guests, and shows it.
//!
//! Takes `cargo xtask linux build|test|demo`; gives each step's news on standard output. Promises to change nothing
//! outside the cache folder and the build folder, and to discover every version: of kernels, headers and compilers.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Args, Subcommand};

mod apt;
mod cache;
mod command;
mod kernels;
mod module;
mod rust;
mod tree;

use apt::Apt;
use cache::Cache;
use kernels::{Kernel, Wanted};

/// What can be asked for. The first line of each is its help.
#[derive(Subcommand)]
pub(crate) enum Linux {
    /// Build the sample driver for stock kernels
    Build(Options),
}

/// What all have in common.
#[derive(Args)]
pub(crate) struct Options {
    /// A kernel: `newest`, or a series such as 6.1 or 6.12; may be repeated [default: 6.1, 6.12 and newest]
    #[arg(long, value_name = "KERNEL")]
    kernel: Vec<Wanted>,
    /// Where to keep what is fetched and built [default: pagemove-linux in your cache folder]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
}

/// Does what is asked for.
///
/// # Errors
/// When something is missing, can't be built, or a check failed.
pub(crate) fn run(root: &Path, asked: Linux) -> Result<()> {
    let Linux::Build(options) = asked;
    let _ = root;
    let cache = Cache::open(options.cache)?;
    let apts = Apt::open_all(&cache)?;
    let compiler = rust::Compiler::get(&cache, &apts)?;
    let object = compiler.object(&cache, root)?;
    for wanted in &options.kernel {
        let kernel = Kernel::find(&apts, wanted)?;
        let image = kernel.image(&cache)?;
        let module = module::build(&cache, root, &kernel, &object)?;
        println!("linux: kernel {} ({}): {} for {}", kernel.version, kernel.apt.release, module.display(), image.display());
    }
    Ok(())
}
