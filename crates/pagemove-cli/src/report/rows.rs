//! Counts by name, lined up across policies: who holds the hostages, and why pages stayed.
//!
//! Takes results and how many rows there is room for, and gives rows with a count for each policy, the greatest first.
//! What has no room is added up in one last row, so that no count disappears.

use std::collections::BTreeMap;

use crate::results::Results;

/// A name and its count under each policy, in the order of the policies.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Row {
    /// The holder or the reason.
    pub(crate) name: String,
    /// One count for each policy; zero where the policy doesn't have the name.
    pub(crate) counts: Vec<u64>,
}

/// Gives the hostage blocks by holder; a block with several holders counts for each.
pub(crate) fn holders(results: &Results, room: usize) -> Vec<Row> {
    let counts = results.policies.iter().enumerate().flat_map(|(column, policy)| {
        policy.hostages.iter().map(move |(name, blocks)| (name.as_str(), column, *blocks))
    });
    lined_up(counts, results.policies.len(), room)
}

/// Gives the pages that stayed by reason.
pub(crate) fn reasons(results: &Results, room: usize) -> Vec<Row> {
    let counts =
        results.policies.iter().enumerate().flat_map(|(column, policy)| {
            policy.not_moved.iter().map(move |(name, pages)| (name.as_str(), column, *pages))
        });
    lined_up(counts, results.policies.len(), room)
}

fn lined_up<'a>(counts: impl Iterator<Item = (&'a str, usize, u64)>, columns: usize, room: usize) -> Vec<Row> {
    let mut by_name = BTreeMap::<&str, Vec<u64>>::new();
    for (name, column, count) in counts.filter(|(_, _, count)| *count > 0) {
        by_name.entry(name).or_insert_with(|| vec![0; columns])[column] += count;
    }
    let mut rows: Vec<_> = by_name.into_iter().map(|(name, counts)| Row { name: name.into(), counts }).collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.counts.iter().copied().max()));
    // A row for "the others" saves nothing if it stands for one.
    if rows.len() > room.saturating_add(1) {
        let rest = rows.split_off(room);
        let sum = |column| rest.iter().map(|row| row.counts[column]).sum();
        rows.push(Row { name: format!("{} others", rest.len()), counts: (0..columns).map(sum).collect() });
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture;

    fn row(name: &str, counts: &[u64]) -> Row {
        Row { name: name.into(), counts: counts.into() }
    }

    #[test]
    fn a_holder_has_one_row_across_policies() {
        let mut results = fixture::results(8);
        results.policies[0].hostages = vec![("a".into(), 5), ("b".into(), 2)];
        results.policies[1].hostages = vec![("b".into(), 9), ("none".into(), 0)];
        results.policies[2].hostages = vec![];
        assert_eq!(holders(&results, 9), [row("b", &[2, 9, 0]), row("a", &[5, 0, 0])]);
    }

    #[test]
    fn reasons_line_up_across_policies() {
        let mut results = fixture::results(8);
        let reasons = |pairs: &[(&str, u64)]| pairs.iter().map(|&(name, count)| (name.into(), count)).collect();
        results.policies[0].not_moved = reasons(&[("locked", 3), ("pinned", 70)]);
        results.policies[1].not_moved = reasons(&[("locked", 4), ("never met", 0)]);
        results.policies[2].not_moved = reasons(&[]);
        assert_eq!(super::reasons(&results, 9), [row("pinned", &[70, 0, 0]), row("locked", &[3, 4, 0])]);
    }

    #[test]
    fn what_has_no_room_is_added_up() {
        let mut results = fixture::results(8);
        results.policies.truncate(1);
        results.policies[0].hostages = (0..20).map(|at| (format!("driver {at}"), 100 - at)).collect();
        let rows = holders(&results, 12);
        assert_eq!(rows.len(), 13);
        assert_eq!(rows[12], row("8 others", &[(12..20).map(|at| 100 - at).sum()]));
        // Thirteen are no fewer with a row for the others.
        results.policies[0].hostages.truncate(13);
        assert_eq!(holders(&results, 12)[12], row("driver 12", &[88]));
    }
}
