//! The bars of the page: free blocks by policy, who holds the hostages, and throughput beside memcpy.
//!
//! Takes results, gives markup. Bars that are compared with each other share one scale, which starts at zero.

use maud::{Markup, html};

use super::finding::all_blocks;
use super::rows;
use crate::numbers::{DASH, change, percent, significant, thousands};
use crate::results::Results;

/// Holders of hostages with a row of their own; the rest share one.
const TOP_HOLDERS: usize = 12;

/// Gives a CSS width that is `part` of `whole`; anything odd has no width rather than a wrong one.
fn width(part: f64, whole: f64) -> String {
    let share = if whole > 0.0 && part.is_finite() { (100.0 * part / whole).clamp(0.0, 100.0) } else { 0.0 };
    format!("width:{share:.2}%")
}

/// Gives a bar for each policy: the blocks that were free before, those gained, and the track of all blocks.
pub(crate) fn free_blocks(results: &Results) -> Markup {
    let all = all_blocks(results);
    html! {
        div.bars role="table" aria-label="Free blocks by policy" {
            @for policy in &results.policies {
                @let (before, after) = (policy.free_blocks_before, policy.free_blocks_after);
                div.bar role="row" {
                    span.name role="rowheader" { (policy.policy) }
                    span.track aria-hidden="true" {
                        span.kept style=(width(before.min(after) as f64, all as f64)) {}
                        span.gained style=(width(after.saturating_sub(before) as f64, all as f64)) {}
                    }
                    span.value role="cell" {
                        b { (thousands(after)) } " of " (thousands(all)) " (" (change(before, after)) ")"
                    }
                }
            }
        }
        p.key {
            span.swatch.kept {} "free before" span.swatch.gained {} "freed by compaction" span.swatch.track {} "not free"
        }
    }
}

/// Gives a table with a row for each holder and a bar for each policy, the greatest holder first.
pub(crate) fn hostages(results: &Results) -> Markup {
    let rows = rows::holders(results, TOP_HOLDERS);
    let most = rows.iter().flat_map(|row| &row.counts).copied().max().unwrap_or(0);
    if most == 0 {
        return html! { p.nothing { "No block is held hostage under any policy." } };
    }
    html! {
        table.matrix {
            thead { tr { th { "Held by" } @for policy in &results.policies { th { (policy.policy) } } } }
            tbody {
                @for row in &rows {
                    tr {
                        th scope="row" { (row.name) }
                        @for &count in &row.counts {
                            td {
                                @if count > 0 {
                                    span.cellbar style=(format!("--part:{:.4}", count as f64 / most as f64)) {}
                                }
                                span.count { @if count == 0 { (DASH) } @else { (thousands(count)) } }
                            }
                        }
                    }
                }
            }
        }
        p.note { "Blocks held after compaction. A block with several holders counts once for each of them." }
    }
}

/// Gives the rate of moving beside the rate of copying.
pub(crate) fn throughput(results: &Results) -> Markup {
    let rate = results.throughput;
    if rate.moved_gb_per_s <= 0.0 && rate.memcpy_gb_per_s <= 0.0 {
        return html! { p.nothing { "Not measured in this run." } };
    }
    let most = rate.moved_gb_per_s.max(rate.memcpy_gb_per_s);
    html! {
        div.bars.rates {
            @for (name, value) in [("moving", rate.moved_gb_per_s), ("memcpy", rate.memcpy_gb_per_s)] {
                div.bar {
                    span.name { (name) }
                    span.track aria-hidden="true" { span.rate style=(width(value, most)) {} }
                    span.value { b { (significant(value)) } " GB/s" }
                }
            }
        }
        p.note {
            "Moving mapped pages, with unmapping, flush, copy and mapping anew, runs at "
            b { (percent(rate.moved_gb_per_s, rate.memcpy_gb_per_s)) }
            " of the speed of a bare copy of the same frames in the same order. "
            "4 KiB pages, batches of 512; 1 GB is 10⁹ bytes."
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture;

    #[test]
    fn widths_stay_in_the_track() {
        assert_eq!(width(1.0, 4.0), "width:25.00%");
        assert_eq!(width(9.0, 4.0), "width:100.00%");
        assert_eq!(width(1.0, 0.0), "width:0.00%");
        assert_eq!(width(f64::NAN, 2.0), "width:0.00%");
    }

    #[test]
    fn bars_of_holders_share_one_scale() {
        let mut results = fixture::results(8);
        results.policies[0].hostages = vec![("a".into(), 80), ("b".into(), 20)];
        results.policies[1].hostages = vec![("b".into(), 40)];
        results.policies[2].hostages = vec![];
        let page = hostages(&results).into_string();
        let parts: Vec<_> = page.split("--part:").skip(1).map(|rest| &rest[..6]).collect();
        assert_eq!(parts, ["1.0000", "0.2500", "0.5000"]);
    }

    #[test]
    fn free_bars_show_the_gain_and_never_a_negative_one() {
        let mut results = fixture::results(100);
        results.policies.truncate(1);
        results.policies[0].free_blocks_before = 20;
        results.policies[0].free_blocks_after = 5;
        let page = free_blocks(&results).into_string();
        assert!(page.contains(r#"<span class="kept" style="width:5.00%">"#), "{page}");
        assert!(page.contains(r#"<span class="gained" style="width:0.00%">"#), "{page}");
        assert!(page.contains("(−15)"), "{page}");
    }
}
