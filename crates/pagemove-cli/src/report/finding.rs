//! What the run found, in words: the sentence over the page, and whether the numbers may be believed.
//!
//! Takes results, gives text. Claims nothing that the numbers don't show: no gain reads as no gain, and lost data
//! comes before any gain.

use crate::numbers::{block_size, counted, thousands};
use crate::results::{PolicyResult, Results};

/// The finding, in words.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// One sentence without its full stop, for the head of the page.
    pub(crate) claim: String,
    /// The numbers behind the claim.
    pub(crate) detail: String,
    /// What a reader must know before believing either.
    pub(crate) caveats: Vec<String>,
}

/// Whether every word that was read back held what was stored last.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Words were compared under every policy, and none was wrong.
    Sound,
    /// So many writes lost and reads stale, over all policies.
    Broken {
        /// Words whose last store was lost.
        lost: u64,
        /// Loads that saw an overwritten value.
        stale: u64,
    },
    /// None was wrong, but these policies compared no words at all.
    Unchecked(Vec<String>),
}

/// Judges the correctness of a run.
pub(crate) fn verdict(results: &Results) -> Verdict {
    let lost = results.policies.iter().map(|policy| policy.lost_writes).sum();
    let stale = results.policies.iter().map(|policy| policy.stale_reads).sum();
    let unchecked: Vec<_> = results
        .policies
        .iter()
        .filter(|policy| policy.words_checked == 0)
        .map(|policy| policy.policy.clone())
        .collect();
    if lost > 0 || stale > 0 {
        Verdict::Broken { lost, stale }
    } else if unchecked.is_empty() && !results.policies.is_empty() {
        Verdict::Sound
    } else {
        Verdict::Unchecked(unchecked)
    }
}

/// Finds a policy by its name.
pub(crate) fn named<'a>(results: &'a Results, name: &str) -> Option<&'a PolicyResult> {
    results.policies.iter().find(|policy| policy.policy == name)
}

/// Gives the rule that `any` is measured against: Linux's, or else that driver pages never move.
pub(crate) fn baseline(results: &Results) -> Option<&PolicyResult> {
    named(results, "unmapped").or_else(|| named(results, "unmovable"))
}

/// Gives the number of blocks of the memory, also where no pictures were taken.
pub(crate) fn all_blocks(results: &Results) -> u64 {
    let drawn = results.policies.iter().map(|policy| policy.after.len() as u64).max();
    let whole = results.layout.frames.checked_shr(u32::from(results.layout.pageblock_order));
    drawn.unwrap_or(0).max(whole.unwrap_or(0))
}

/// States the finding.
pub(crate) fn finding(results: &Results) -> Finding {
    let size = block_size(results.layout.pageblock_order);
    let (gain, detail) = gain(results, &size);
    let mut caveats = caveats(results);
    let claim = match verdict(results) {
        Verdict::Broken { lost, stale } => {
            caveats.insert(0, format!("The counts of blocks alone would have read: “{gain}.”"));
            format!(
                "This run corrupted memory ({}, {}), so its other numbers prove nothing",
                counted(lost, "lost write"),
                counted(stale, "stale read")
            )
        }
        Verdict::Sound | Verdict::Unchecked(_) => gain,
    };
    Finding { claim, detail, caveats }
}

/// States what moving mapped driver pages gained, and the numbers behind it.
fn gain(results: &Results, size: &str) -> (String, String) {
    let all = all_blocks(results);
    if all == 0 || results.policies.is_empty() {
        return ("This run compacted no blocks".into(), "There is nothing to compare.".into());
    }
    let of_all = format!("{} blocks of {size}", thousands(all));
    let (Some(any), Some(other)) = (named(results, "any"), baseline(results)) else {
        let claim = "This run did not compare moving mapped driver pages with another policy".into();
        let detail: Vec<_> = results
            .policies
            .iter()
            .map(|policy| {
                format!(
                    "Under “{}”, free {size} blocks went from {} to {}.",
                    policy.policy,
                    thousands(policy.free_blocks_before),
                    thousands(policy.free_blocks_after)
                )
            })
            .collect();
        return (claim, detail.join(" "));
    };

    let claim = if any.free_blocks_after > other.free_blocks_after {
        let more = any.free_blocks_after - other.free_blocks_after;
        let noun = if more == 1 { "block" } else { "blocks" };
        format!("Moving mapped driver pages frees {} more {size} {noun}", thousands(more))
    } else if any.free_blocks_after == other.free_blocks_after {
        format!("Moving mapped driver pages freed no more {size} blocks in this run")
    } else {
        let fewer = other.free_blocks_after - any.free_blocks_after;
        let noun = if fewer == 1 { "block" } else { "blocks" };
        format!("Moving mapped driver pages freed {} fewer {size} {noun} in this run", thousands(fewer))
    };
    let mut detail = format!(
        "Of {of_all}, {} were wholly free before compaction. After it: {} if driver pages move even while mapped",
        thousands(any.free_blocks_before),
        thousands(any.free_blocks_after)
    );
    if let Some(linux) = named(results, "unmapped") {
        let free = thousands(linux.free_blocks_after);
        detail += &format!(", {free} if they move only while unmapped (the rule of Linux since 4.8)");
    }
    if let Some(never) = named(results, "unmovable") {
        detail += &format!(", {} if they never move", thousands(never.free_blocks_after));
    }
    detail.push('.');
    (claim, detail)
}

fn caveats(results: &Results) -> Vec<String> {
    let mut caveats = Vec::new();
    let same = |pair: &[PolicyResult]| {
        pair[0].before == pair[1].before && pair[0].free_blocks_before == pair[1].free_blocks_before
    };
    if !results.policies.windows(2).all(same) {
        caveats
            .push("The policies did not start from the same state of memory, so their numbers don't compare.".into());
    }
    for policy in results.policies.iter().filter(|policy| policy.free_blocks_after < policy.free_blocks_before) {
        caveats.push(format!("Under “{}” fewer blocks were free after compaction than before it.", policy.policy));
    }
    caveats
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture;

    fn with_free(unmapped: u64, any: u64) -> Results {
        let mut results = fixture::results(64);
        results.policies[1].free_blocks_after = unmapped;
        results.policies[2].free_blocks_after = any;
        results
    }

    #[test]
    fn a_gain_is_counted_against_the_rule_of_linux() {
        assert_eq!(finding(&with_free(20, 51)).claim, "Moving mapped driver pages frees 31 more 2 MiB blocks");
        assert_eq!(finding(&with_free(20, 21)).claim, "Moving mapped driver pages frees 1 more 2 MiB block");
    }

    #[test]
    fn no_gain_and_loss_are_said() {
        assert!(finding(&with_free(20, 20)).claim.contains("freed no more"));
        assert!(finding(&with_free(21, 20)).claim.contains("freed 1 fewer 2 MiB block in"));
    }

    #[test]
    fn without_linux_the_rule_is_that_nothing_moves() {
        let mut results = with_free(20, 51);
        results.policies.remove(1);
        results.policies[0].free_blocks_after = 11;
        let finding = finding(&results);
        assert!(finding.claim.contains("frees 40 more"), "{}", finding.claim);
        assert!(finding.detail.ends_with("mapped, 11 if they never move."), "{}", finding.detail);
    }

    #[test]
    fn one_policy_claims_nothing() {
        let mut results = with_free(20, 51);
        results.policies.truncate(1);
        assert!(finding(&results).claim.contains("did not compare"));
        results.policies.clear();
        assert_eq!(finding(&results).claim, "This run compacted no blocks");
    }

    #[test]
    fn blocks_count_also_without_pictures() {
        let mut results = with_free(20, 51);
        for policy in &mut results.policies {
            policy.before.clear();
            policy.after.clear();
        }
        assert_eq!(all_blocks(&results), 64);
        assert!(finding(&results).claim.contains("frees 31 more"));
        assert_eq!(finding(&fixture::results(0)).claim, "This run compacted no blocks");
    }

    #[test]
    fn lost_data_comes_before_any_gain() {
        let mut results = with_free(20, 51);
        results.policies[0].lost_writes = 1;
        results.policies[2].stale_reads = 2;
        assert_eq!(verdict(&results), Verdict::Broken { lost: 1, stale: 2 });
        let finding = finding(&results);
        assert!(finding.claim.contains("1 lost write, 2 stale reads"), "{}", finding.claim);
        assert!(finding.caveats[0].contains("31 more"));
    }

    #[test]
    fn what_was_not_checked_is_not_sound() {
        let mut results = with_free(20, 51);
        assert_eq!(verdict(&results), Verdict::Sound);
        results.policies[1].words_checked = 0;
        assert_eq!(verdict(&results), Verdict::Unchecked(vec!["unmapped".into()]));
        results.policies.clear();
        assert_eq!(verdict(&results), Verdict::Unchecked(vec![]));
    }

    #[test]
    fn different_starts_are_confessed() {
        let mut results = fixture::results(64);
        assert_eq!(finding(&results).caveats, Vec::<String>::new());
        results.policies[2].before[9].frames.swap(0, 1);
        assert!(finding(&results).caveats[0].contains("same state"));
    }
}
