//! How long threads were blocked on moving pages: for each policy, what share of the waits was over by when.
//!
//! Takes the histograms and gives an inline SVG with a table. Time runs on a log scale; the share runs on a scale of
//! nines, on which the rare long waits have as much room as the many short ones. A curve doesn't depend on how the
//! buckets were cut, and takes each wait to be as long as its bucket's upper bound, so it never flatters.

use std::fmt::Write as _;

use maud::{Markup, html};

use crate::numbers::{DASH, micros, thousands};
use crate::results::{PolicyResult, Results};

/// Size of the drawing and of its margins, in its own units.
const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 92.0;
const RIGHT: f64 = 30.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 44.0;
/// Shortest time that has a place of its own: a nanosecond, in microseconds.
const SHORTEST: f64 = 1e-3;
/// Longest time that has one: eleven days, so that no scale is without end.
const LONGEST: f64 = 1e12;

/// Gives the section: the curves, then the numbers behind them.
pub(crate) fn section(results: &Results) -> Markup {
    html! {
        div.blocked {
        @match Axes::of(results) {
            Some(axes) => (chart(results, &axes)),
            None => p.nothing { "No thread was blocked, or no waits were recorded." },
        }
        table.numbers {
            thead { tr { th { "Policy" } th { "Waits" } th { "Median" } th { "99 %" } th { "Longest" } } }
            tbody {
                @for policy in &results.policies {
                    tr {
                        th scope="row" { (policy.policy) }
                        td { (thousands(waits(policy))) }
                        @for time in [policy.blocked_us.p50, policy.blocked_us.p99, policy.blocked_us.max] {
                            td { @if policy.blocked_us.max > 0.0 { (micros(time)) } @else { (DASH) } }
                        }
                    }
                }
            }
        }
        }
    }
}

fn waits(policy: &PolicyResult) -> u64 {
    policy.blocked_histogram.iter().map(|(_, count)| count).sum()
}

/// The two scales, shared by all curves.
struct Axes {
    /// Decades of microseconds at the left and right edge.
    from: i32,
    to: i32,
    /// Nines at the top edge: 3 is 99.9 %.
    nines: f64,
}

impl Axes {
    /// Fits the scales to all waits; `None` if there are none.
    fn of(results: &Results) -> Option<Self> {
        let bounds = || {
            let all = results.policies.iter().flat_map(|policy| &policy.blocked_histogram);
            all.filter(|(_, count)| *count > 0).map(|(bound, _)| place(*bound))
        };
        let from = bounds().min_by(f64::total_cmp)?.floor() as i32;
        let to = bounds().max_by(f64::total_cmp)?.ceil() as i32;
        let most = results.policies.iter().map(waits).max()?;
        // A curve ends at one wait of all; the scale has room for one decade at least, even of a single wait.
        Some(Self { from, to: to.max(from + 1), nines: (most as f64).log10().max(1.0) })
    }

    fn x(&self, decade: f64) -> f64 {
        LEFT + (decade - f64::from(self.from)) / f64::from(self.to - self.from) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, nines: f64) -> f64 {
        let share = (nines / self.nines).clamp(0.0, 1.0);
        HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)
    }
}

/// Gives the place of a time on the log scale; times that have none go to its ends.
fn place(us: f64) -> f64 {
    if us.is_nan() {
        return SHORTEST.log10();
    }
    us.clamp(SHORTEST, LONGEST).log10()
}

fn chart(results: &Results, axes: &Axes) -> Markup {
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    html! {
        figure.chart {
            svg role="img" viewBox=(format!("0 0 {WIDTH} {HEIGHT}"))
                aria-label="Share of waits that were over after a given time, by policy" {
                @for nines in 0..=axes.nines.floor() as i32 {
                    @let y = axes.y(f64::from(nines));
                    line.rule x1=(LEFT) x2=(right) y1=(fixed(y)) y2=(fixed(y)) {}
                    text.left x=(LEFT - 8.0) y=(fixed(y + 4.0)) { (share(nines)) }
                }
                @for decade in axes.from..=axes.to {
                    @let x = axes.x(f64::from(decade));
                    line.rule x1=(fixed(x)) x2=(fixed(x)) y1=(TOP) y2=(bottom) {}
                    text.below x=(fixed(x)) y=(bottom + 26.0) { (tick(decade)) }
                }
                @for (at, policy) in results.policies.iter().enumerate().filter(|(_, policy)| waits(policy) > 0) {
                    path class=(curve_class(at, policy)) d=(curve(&policy.blocked_histogram, axes)) {}
                }
            }
            figcaption {
                @for (at, policy) in results.policies.iter().enumerate() {
                    span { svg viewBox="0 0 34 8" aria-hidden="true" { path class=(curve_class(at, policy)) d="M1 4H33" {} } (policy.policy) }
                }
                span.axes { "Across: time blocked. Up: share of the waits that were over by then; each line is a tenfold rarer wait." }
            }
        }
    }
}

fn curve_class(at: usize, policy: &PolicyResult) -> String {
    if policy.policy == "any" { "curve any".into() } else { format!("curve d{}", at % 3) }
}

/// Draws the steps: up at each bucket's upper bound, to the share of the waits that it and those below it hold.
fn curve(histogram: &[(f64, u64)], axes: &Axes) -> String {
    let all: u64 = histogram.iter().map(|(_, count)| count).sum();
    let mut path = String::new();
    let mut seen = 0;
    for &(bound, count) in histogram.iter().filter(|(_, count)| *count > 0) {
        let x = fixed(axes.x(place(bound)));
        if seen == 0 {
            let _ = write!(path, "M{x} {}", fixed(axes.y(0.0)));
        } else {
            let _ = write!(path, "H{x}");
        }
        seen += count;
        // The last step would rise without end; it stops where one wait of all is left.
        let left = (all - seen).max(1) as f64 / all as f64;
        let nines = if all == 1 { axes.nines } else { -left.log10() };
        let _ = write!(path, "V{}", fixed(axes.y(nines)));
    }
    path
}

/// Gives a coordinate with as many digits as can be seen.
fn fixed(number: f64) -> String {
    format!("{number:.1}")
}

/// Names a line of the share's scale: 0 %, 90 %, 99 %, 99.9 %, …
fn share(nines: i32) -> String {
    match nines {
        0 => "0 %".into(),
        1 => "90 %".into(),
        2 => "99 %".into(),
        more => format!("99.{} %", "9".repeat(more as usize - 2)),
    }
}

/// Names a line of the time's scale: a power of ten of microseconds without needless digits.
fn tick(decade: i32) -> String {
    let (unit, zeros) = match decade {
        ..0 => ("ns", decade + 3),
        0..3 => ("µs", decade),
        3..6 => ("ms", decade - 3),
        _ => ("s", decade - 6),
    };
    format!("1{} {unit}", "0".repeat(zeros.max(0) as usize))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture;

    /// Gives the corners of a curve that `curve` drew.
    fn corners(path: &str) -> Vec<(char, f64)> {
        let mut corners = Vec::new();
        let mut rest = path;
        while let Some(command) = rest.chars().next() {
            let end = rest[1..].find(['H', 'V', 'M']).map_or(rest.len(), |at| at + 1);
            let number = rest[1..end].split(' ').next_back().unwrap();
            corners.push((command, number.parse().unwrap()));
            rest = &rest[end..];
        }
        corners
    }

    #[test]
    fn a_curve_rises_to_one_wait_of_all() {
        let results = fixture::results(64);
        let axes = Axes::of(&results).unwrap();
        for policy in &results.policies {
            let path = curve(&policy.blocked_histogram, &axes);
            let mut right = LEFT;
            let mut up = HEIGHT - BOTTOM;
            for (command, number) in corners(&path) {
                match command {
                    'H' => {
                        assert!(number >= right && number <= WIDTH - RIGHT);
                        right = number;
                    }
                    'V' => {
                        assert!(number <= up);
                        up = number;
                    }
                    _ => {}
                }
            }
            assert!((up - axes.y((waits(policy) as f64).log10())).abs() < 0.06);
        }
    }

    #[test]
    fn the_median_stands_where_half_of_the_waits_are_over() {
        let axes = Axes { from: 0, to: 2, nines: 3.0 };
        let half = axes.y(-(0.5_f64.log10()));
        assert_eq!(
            curve(&[(1.0, 500), (10.0, 499), (100.0, 1)], &axes),
            format!(
                "M{} {}V{}H{}V{}H{}V{}",
                fixed(LEFT),
                fixed(HEIGHT - BOTTOM),
                fixed(half),
                fixed(axes.x(1.0)),
                fixed(TOP),
                fixed(WIDTH - RIGHT),
                fixed(TOP)
            )
        );
    }

    #[test]
    fn one_wait_and_odd_bounds_still_draw() {
        let mut results = fixture::results(1);
        for policy in &mut results.policies {
            policy.blocked_histogram = vec![(0.0, 1)];
        }
        results.policies[1].blocked_histogram = vec![(f64::NAN, 2), (f64::INFINITY, 1)];
        results.policies[2].blocked_histogram = vec![];
        let page = section(&results).into_string();
        assert!(page.contains("<path") && !page.contains("NaN") && !page.contains("inf"), "{page}");
        assert_eq!(page.matches(r#"class="curve d0" d="M9"#).count(), 1);
    }

    #[test]
    fn no_waits_no_curve() {
        let mut results = fixture::results(4);
        for policy in &mut results.policies {
            policy.blocked_histogram.clear();
            policy.blocked_us = Default::default();
        }
        let page = section(&results).into_string();
        assert!(page.contains("No thread was blocked") && !page.contains("<svg"), "{page}");
        assert!(page.contains(DASH));
    }

    #[test]
    fn ticks_have_the_unit_that_suits_them() {
        let names: Vec<_> = [-3, -1, 0, 2, 3, 6].map(tick).into();
        assert_eq!(names, ["1 ns", "100 ns", "1 µs", "100 µs", "1 ms", "1 s"]);
        assert_eq!([0, 1, 2, 3, 4].map(share), ["0 %", "90 %", "99 %", "99.9 %", "99.99 %"]);
    }
}
