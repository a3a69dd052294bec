//! The tests in guests.
//!
//! Takes a kernel with its module; gives a line for each test, and an error if one has failed. Promises to miss none: a
//! guest that ends without having told of the kernel's log is a failure.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Result, bail};
use serde_json::Value;

use super::ready::Ready;
use super::sabotage::Sabotage;
use crate::bad_input::BadInput;
use crate::command::tail;

/// The fewest tests that a whole run tells of; so that an empty run isn't taken for a good one.
const FEWEST: usize = 25;

/// Little, so that filling most of it takes little time.
const MEMORY_MIB: u32 = 512;

/// Tests that need a large guest.
const LARGE: &[&str] = &["hugetlb-cma"];
const LARGE_MIB: u32 = 4096;

/// Tests of the command: what it says of a machine that the guest's program has prepared.
const OF_THE_COMMAND: &[&str] = &[
    "survey-packet-ring",
    "survey-secret-memory",
    "survey-registered-buffers",
    "survey-huge-page-pool",
    "survey-pins",
    "survey-slabs",
];

/// No guest needs longer, on the slowest machine that we know, by far.
const LIMIT: Duration = Duration::from_secs(1500);

/// The same for the few tests that a sabotaged driver gets.
const SABOTAGE_LIMIT: Duration = Duration::from_secs(400);

/// How the guest refers to what it has told already.
const ABOVE: &str = "the fact above";

/// What the guest calls itself when it can't go on.
const GUEST: &str = "guest";

/// How much of a fact tells a person by what a sabotage was caught.
const FACT_CHARS: usize = 200;

/// What a guest of a soak may need before and after.
const SOAK_MORE: Duration = Duration::from_secs(300);

/// Runs the tests that are to catch a sabotaged driver.
///
/// # Errors
/// When one of them doesn't. A guest that crashes, or gives up after one of them, has caught it as well; one that never came
/// up has not.
pub(super) fn must_fail(ready: &Ready<'_>, sabotage: &Sabotage) -> Result<()> {
    let orders = ["test"].iter().chain(sabotage.tests).copied().collect::<Vec<_>>().join(",");
    let limit = SABOTAGE_LIMIT;
    let guest = ready.guest(&orders, MEMORY_MIB, limit);
    let mut seen = Seen::default();
    let (mut facts, mut came_up) = (Vec::new(), false);
    let started = Instant::now();
    let mut verdict = "is caught";
    let outcome = guest.run(|told| {
        came_up |= told.get("kernel").is_some();
        let is_news = |line: &String| told.get("fact").is_some() || line.contains("FAILED") && !line.ends_with(ABOVE);
        facts.extend(seen.hear(told).filter(is_news));
    });
    let missed: Vec<&str> = sabotage.tests.iter().copied().filter(|test| !seen.caught_by(test)).collect();
    let has_failed = |name: &str| seen.failed.iter().any(|failed| failed == name);
    // Alone, a guest that can't go on has another reason.
    let gave_up = has_failed(GUEST) && sabotage.tests.iter().any(|test| has_failed(test));
    match outcome {
        // QEMU's or this machine's trouble says nothing of the driver.
        Err(error) if !came_up => return Err(error),
        Err(_) if started.elapsed() >= limit => {
            bail!("a driver that {} lets the guest hang, which isn't what its tests look for", sabotage.name)
        }
        Err(error) => facts.push(format!("  the guest crashed: {}", complaint(&error.to_string()))),
        Ok(_) if !missed.is_empty() && !gave_up => {
            bail!("a driver that {} isn't caught by {}", sabotage.name, missed.join(", "));
        }
        Ok(_) if seen.failed.is_empty() => verdict = "can't be shown here: this kernel skips its tests",
        Ok(_) => {}
    }
    println!("kernel {}: a driver that {} {verdict}", ready.kernel.version, sabotage.name);
    for fact in facts {
        println!("{}", fact.chars().take(FACT_CHARS).collect::<String>());
    }
    Ok(())
}

/// What a kernel complained of first, among a console's last lines.
fn complaint(console: &str) -> &str {
    let signs = ["BUG", "Oops", "Bad page", "WARNING", "general protection", "Kernel panic"];
    console.lines().find(|line| signs.iter().any(|sign| line.contains(sign))).unwrap_or("it said nothing of it").trim()
}

/// Runs the tests, or those of `only`; `command` gives an archive with the command.
pub(super) fn run(ready: &Ready<'_>, command: impl FnOnce() -> Result<Vec<u8>>, only: &[String]) -> Result<()> {
    let started = Instant::now();
    let mut seen = Seen::default();
    let others = |name: &&str| !LARGE.contains(name) && !OF_THE_COMMAND.contains(name);
    let small: Vec<&str> = only.iter().map(String::as_str).filter(others).collect();
    if only.is_empty() || !small.is_empty() {
        boot(ready, &[&["test"], &small[..]].concat().join(","), MEMORY_MIB, LIMIT, &mut seen)?;
    }
    let of = |all: &[&'static str]| -> Vec<&str> {
        all.iter().copied().filter(|name| only.is_empty() || only.iter().any(|wanted| wanted == name)).collect()
    };
    let large = of(LARGE);
    if !large.is_empty() {
        boot(ready, &[&["test"], &large[..]].concat().join(","), LARGE_MIB, LIMIT, &mut seen)?;
    }
    let of_the_command = of(OF_THE_COMMAND);
    if !of_the_command.is_empty() {
        let ready = ready.with(command()?);
        boot(&ready, &[&["test"], &of_the_command[..]].concat().join(","), MEMORY_MIB, LIMIT, &mut seen)?;
    }
    if let Some(name) = seen.unheard(only) {
        bail!(BadInput(format!("there is no test `{name}`; without names, all are run, and tell their names")));
    }
    let fewest = if only.is_empty() { FEWEST } else { only.len() };
    if let Some(why) = seen.fault(fewest) {
        bail!("kernel {}: {why}", ready.kernel.version);
    }
    println!(
        "kernel {}: {} tests passed in {:.0} s{}",
        ready.kernel.version,
        seen.passed,
        started.elapsed().as_secs_f64(),
        if seen.skipped.is_empty() { String::new() } else { format!("; skipped: {}", seen.skipped.join("; ")) }
    );
    Ok(())
}

/// Runs the soak.
pub(super) fn soak(ready: &Ready<'_>, minutes: u64, seed: Option<u64>) -> Result<()> {
    let seed = seed.unwrap_or_else(|| SystemTime::UNIX_EPOCH.elapsed().map_or(1, |time| time.as_secs()));
    println!("kernel {}: everything at once, for {minutes} minutes, with --seed {seed}", ready.kernel.version);
    let time = Duration::from_secs(minutes * 60);
    let mut seen = Seen::default();
    let orders = format!("soak,{},{seed}", time.as_secs());
    boot(ready, &orders, MEMORY_MIB, time + SOAK_MORE, &mut seen)?;
    match seen.fault(2) {
        Some(why) => bail!("kernel {}, seed {seed}: {why}", ready.kernel.version),
        None => Ok(()),
    }
}

/// Boots a guest, and prints what it tells; with the console's end if something has failed.
fn boot(ready: &Ready<'_>, orders: &str, memory_mib: u32, limit: Duration, seen: &mut Seen) -> Result<()> {
    let guest = ready.guest(orders, memory_mib, limit);
    seen.log_is_clean = false;
    let console = guest.run(|told| {
        if let Some(line) = seen.hear(told) {
            println!("{line}");
        }
    })?;
    if !seen.failed.is_empty() {
        println!("the guest's console ends with:\n{}", tail(&console, 60));
    }
    Ok(())
}

/// What the guest has told.
#[derive(Default)]
struct Seen {
    heard: Vec<String>,
    passed: usize,
    failed: Vec<String>,
    /// With the reason.
    skipped: Vec<String>,
    log_is_clean: bool,
    last_fact: String,
}

impl Seen {
    /// Takes notice; gives a line for a person.
    fn hear(&mut self, told: &Value) -> Option<String> {
        if let Some(kernel) = told["kernel"].as_str() {
            return Some(format!("kernel {kernel}"));
        }
        if let Some(progress) = told["progress"].as_str() {
            return Some(format!("  {progress}"));
        }
        if let (Some(fact), Some(of)) = (told["fact"].as_str(), told["of"].as_str()) {
            self.last_fact = fact.to_owned();
            return Some(format!("  {of}: {fact}"));
        }
        let test = told["test"].as_str()?;
        self.heard.push(test.to_owned());
        let (is_ok, why) = (told["ok"].as_bool() == Some(true), told["why"].as_str().unwrap_or_default());
        if told["skipped"].as_bool() == Some(true) {
            self.skipped.push(format!("{test}: {}", self.last_fact));
            return Some(format!("  {test}: skipped"));
        }
        if is_ok {
            self.passed += 1;
        } else {
            self.failed.push(test.to_owned());
        }
        self.log_is_clean |= test == "dmesg" && is_ok;
        let seconds = told["seconds"].as_f64().map(|seconds| format!(" ({seconds:.1} s)")).unwrap_or_default();
        Some(if is_ok { format!("  {test}: ok{seconds}") } else { format!("  {test}: FAILED{seconds}: {why}") })
    }

    /// A name that the guest has told nothing of, though it came to its end.
    fn unheard<'a>(&self, names: &'a [String]) -> Option<&'a String> {
        names.iter().find(|name| !self.heard.contains(name))
    }

    /// Whether a test has failed, or this kernel can't run it.
    fn caught_by(&self, test: &str) -> bool {
        self.failed.iter().any(|failed| failed == test)
            || self.skipped.iter().any(|skipped| skipped.split_once(':').is_some_and(|(name, _)| name == test))
    }

    fn fault(&self, fewest: usize) -> Option<String> {
        if !self.failed.is_empty() {
            Some(format!("failed: {}", self.failed.join(", ")))
        } else if !self.log_is_clean {
            Some("the guest has not told of the kernel's log".to_owned())
        } else if self.passed + self.skipped.len() <= fewest {
            // The log's own line counts as one.
            Some(format!("only {} tests were run", self.passed))
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_run_is_good_only_when_whole() {
        let mut seen = Seen::default();
        assert!(seen.fault(0).is_some(), "nothing told");
        seen.hear(&json!({"test": "a", "ok": true}));
        assert!(seen.fault(1).is_some(), "no word of the log");
        seen.hear(&json!({"test": "dmesg", "ok": true}));
        assert_eq!(seen.fault(1), None);
        assert!(seen.fault(2).is_some(), "too few");
        seen.hear(&json!({"test": "b", "ok": false, "why": "so"}));
        assert!(seen.fault(1).is_some_and(|why| why.contains('b')));
    }

    #[test]
    fn a_name_that_is_no_tests_is_told() {
        let mut seen = Seen::default();
        seen.hear(&json!({"test": "a", "ok": true}));
        let names = ["a", "b"].map(str::to_owned);
        assert_eq!((seen.unheard(&names), seen.unheard(&names[..1])), (Some(&names[1]), None));
    }

    #[test]
    fn what_is_skipped_is_told_with_its_reason() {
        let mut seen = Seen::default();
        seen.hear(&json!({"fact": "no such option", "of": "a"}));
        seen.hear(&json!({"test": "a", "ok": true, "skipped": true}));
        assert_eq!((seen.passed, seen.skipped.join(";")), (0, "a: no such option".to_owned()));
        assert!(seen.caught_by("a") && !seen.caught_by("b"));
    }
}
