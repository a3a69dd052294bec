//! The Linux side: builds the kit's sample driver for stock Debian kernels, tests it in guests, and shows it.
//!
//! Takes `cargo xtask linux build|test|soak|demo`; gives each step's news. Promises to change nothing outside the cache folder
//! and the build folder, to discover every version (of kernels, headers and compilers), and to need no root.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::{Args, Subcommand};

mod apt;
mod cache;
mod command;
mod demo;
mod guest;
mod kernels;
mod module;
mod qemu;
mod rust;
mod sabotage;
mod test;
mod tree;

use apt::Apt;
use cache::Cache;
use kernels::Kernel;
pub(crate) use kernels::Wanted;
use sabotage::Sabotage;

/// What can be asked for. The first line of each is its help.
#[derive(Subcommand)]
pub(crate) enum Linux {
    /// Build the sample driver for stock kernels
    Build {
        #[command(flatten)]
        options: Options,
        /// A kernel: `newest`, or a series such as 6.1; may be repeated [default: 6.1, 6.12 and newest]
        #[arg(long, value_name = "KERNEL")]
        kernel: Vec<Wanted>,
    },
    /// Boot stock kernels in QEMU and test the driver in them
    Test {
        #[command(flatten)]
        options: Options,
        /// A kernel: `newest`, or a series such as 6.1; may be repeated [default: 6.1, 6.12 and newest]
        #[arg(long, value_name = "KERNEL")]
        kernel: Vec<Wanted>,
        /// Breaks the driver in one way after the other instead; each must be caught
        #[arg(long)]
        sabotage: bool,
        /// Runs these tests only; with --sabotage, the ways that have one of these words in their names
        #[arg(value_name = "TEST")]
        only: Vec<String>,
    },
    /// Try everything at once in a guest, for minutes
    Soak {
        #[command(flatten)]
        options: Options,
        /// A kernel: `newest`, or a series such as 6.1
        #[arg(long, value_name = "KERNEL", default_value = "newest")]
        kernel: Wanted,
        /// How long
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1440))]
        minutes: u64,
        /// What random numbers begin with [default: another one each time]
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Compact a guest's worn memory with a driver's pages movable, and the same with them unmovable
    Demo {
        #[command(flatten)]
        options: Options,
        /// A kernel: `newest`, or a series such as 6.1
        #[arg(long, value_name = "KERNEL", default_value = "newest")]
        kernel: Wanted,
        /// Prints JSON on standard output, and nothing else there
        #[arg(long)]
        json: bool,
    },
}

/// What all have in common.
#[derive(Args)]
pub(crate) struct Options {
    /// Where to keep what is fetched and built [default: pagemove-linux in your cache folder]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
}

/// A kernel with all that a guest needs.
struct Ready<'a> {
    kernel: &'a Kernel<'a>,
    image: PathBuf,
    module: PathBuf,
    archive: Vec<u8>,
}

/// Does what is asked for.
///
/// # Errors
/// When something is missing, can't be built, or a check failed.
pub(crate) fn run(root: &Path, asked: Linux) -> Result<()> {
    let (options, wanted) = match &asked {
        Linux::Build { options, kernel } | Linux::Test { options, kernel, .. } if kernel.is_empty() => (
            options,
            ["6.1", "6.12"]
                .map(|series| Wanted::Series(series.to_owned()))
                .into_iter()
                .chain([Wanted::Newest])
                .collect(),
        ),
        Linux::Build { options, kernel } | Linux::Test { options, kernel, .. } => (options, kernel.clone()),
        Linux::Demo { options, kernel, .. } | Linux::Soak { options, kernel, .. } => (options, vec![kernel.clone()]),
    };
    let cache = Cache::open(options.cache.clone())?;
    let apts = Apt::open_all(&cache)?;
    // First, since it's quick to fail.
    let kernels = wanted.iter().map(|wanted| Kernel::find(&apts, wanted)).collect::<Result<Vec<_>>>()?;
    let compiler = rust::Compiler::get(&cache, &apts)?;
    let program = if matches!(asked, Linux::Build { .. }) { Vec::new() } else { guest::program(root)? };
    let ready = |kernel, sabotage: Option<&Sabotage>| {
        let object = compiler.object(&cache, root, sabotage)?;
        let image = Kernel::image(kernel, &cache)?;
        let module = module::build(&cache, root, kernel, &object, sabotage)?;
        let archive = guest::archive(&program, &module, &module::config(&cache, kernel)?)?;
        anyhow::Ok(Ready { kernel, image, module, archive })
    };
    for kernel in &kernels {
        match &asked {
            Linux::Build { .. } => {
                let ready = ready(kernel, None)?;
                println!("{}: {}", ready.kernel.version, ready.module.display());
            }
            Linux::Test { sabotage: true, only, .. } => {
                let mut survivors = Vec::new();
                for sabotage in sabotage::named(only)? {
                    if let Err(error) = test::must_fail(&cache, &ready(kernel, Some(sabotage))?, sabotage) {
                        println!("kernel {}: {error:#}", kernel.version);
                        survivors.push(sabotage.name);
                    }
                }
                if !survivors.is_empty() {
                    bail!("kernel {}: not caught is a driver that {}", kernel.version, survivors.join("; that "));
                }
            }
            Linux::Test { only, .. } => test::run(&cache, &ready(kernel, None)?, only)?,
            Linux::Soak { minutes, seed, .. } => test::soak(&cache, &ready(kernel, None)?, *minutes, *seed)?,
            Linux::Demo { json, .. } => demo::run(&cache, &ready(kernel, None)?, *json)?,
        }
    }
    Ok(())
}
