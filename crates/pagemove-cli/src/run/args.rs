//! The arguments of `pagemove run`, and the line that repeats a run.

use std::path::PathBuf;

use clap::ValueEnum;
use pagemove::migrate::Policy;
use pagemove_hosted::TlbKind;

use super::memory::Memory;
use crate::layout::LayoutSource;

/// Writers at most; more only wait for each other.
const MOST_CPUS: i64 = 64;

/// Compacts this machine's memory layout in the engine, under fire, once under each policy.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct RunArgs {
    /// Number that fixes every random choice [default: a new one each time].
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub(crate) seed: Option<u64>,
    /// Memory of the machine, as 512M or 2G [default: a quarter of RAM, at most 4G].
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub(crate) memory: Option<Memory>,
    /// Threads that write while pages move [default: one for each CPU, at most 8].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=MOST_CPUS))]
    pub(crate) cpus: Option<u8>,
    /// TLB of the machine: in software, or the host's own MMU.
    #[arg(long, value_enum, default_value_t = Tlb::Host)]
    pub(crate) tlb: Tlb,
    /// Policies to compare; several with commas between [default: all].
    #[arg(long, value_enum, value_delimiter = ',', value_name = "POLICY")]
    pub(crate) policy: Vec<PolicyName>,
    /// Layout of memory: this machine's (root only), the sample, or a file [default: this machine's, or else the sample].
    #[arg(long, value_name = "live|sample|FILE")]
    pub(crate) layout: Option<LayoutSource>,
    /// Has Linux trim its per-CPU free lists before this machine's layout is taken (a sysctl, set back afterwards): frames
    /// there look like the kernel's own.
    #[arg(long)]
    pub(crate) settle: bool,
    /// Folder for the HTML report.
    #[arg(long, value_name = "DIR", default_value = "pagemove-report")]
    pub(crate) report: PathBuf,
    /// Prints one JSON object instead of the table.
    #[arg(long)]
    pub(crate) json: bool,
    /// Shows neither progress nor table, only messages.
    #[arg(long)]
    pub(crate) quiet: bool,
}

/// A TLB by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Tlb {
    /// In software: slow, and keeps what isn't flushed.
    Soft,
    /// The host's MMU.
    Host,
}

impl Tlb {
    /// Gives the machine's name for it.
    pub(crate) fn kind(self) -> TlbKind {
        match self {
            Self::Soft => TlbKind::Soft,
            Self::Host => TlbKind::Host,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Soft => "soft",
            Self::Host => "host",
        }
    }
}

/// A policy by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PolicyName {
    /// Driver pages never move.
    Unmovable,
    /// They move while nothing maps them, as in Linux since 4.8.
    Unmapped,
    /// They move.
    Any,
}

impl RunArgs {
    /// Gives the policies to run, each once, the strictest first.
    pub(crate) fn policies(&self) -> Vec<Policy> {
        let wanted = |policy: &Policy| {
            let name = match policy {
                Policy::Unmovable => PolicyName::Unmovable,
                Policy::Unmapped => PolicyName::Unmapped,
                Policy::Any => PolicyName::Any,
            };
            self.policy.is_empty() || self.policy.contains(&name)
        };
        Policy::ALL.into_iter().filter(wanted).collect()
    }

    /// Gives the number of writers.
    pub(crate) fn writers(&self) -> usize {
        let host = || std::thread::available_parallelism().map_or(2, |cpus| cpus.get().min(8));
        self.cpus.map_or_else(host, usize::from)
    }

    /// Gives the command that repeats the run with this seed, layout and memory.
    pub(crate) fn again(&self, seed: u64, layout: &LayoutSource, memory: Memory) -> String {
        let policies: Vec<_> = self.policies().into_iter().map(Policy::name).collect();
        let mut line = format!(
            "pagemove run --seed {seed} --layout {} --memory {memory} --cpus {} --tlb {}",
            quoted(&layout.to_string()),
            self.writers(),
            self.tlb.name(),
        );
        if policies.len() < Policy::ALL.len() {
            line += &format!(" --policy {}", policies.join(","));
        }
        if self.settle && *layout == LayoutSource::Live {
            line += " --settle";
        }
        line
    }
}

/// Quotes a word for a shell, if need be.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.into() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        run: RunArgs,
    }

    fn parse(line: &str) -> RunArgs {
        Line::try_parse_from(line.split_whitespace()).unwrap_or_else(|error| panic!("{line}: {error}")).run
    }

    #[test]
    fn policies_are_run_once_each_and_in_order() {
        assert_eq!(parse("run").policies(), Policy::ALL);
        assert_eq!(parse("run --policy any,unmapped --policy any").policies(), [Policy::Unmapped, Policy::Any]);
    }

    #[test]
    fn the_line_that_repeats_a_run_says_all_and_parses() {
        let args = parse("run --policy any --cpus 3 --tlb soft --layout sample --memory 1G");
        let again = args.again(7, &LayoutSource::Sample, args.memory.unwrap());
        assert_eq!(again, "pagemove run --seed 7 --layout sample --memory 1G --cpus 3 --tlb soft --policy any");
        let parsed = parse(again.strip_prefix("pagemove ").unwrap());
        assert_eq!((parsed.seed, parsed.writers(), parsed.tlb), (Some(7), 3, Tlb::Soft));
        assert_eq!(quoted("it's here"), r"'it'\''s here'");
    }
}
