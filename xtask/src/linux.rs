//! The Linux side: builds the kit's sample driver for stock Debian kernels, tests it in guests, and shows it.
//!
//! Takes `cargo xtask linux build|test|soak|demo|bench`; gives each step's news. Promises to change nothing outside the
//! cache folder and the build folder, to discover every version (of kernels, headers and compilers), and to need no root.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::{Args, Subcommand};

mod apt;
mod bench;
mod cache;
mod compare;
mod demo;
mod guest;
mod kernels;
mod module;
mod qemu;
mod ready;
mod rust;
mod sabotage;
mod stack;
mod test;
mod tree;

use crate::{bad_input::BadInput, command::bound, console::QEMU, no_archive::NoArchive};
use apt::Apt;
use cache::Cache;
pub(crate) use compare::{Asked, compare};
use kernels::Kernel;
pub(crate) use kernels::Wanted;

use ready::Ready;
use sabotage::Sabotage;

/// The sample driver, which the guests' program knows.
const SAMPLE: &str = "linux/sample";

/// The driver that the tutorial ends with; a test loads it.
const TUTORIAL: &str = "linux/tutorial";

/// What can be asked for. The first line of each is its help.
#[derive(Subcommand)]
pub(crate) enum Linux {
    /// Build a driver for stock kernels
    Build {
        #[command(flatten)]
        options: Options,
        /// A kernel: `newest`, or a series such as 6.1; may be repeated [default: 6.1, 6.12 and newest]
        #[arg(long, value_name = "KERNEL")]
        kernel: Vec<Wanted>,
        /// The driver's folder: its `src/module.rs` makes it a module, of the folder's name
        #[arg(long, value_name = "DIR", default_value = SAMPLE)]
        driver: PathBuf,
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
    /// Measure in guests what moving and first touching a driver's pages costs, beside the kernel's ordinary pages
    Bench {
        #[command(flatten)]
        options: Options,
        /// A kernel: `newest`, or a series such as 6.1; may be repeated [default: 6.1, 6.12 and newest]
        #[arg(long, value_name = "KERNEL")]
        kernel: Vec<Wanted>,
        /// How often each kernel is booted
        #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
        boots: u16,
        /// Prints JSON on standard output, and nothing else there: a list with an entry for each kernel
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

/// The guests' tests that every change must pass: what a process may rely on, and that pages move. The others take long in
/// an emulated machine, and have limits of time that a busy host breaks; they are run by hand.
const GATE: [&str; 20] = [
    "bad-input",
    "past-the-end",
    "cleared-and-apart",
    "read-and-write",
    "private-mapping",
    "clear-refs",
    "drop-caches",
    "unload-in-use",
    "movement",
    "control",
    "policy",
    "driver-contract",
    "one-page-for-all",
    "pins",
    "many-opens",
    "pins-left-behind",
    "policy-of-others",
    "neighbours",
    "move-pages",
    "tutorial",
];

/// Tests the sample and the tutorial's driver on all kernels, as a part of the whole test command. Gives why not, where
/// Debian's archive is out of reach: then there is no kernel to test with.
///
/// # Errors
/// As [`run`].
pub(crate) fn ci(root: &Path) -> Result<Option<String>> {
    let archives = Cache::open(None).and_then(|cache| Apt::open_all(&cache).map(drop));
    match archives {
        Err(error) if error.is::<NoArchive>() => return Ok(Some(format!("{error:#}"))),
        archives => archives?,
    }
    let (options, only) = (Options { cache: None }, GATE.map(String::from).to_vec());
    run(root, Linux::Test { options, kernel: Vec::new(), sabotage: false, only })?;
    Ok(None)
}

/// Does what is asked for.
///
/// # Errors
/// When something is missing, can't be built, or a check failed.
pub(crate) fn run(root: &Path, asked: Linux) -> Result<()> {
    let (options, mut wanted) = match &asked {
        Linux::Build { options, kernel, .. }
        | Linux::Test { options, kernel, .. }
        | Linux::Bench { options, kernel, .. } => (options, kernel.clone()),
        Linux::Demo { options, kernel, .. } | Linux::Soak { options, kernel, .. } => (options, vec![kernel.clone()]),
    };
    if wanted.is_empty() {
        wanted = ["6.1", "6.12"].map(|series| Wanted::Series(series.to_owned())).into();
        wanted.push(Wanted::Newest);
    }
    // The guests' program knows the sample; its tests, the tutorial's driver as well.
    let drivers = match &asked {
        Linux::Build { driver, .. } => vec![root.join(driver)],
        Linux::Test { .. } => vec![root.join(SAMPLE), root.join(TUTORIAL)],
        _ => vec![root.join(SAMPLE)],
    };
    let names = drivers.iter().map(|driver| module_name(driver)).collect::<Result<Vec<_>>>()?;
    let cache = Cache::open(options.cache.clone())?;
    // First what is quick to fail.
    if !matches!(asked, Linux::Build { .. }) {
        bound(QEMU)?;
    }
    tree::check()?;
    let apts = Apt::open_all(&cache)?;
    let kernels = wanted.iter().map(|wanted| Kernel::find(&apts, wanted)).collect::<Result<Vec<_>>>()?;
    let compiler = rust::Compiler::get(&cache, &apts)?;
    let program = if matches!(asked, Linux::Build { .. }) { Vec::new() } else { guest::program(root)? };
    let ready = |kernel, sabotage: Option<&Sabotage>| {
        let image = Kernel::image(kernel, &cache)?;
        let mut modules = Vec::new();
        // A module takes longer to build than most tests of a sabotaged driver take.
        let both = sabotage.is_none_or(|sabotage| sabotage.tests.contains(&"tutorial"));
        for (driver, name) in drivers.iter().zip(&names).take(if both { drivers.len() } else { 1 }) {
            let object = compiler.object(&cache, root, driver, sabotage)?;
            modules.push(module::build(&cache, root, kernel, name, &object, sabotage)?);
        }
        let archive = guest::archive(&program, &modules, &module::config(&cache, kernel)?)?;
        anyhow::Ok(Ready { kernel, image, modules, archive })
    };
    let mut measured = Vec::new();
    for kernel in &kernels {
        match &asked {
            Linux::Build { .. } => {
                let ready = ready(kernel, None)?;
                for module in &ready.modules {
                    println!("{}: {}", ready.kernel.version, module.display());
                }
            }
            Linux::Test { sabotage: true, only, .. } => {
                let mut survivors = Vec::new();
                for sabotage in sabotage::named(only)? {
                    if let Err(error) = test::must_fail(&ready(kernel, Some(sabotage))?, sabotage) {
                        println!("kernel {}: {error:#}", kernel.version);
                        survivors.push(sabotage.name);
                    }
                }
                if !survivors.is_empty() {
                    bail!("kernel {}: not caught is a driver that {}", kernel.version, survivors.join("; that "));
                }
            }
            Linux::Test { only, .. } => test::run(&ready(kernel, None)?, || guest::command(root), only)?,
            Linux::Soak { minutes, seed, .. } => test::soak(&ready(kernel, None)?, *minutes, *seed)?,
            Linux::Demo { json, .. } => demo::run(&ready(kernel, None)?, *json)?,
            Linux::Bench { boots, json, .. } => {
                let of_kernel = bench::run(&ready(kernel, None)?, usize::from(*boots))?;
                if !json {
                    print!("{}", of_kernel.screen());
                }
                measured.push(of_kernel.to_json());
            }
        }
    }
    if matches!(asked, Linux::Bench { json: true, .. }) {
        println!("{}", serde_json::Value::from(measured));
    }
    Ok(())
}

/// The name of a driver's module: its folder's, in the kernel's manner.
///
/// # Errors
/// When there is no driver.
fn module_name(driver: &Path) -> Result<String> {
    let source = driver.join("src/module.rs");
    if !source.is_file() {
        bail!(BadInput(format!("there is no {}; `--driver` takes a folder such as {SAMPLE}", source.display())));
    }
    let folder = driver.canonicalize()?;
    let last = folder.file_name().map(|last| last.to_string_lossy().into_owned()).unwrap_or_default();
    let plain = last.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' });
    Ok(format!("pagemove_{}", plain.collect::<String>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_named_after_its_folder() {
        let folder = tempfile::tempdir().expect("a folder");
        let driver = folder.path().join("my-driver");
        std::fs::create_dir_all(driver.join("src")).expect("made");
        let error = module_name(&driver).expect_err("no module.rs");
        assert!(error.is::<BadInput>() && error.to_string().contains("--driver"), "{error}");
        std::fs::write(driver.join("src/module.rs"), "").expect("written");
        assert_eq!(module_name(&driver).expect("there"), "pagemove_my_driver");
    }

    #[test]
    fn the_tutorial_shows_what_is_built_and_tested() {
        let plain = |text: &str| text.lines().map(|line| format!("{}\n", line.trim())).collect::<String>();
        let c = [plain(include_str!("../../linux/tutorial/before.c"))];
        let rust = [
            plain(include_str!("../../linux/tutorial/src/driver.rs")),
            plain(include_str!("../../linux/tutorial/src/module.rs")),
            plain(include_str!("../../linux/tutorial/tests/driver.rs")),
        ];
        let mut shown = 0;
        for (language, files) in [("c", &c[..]), ("rust", &rust)] {
            let page = include_str!("../../docs/linux-driver.md");
            for rest in page.split(&format!("\n```{language}\n")).skip(1) {
                let block = plain(rest.split("```").next().unwrap_or_default());
                assert!(files.iter().any(|file| file.contains(&block)), "stands in no file:\n{block}");
                shown += 1;
            }
        }
        assert!(shown > 10, "only {shown} blocks were found");
    }
}
