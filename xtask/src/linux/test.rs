//! The tests in guests.
//!
//! Takes a kernel with its module; gives a line for each test, and an error if one has failed. Promises to miss none: a
//! guest that ends without having told of the kernel's log is a failure.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::Value;

use super::Ready;
use super::command::tail;
use super::qemu::Guest;
use super::sabotage::Sabotage;

/// The fewest tests that a whole run tells of; so that an empty run isn't taken for a good one.
const FEWEST: usize = 10;

/// Little, so that filling most of it takes little time.
const MEMORY_MIB: u32 = 512;

/// No guest needs longer, on the slowest machine that we know, by far.
const LIMIT: Duration = Duration::from_secs(900);

/// Runs the tests that are to catch a sabotaged driver.
///
/// # Errors
/// When they don't. A guest that crashes, or doesn't come to its end, has caught it as well.
pub(super) fn must_fail(ready: &Ready<'_>, sabotage: &Sabotage) -> Result<()> {
    let orders = ["test"].iter().chain(sabotage.tests).copied().collect::<Vec<_>>().join(",");
    let limit = Duration::from_secs(45);
    let guest = Guest { image: &ready.image, archive: &ready.archive, orders: &orders, memory_mib: MEMORY_MIB, limit };
    let mut seen = Seen::default();
    let mut facts = Vec::new();
    let outcome = guest.run(|told| {
        facts.extend(seen.hear(told).filter(|line| line.contains("FAILED") || told.get("fact").is_some()));
    });
    let how = match outcome {
        Err(_) => "the guest did not come to its end".to_owned(),
        Ok(_) if !seen.failed.is_empty() => facts.join(";").trim().to_owned(),
        Ok(_) => bail!("a driver that {} is not caught by {orders}", sabotage.name),
    };
    let how: String = how.chars().take(160).collect();
    println!("kernel {}: a driver that {} is caught: {how}", ready.kernel.version, sabotage.name);
    Ok(())
}

/// Runs the tests, or those of `only`.
pub(super) fn run(ready: &Ready<'_>, only: &[String]) -> Result<()> {
    let started = Instant::now();
    let orders = ["test"].into_iter().chain(only.iter().map(String::as_str)).collect::<Vec<_>>().join(",");
    let guest =
        Guest { image: &ready.image, archive: &ready.archive, orders: &orders, memory_mib: MEMORY_MIB, limit: LIMIT };
    let mut seen = Seen::default();
    let console = guest.run(|told| {
        if let Some(line) = seen.hear(told) {
            println!("{line}");
        }
    })?;
    let fewest = if only.is_empty() { FEWEST } else { only.len() };
    if let Some(why) = seen.fault(fewest) {
        println!("the guest's console ends with:\n{}", tail(&console, 60));
        bail!("kernel {}: {why}", ready.kernel.version);
    }
    println!(
        "kernel {}: {} tests passed in {:.0} s",
        ready.kernel.version,
        seen.passed,
        started.elapsed().as_secs_f64()
    );
    Ok(())
}

/// What the guest has told.
#[derive(Default)]
struct Seen {
    passed: usize,
    failed: Vec<String>,
    log_is_clean: bool,
}

impl Seen {
    /// Takes notice; gives a line for a person.
    fn hear(&mut self, told: &Value) -> Option<String> {
        if let Some(kernel) = told["kernel"].as_str() {
            return Some(format!("kernel {kernel}"));
        }
        if let (Some(fact), Some(of)) = (told["fact"].as_str(), told["of"].as_str()) {
            return Some(format!("  {of}: {fact}"));
        }
        let test = told["test"].as_str()?;
        let (is_ok, why) = (told["ok"].as_bool() == Some(true), told["why"].as_str().unwrap_or_default());
        if is_ok {
            self.passed += 1;
        } else {
            self.failed.push(test.to_owned());
        }
        self.log_is_clean |= test == "dmesg" && is_ok;
        let seconds = told["seconds"].as_f64().map(|seconds| format!(" ({seconds:.1} s)")).unwrap_or_default();
        Some(if is_ok { format!("  {test}: ok{seconds}") } else { format!("  {test}: FAILED{seconds}: {why}") })
    }

    fn fault(&self, fewest: usize) -> Option<String> {
        if !self.failed.is_empty() {
            Some(format!("failed: {}", self.failed.join(", ")))
        } else if !self.log_is_clean {
            Some("the guest has not told of the kernel's log".to_owned())
        } else if self.passed <= fewest {
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
}
