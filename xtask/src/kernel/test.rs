//! The tests: all programs, on machines of several sizes.

use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::{build::Built, guest, machine::Machine};

/// All programs. The last one loses what its failed history had.
const PROGRAMS: [&str; 11] = [
    "hello",
    "bad",
    "changes",
    "marks",
    "registers",
    "vectors",
    "storm",
    "exhaust",
    "greedy",
    "histories",
    "unflushed",
];

/// Runs all programs on each machine; ends at the first one that fails.
///
/// # Errors
/// Says what failed.
pub(super) fn run(built: &Built, machines: &[Machine]) -> Result<()> {
    let (mut passed, mut moved) = (0, 0);
    for machine in machines {
        let start = Instant::now();
        // To take all of a large memory takes long, and shows nothing more.
        // Nor do limits depend on processors.
        let is_wanted = |name: &&str| match *name {
            // The rest doesn't depend on the CPU's model.
            name if machine.model == Machine::PLAIN => matches!(name, "hello" | "vectors" | "storm"),
            "exhaust" => machine.memory < 1024,
            "greedy" => machine.memory < 1024 && machine.cpus == 2,
            // On one processor all use the same TLB.
            "unflushed" => machine.cpus > 1,
            _ => true,
        };
        let programs: Vec<String> = PROGRAMS.into_iter().filter(is_wanted).map(String::from).collect();
        println!("{} processors ({}), {} MiB, seed {}", machine.cpus, machine.model, machine.memory, machine.seed);
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
                _ => {
                    moved += pages_moved(line);
                    println!("  {line}");
                }
            }
        })?;
        // One that has told nothing hasn't passed, whatever the machine says.
        let silent = programs.iter().find(|name| !ended.contains(name));
        if let Some(name) = silent {
            println!("test {name}, {} processors ... FAILED", machine.cpus);
        }
        println!("  {:.1} s", start.elapsed().as_secs_f64());
        guest::outcome(&heard, machine).with_context(|| format!("{} processors", machine.cpus))?;
        if silent.is_some() {
            bail!("{} processors: not all programs have run", machine.cpus);
        }
    }
    // Else nothing was shown.
    if moved == 0 {
        bail!("no page has moved while the programs ran");
    }
    println!("{passed} tests passed, while {moved} pages moved");
    Ok(())
}

/// Reads how many pages moved from the line that sums up a program (`storm: 12 pages moved, …`).
fn pages_moved(line: &str) -> u64 {
    let number = line.split_once(" pages moved,").and_then(|(before, _)| before.rsplit(' ').next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moved_pages_are_read() {
        assert_eq!(pages_moved("storm: 1271 pages moved, 738 flushes, 744 interrupts"), 1271);
        assert_eq!(pages_moved("storm: no pages moved"), 0);
    }
}
