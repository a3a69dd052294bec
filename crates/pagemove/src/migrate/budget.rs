//! The size of a batch, from the measured cost of moves; and the runs of a part of a batch. Plain data.

use core::ops::Range;

use super::Options;

/// The assumed cost of moving a base page before the first move, in nanoseconds.
const FIRST_COST: u64 = 1000;

/// Gives the number of base pages that move in `micros`, at `cost` nanoseconds for each (0: not known yet).
pub(super) fn pages_in(micros: u32, cost: u64) -> usize {
    let cost = if cost == 0 { FIRST_COST } else { cost };
    (u64::from(micros) * 1000 / cost).clamp(1, Options::MOST as u64) as usize
}

/// Gives the new cost of a base page after a batch that moved `pages` in `ns`: a running average.
pub(super) fn cost_after(cost: u64, pages: usize, ns: u64) -> u64 {
    let before = if cost == 0 { FIRST_COST } else { cost };
    // Pages that stayed say nothing about the cost. The clamp limits the effect of a mover that was preempted.
    let Some(now) = ns.checked_div(pages as u64) else { return cost };
    ((before * 3 + now.clamp(1, before * 4)) / 4).max(1)
}

/// Gives the runs that overlap `part`, each with its folios in `part`. `runs` is in ascending order.
pub(super) fn runs_in<'r, R: AsRef<Range<usize>>>(
    runs: &'r [R],
    part: &Range<usize>,
) -> impl Iterator<Item = (&'r R, Range<usize>)> {
    let (start, end) = (part.start, part.end);
    let first = runs.partition_point(|run| run.as_ref().end <= start);
    let meets = runs[first..].iter().take_while(move |run| run.as_ref().start < end);
    meets.filter(|run| !run.as_ref().is_empty()).map(move |run| {
        let folios = run.as_ref();
        (run, folios.start.max(start)..folios.end.min(end))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_has_what_fits_into_its_time() {
        assert_eq!(pages_in(50, 0), 50);
        let cost = (0..100).fold(0, |cost, _| cost_after(cost, 100, 50_000));
        assert_eq!(pages_in(50, cost), 100);
        assert_eq!((pages_in(0, cost), pages_in(u32::MAX, cost)), (1, Options::MOST));
    }

    #[test]
    fn one_long_pause_does_not_make_batches_tiny() {
        let cost = cost_after(0, 50, 10_000_000_000);
        assert!(pages_in(50, cost) >= 25);
        assert_eq!((cost_after(0, 0, 1), cost_after(cost, 0, 1)), (0, cost), "nothing moved");
        assert!(pages_in(50, cost_after(cost, 1, 0)) >= 25, "no cost of 0");
    }

    #[test]
    fn runs_are_cut_to_the_part() {
        struct Run(Range<usize>);
        impl AsRef<Range<usize>> for Run {
            fn as_ref(&self) -> &Range<usize> {
                &self.0
            }
        }
        let runs = [0..2, 2..2, 2..7, 9..9, 9..20].map(Run);
        let cut = |part| runs_in(&runs, &part).map(|(run, part)| (run.0.start, part)).collect::<alloc::vec::Vec<_>>();
        assert_eq!(cut(0..20), [(0, 0..2), (2, 2..7), (9, 9..20)]);
        assert_eq!(cut(1..10), [(0, 1..2), (2, 2..7), (9, 9..10)]);
        assert_eq!(cut(7..9), []);
        assert_eq!(cut(3..4), [(2, 3..4)]);
    }
}
