//! The tests: all programs, on machines of several sizes.

use std::time::Instant;

use anyhow::{Result, bail};

use super::{build::Built, guest, machine::Machine};

/// All programs.
const PROGRAMS: [&str; 6] = ["hello", "bad", "changes", "marks", "storm", "exhaust"];

/// Runs all programs on each machine.
///
/// # Errors
/// Names the tests that failed.
pub(super) fn run(built: &Built, machines: &[Machine]) -> Result<()> {
    let mut failed = Vec::new();
    let mut passed = 0;
    for machine in machines {
        let start = Instant::now();
        // To take all of a large memory takes long, and shows nothing more.
        let programs: Vec<String> =
            PROGRAMS.into_iter().filter(|&name| machine.memory < 1024 || name != "exhaust").map(String::from).collect();
        println!("{} processors, {} MiB, seed {}", machine.cpus, machine.memory, machine.seed);
        let mut ended = Vec::new();
        let heard = guest::run(built, machine, &programs, 0, |line| {
            let told = line.split_once(' ');
            match told.filter(|(_, name)| PROGRAMS.contains(name)) {
                Some((verdict @ ("ok" | "FAILED"), name)) => {
                    println!("test {name}, {} processors ... {verdict}", machine.cpus);
                    ended.push(name.to_owned());
                    passed += usize::from(verdict == "ok");
                }
                // What programs did is told indented.
                _ => println!("  {line}"),
            }
        })?;
        if let Err(error) = guest::outcome(&heard) {
            let at = programs.iter().find(|name| !ended.contains(name));
            if let Some(name) = at {
                println!("test {name}, {} processors ... FAILED", machine.cpus);
            }
            failed.push(format!("{} processors: {error:#}", machine.cpus));
        }
        println!("  {:.1} s", start.elapsed().as_secs_f64());
    }
    if !failed.is_empty() {
        bail!("{}", failed.join("\n"));
    }
    println!("{passed} tests passed");
    Ok(())
}
