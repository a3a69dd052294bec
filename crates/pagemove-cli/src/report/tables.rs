//! The tables of the page: why pages stayed, and every number of every policy.
//!
//! Takes results, gives markup. A reason that no policy met has no row; one that a policy didn't meet reads as a dash.

use maud::{Markup, html};

use super::rows;
use crate::numbers::{DASH, change, counted, micros, seconds, thousands};
use crate::results::{PolicyResult, Results};

/// Gives the pages that stayed, by reason and policy, the commonest reason first.
pub(crate) fn reasons(results: &Results) -> Markup {
    // Every reason has its row; they are few.
    let rows = rows::reasons(results, usize::MAX);
    if rows.is_empty() {
        return html! { p.nothing { "No page stayed that was asked to move." } };
    }
    html! {
        table.numbers {
            thead { tr { th { "Reason" } @for policy in &results.policies { th { (policy.policy) } } } }
            tbody {
                @for row in rows {
                    tr {
                        th scope="row" { (row.name) }
                        @for count in row.counts { td { @if count == 0 { (DASH) } @else { (thousands(count)) } } }
                    }
                }
            }
            tfoot {
                tr {
                    th scope="row" { "All" }
                    @for policy in &results.policies { td { (thousands(policy.not_moved.values().sum())) } }
                }
            }
        }
    }
}

/// Gives every number of every policy, so that nothing on the page has to be read off a picture.
pub(crate) fn everything(results: &Results) -> Markup {
    let row = |name: &str, value: &dyn Fn(&PolicyResult) -> String| {
        html! {
            tr { th scope="row" { (name) } @for policy in &results.policies { td { (value(policy)) } } }
        }
    };
    let blocked = |policy: &PolicyResult, time: f64| {
        if policy.blocked_us.max > 0.0 { micros(time) } else { DASH.into() }
    };
    html! {
        table.numbers {
            thead { tr { th { "" } @for policy in &results.policies { th { (policy.policy) } } } }
            tbody {
                (row("Free blocks before", &|policy| thousands(policy.free_blocks_before)))
                (row("Free blocks after", &|policy| thousands(policy.free_blocks_after)))
                (row("Blocks gained", &|policy| change(policy.free_blocks_before, policy.free_blocks_after)))
                (row("Hostage blocks after", &|policy| thousands(policy.hostage_blocks_after)))
                (row("Pages moved", &|policy| thousands(policy.moved)))
                (row("Pages not moved", &|policy| thousands(policy.not_moved.values().sum())))
                (row("Blocked, median", &|policy| blocked(policy, policy.blocked_us.p50)))
                (row("Blocked, 99\u{a0}%", &|policy| blocked(policy, policy.blocked_us.p99)))
                (row("Blocked, longest", &|policy| blocked(policy, policy.blocked_us.max)))
                (row("Words checked", &|policy| thousands(policy.words_checked)))
                (row("Lost writes", &|policy| thousands(policy.lost_writes)))
                (row("Stale reads", &|policy| thousands(policy.stale_reads)))
                (row("Time of compaction", &|policy| seconds(policy.seconds)))
            }
        }
    }
}

/// Gives the line on correctness: what was compared and what was wrong, in one sentence.
pub(crate) fn checked(results: &Results) -> String {
    let sum = |field: fn(&PolicyResult) -> u64| results.policies.iter().map(field).sum::<u64>();
    format!(
        "{} compared with a copy kept outside the machine: {}, {}.",
        counted(sum(|policy| policy.words_checked), "word"),
        counted(sum(|policy| policy.lost_writes), "lost write"),
        counted(sum(|policy| policy.stale_reads), "stale read"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture;

    #[test]
    fn what_was_checked_is_added_up() {
        let mut results = fixture::results(8);
        for (at, policy) in results.policies.iter_mut().enumerate() {
            policy.words_checked = 1000;
            policy.lost_writes = at as u64;
        }
        results.policies[0].stale_reads = 1;
        let line = checked(&results);
        assert!(line.starts_with("3,000 words compared"), "{line}");
        assert!(line.ends_with(": 3 lost writes, 1 stale read."), "{line}");
    }

    #[test]
    fn no_reason_no_table() {
        let mut results = fixture::results(8);
        for policy in &mut results.policies {
            policy.not_moved.clear();
        }
        assert!(super::reasons(&results).into_string().contains("No page stayed"));
    }
}
