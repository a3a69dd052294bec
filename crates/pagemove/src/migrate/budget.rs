//! What moving costs, from which the size of a batch follows; and the runs of a batch cut to a part of it. Plain data.

use core::ops::Range;

use super::Options;

/// What moving a base page is taken to cost before any was moved, in nanoseconds.
const FIRST_COST: u64 = 1000;

/// Measures what a base page costs from its blocking to its release.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cost {
    /// In nanoseconds, a running average.
    of_page: u64,
}

impl Default for Cost {
    fn default() -> Self {
        Self { of_page: FIRST_COST }
    }
}

impl Cost {
    /// Tells how many base pages are moved in `micros`.
    pub(super) fn pages_in(self, micros: u32) -> usize {
        (u64::from(micros) * 1000 / self.of_page).clamp(1, Options::MOST as u64) as usize
    }

    /// Counts a batch of `pages` base pages that took `ns`.
    pub(super) fn add(&mut self, pages: usize, ns: u64) {
        let Some(cost) = ns.checked_div(pages as u64) else { return };
        // A mover that lost its processor for a while says nothing about the cost.
        let cost = cost.clamp(1, self.of_page * 4);
        self.of_page = ((self.of_page * 3 + cost) / 4).max(1);
    }
}

/// Finds the runs, of those in their order, that have something in `part`; gives each with what it has there.
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
        let mut cost = Cost::default();
        assert_eq!(cost.pages_in(50), 50);
        (0..100).for_each(|_| cost.add(100, 50_000));
        assert_eq!(cost.pages_in(50), 100);
        assert_eq!((cost.pages_in(0), cost.pages_in(u32::MAX)), (1, Options::MOST));
    }

    #[test]
    fn one_long_pause_does_not_make_batches_tiny() {
        let mut cost = Cost::default();
        cost.add(50, 10_000_000_000);
        assert!(cost.pages_in(50) >= 25);
        cost.add(0, 1);
        cost.add(1, 0);
        assert!(cost.pages_in(50) >= 25, "no cost of 0");
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
