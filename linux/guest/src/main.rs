//! The guest's only program (`init`): loads the sample driver into a stock kernel, runs tests, and prints results.
//!
//! The kernel's command line says what to run (`pagemove=test`, `pagemove=demo,PAGES,SEED,movable|unmovable`,
//! `pagemove=soak,SECONDS,SEED`, `pagemove=bench,PAGES,ROUNDS`,
//! `pagemove=compare,ROUNDS`). Results are console lines that begin with `@pagemove `
//! and hold JSON; the last one is `{"end": true}`. Each test runs in its own process with a time limit. The machine is
//! always powered off at the end.

use std::fs;
use std::time::{Duration, Instant};

mod administrator;
mod bench;
mod compare;
mod console;
mod contract;
mod device;
mod dmesg;
mod hostile;
mod machine;
mod marks;
mod module;
mod movement;
mod owner;
mod pins;
mod pressure;
mod soak;
mod storm;
mod survey;
mod sys;
mod tests;
mod triggers;
mod tutorial;
mod verdict;
mod views;
mod work;

use console::{give_up, tell};
use module::{MODULE, load};
use sys::{End, errno};
use verdict::Skip;

/// Far more than any test takes on the slowest machine known.
const LIMIT: Duration = Duration::from_secs(240);

/// How often to check the kernel's log during a test.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Exit code of a test that this kernel can't run.
const SKIPPED: i32 = 77;

fn main() {
    let outcome = init();
    if let Err(error) = outcome {
        tell(&format!("{{\"test\":\"guest\",\"ok\":false,\"why\":{:?}}}", error.to_string()));
    }
    tell("{\"end\":true}");
    sys::power_off();
}

fn init() -> std::io::Result<()> {
    sys::mount("proc", "/proc")?;
    sys::mount("sysfs", "/sys")?;
    sys::mount("devtmpfs", "/dev")?;
    sys::mount("debugfs", "/sys/kernel/debug")?;
    let line = fs::read_to_string("/proc/cmdline")?;
    let orders = line.split_whitespace().find_map(|word| word.strip_prefix("pagemove=")).unwrap_or("test");
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    tell(&format!("{{\"kernel\":{:?}}}", release.trim()));
    let orders: Vec<&str> = orders.split(',').collect();
    match orders[..] {
        ["demo", pages, seed, kind] => {
            machine::move_only_when_asked()?;
            load(kind == "unmovable")?;
            let number = |text: &str| text.parse::<u64>().map_err(std::io::Error::other);
            let outcome = movement::run(number(pages)? as usize, number(seed)?, 1)?;
            tell(&format!("{{\"demo\":{kind:?},\"outcome\":{}}}", outcome.to_json()));
        }
        ["bench", pages, rounds] => {
            load(false)?;
            let number = |text: &str| text.parse().map_err(std::io::Error::other);
            bench::run(number(pages)?, number(rounds)?)?;
        }
        ["test", ref only @ ..] => {
            machine::move_only_when_asked()?;
            for test in tests::ALL {
                let is_wanted = only.is_empty() && !test.by_name_only || only.contains(&test.name);
                if is_wanted && !run(test) {
                    let why = format!("after {} the module can't be unloaded, so no more tests are run", test.name);
                    tell(&format!("{{\"test\":\"guest\",\"ok\":false,\"why\":{why:?}}}"));
                    break;
                }
            }
        }
        ["compare", rounds] => compare::run(rounds.parse().map_err(std::io::Error::other)?)?,
        ["soak", seconds, seed] => {
            load(false)?;
            let number = |text: &str| text.parse::<u64>().map_err(std::io::Error::other);
            let outcome = soak::run(Duration::from_secs(number(seconds)?), number(seed)?);
            let (is_ok, why) = (outcome.is_ok(), outcome.as_ref().err().map_or_else(String::new, ToString::to_string));
            tell(&format!("{{\"test\":\"soak\",\"ok\":{is_ok},\"why\":{why:?}}}"));
            let unloaded = machine::wait_until("the module to be unloaded", || Ok(sys::unload_module(MODULE).is_ok()));
            tell(&format!("{{\"test\":\"unload\",\"ok\":{},\"why\":\"\"}}", unloaded.is_ok()));
        }
        _ => return Err(std::io::Error::other("unknown orders on the kernel's command line")),
    }
    let bad = dmesg::check()?;
    tell(&format!("{{\"test\":\"dmesg\",\"ok\":{},\"why\":{:?}}}", bad.is_empty(), bad.join("; ")));
    Ok(())
}

/// Runs one test in its own process, with the driver newly loaded, and prints the result; tells whether the driver
/// could be unloaded.
fn run(test: &tests::Test) -> bool {
    let started = Instant::now();
    let mut unloaded = true;
    let loaded = dmesg::begin(test.name).and_then(|()| load(test.unmovable));
    let mut outcome = loaded.map(|()| false).map_err(|error| format!("can't load the module: {error}"));
    if outcome.is_ok() {
        outcome = in_child(test);
        // The test's process and its opens are gone, so unloading must succeed.
        unloaded = (0..50).any(|_| {
            // A test of unloading may already have unloaded it.
            let done = matches!(errno(&sys::unload_module(MODULE)), 0 | libc::ENOENT);
            if !done {
                std::thread::sleep(Duration::from_millis(100));
            }
            done
        });
        if !unloaded {
            outcome = outcome.and(Err("the module can't be unloaded afterwards".to_owned()));
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    let why = outcome.as_ref().err().map_or("", String::as_str);
    let skipped = matches!(outcome, Ok(true));
    tell(&format!(
        "{{\"test\":{:?},\"ok\":{},\"skipped\":{skipped},\"seconds\":{seconds:.1},\"why\":{why:?}}}",
        test.name,
        outcome.is_ok()
    ));
    unloaded
}

/// Tells whether the test was skipped.
fn in_child(test: &tests::Test) -> Result<bool, String> {
    let child = sys::fork(|| {
        // Report a panic as a failure; `fork` alone would exit silently.
        let outcome = std::panic::catch_unwind(test.body).unwrap_or_else(|_| Err("it panicked".into()));
        match outcome {
            Ok(fact) => {
                tell(&format!("{{\"fact\":{:?},\"of\":{:?}}}", fact, test.name));
                0
            }
            Err(error) => {
                tell(&format!("{{\"fact\":{:?},\"of\":{:?}}}", error.to_string(), test.name));
                if error.is::<Skip>() { SKIPPED } else { 1 }
            }
        }
    })
    .map_err(|error| error.to_string())?;
    let (started, mut looked) = (Instant::now(), Instant::now());
    loop {
        match child.ended() {
            Some(End::Exit(0)) => return Ok(false),
            Some(End::Exit(SKIPPED)) => return Ok(true),
            Some(End::Exit(_)) => return Err("the fact above".to_owned()),
            Some(End::Signal(signal)) => return Err(format!("it was killed by signal {signal}")),
            None if started.elapsed() > LIMIT => {
                child.kill();
                return Err(format!("it took longer than {} s", LIMIT.as_secs()));
            }
            // A kernel bug may block the test's process for ever.
            None if looked.elapsed() > LOOK_EVERY => {
                let bad = dmesg::check().map_err(|error| error.to_string())?;
                if let Some(complaint) = bad.into_iter().find(|line| line.starts_with(&format!("in {}:", test.name))) {
                    give_up(test.name, &format!("the kernel complains {complaint}"));
                }
                looked = Instant::now();
            }
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
