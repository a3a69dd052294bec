//! Shortens a failing history: removes operations and reduces numbers to 0 as far as possible. A property test's
//! shrinking stops earlier, since it tries each operation once; and a fuzzer's finding becomes readable.

use crate::{history::History, operation::Operation};

/// Gives the shortest failing history found from `history`, which `fails`.
pub fn shrink(history: &History, fails: impl Fn(&History) -> bool) -> History {
    let mut best = history.clone();
    loop {
        let before = best.clone();
        // From the end, since later operations depend on earlier ones.
        for at in (0..best.operations.len()).rev() {
            let mut shorter = best.clone();
            shorter.operations.remove(at);
            keep(&mut best, shorter, &fails);
        }
        for at in 0..best.operations.len() {
            let numbers = best.operations[at].encode();
            for number in 1..numbers.len() {
                for smaller in [0, numbers[number] / 2] {
                    let mut simpler = best.clone();
                    let mut encoded = best.operations[at].encode();
                    encoded[number] = smaller;
                    simpler.operations[at] = Operation::decode(encoded);
                    keep(&mut best, simpler, &fails);
                }
            }
        }
        if best == before {
            return best;
        }
    }
}

fn keep(best: &mut History, other: History, fails: &impl Fn(&History) -> bool) {
    if other != *best && fails(&other) {
        *best = other;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_it_takes_to_fail_is_left() {
        let store = |word| Operation::Store { process: 3, mapping: 4, offset: 5, word, cpu: 6 };
        let operations = vec![Operation::Start {}, store(7), Operation::Drain {}, store(9), Operation::Start {}];
        let fails = |history: &History| {
            let words = history.operations.iter().filter_map(|operation| match operation {
                Operation::Store { word, .. } => Some(*word),
                _ => None,
            });
            words.max() > Some(5) && history.operations.contains(&Operation::Start {})
        };
        let short = shrink(&History { small: false, apart: false, operations }, fails).operations;
        assert_eq!(short.len(), 2, "{short:?}");
        let simple = |word| Operation::Store { process: 0, mapping: 0, offset: 0, word, cpu: 0 };
        assert!(short.contains(&Operation::Start {}) && short.contains(&simple(9)) | short.contains(&simple(7)));
    }
}
