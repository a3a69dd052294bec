//! The table of owners.

use comfy_table::Table;

use super::Holding;
use crate::{
    layout::tables::table,
    numbers::thousands,
    terminal::{cut, shown},
};

/// Owners that have a row of their own; the others are summed.
const ROWS: usize = 20;
/// Columns of a name at most, so that the table fits on a screen.
const NAME: usize = 46;

/// Draws who holds the hostages, those who hold most alone first; nothing if there are no hostages.
pub(crate) fn holdings_table(holdings: &[Holding], ascii: bool) -> Option<Table> {
    let header = ["hostage blocks held by", "blocks", "alone", "frames", "one is at", "what it is, or how it is known"];
    let short = |text: &str| cut(&shown(text.to_owned(), ascii), NAME);
    let row = |holding: &Holding| {
        let counts = [holding.blocks, holding.alone, holding.frames].map(thousands);
        let name = match (holding.processes, &holding.pids[..]) {
            (1, [pid]) => format!("{} ({pid})", holding.owner),
            (0 | 1, _) => holding.owner.clone(),
            (several, _) => format!("{} × {several}", holding.owner),
        };
        let rest = vec![format!("{:#x}", holding.example), short(&holding.source)];
        [vec![short(&name)], counts.to_vec(), rest].concat()
    };
    let (shown, rest) = holdings.split_at(holdings.len().min(ROWS));
    let mut rows: Vec<Vec<String>> = shown.iter().map(row).collect();
    if !rest.is_empty() {
        // Blocks of several of them would count twice.
        let sum = |of: fn(&Holding) -> u64| thousands(rest.iter().map(of).sum());
        let (alone, frames) = (sum(|holding| holding.alone), sum(|holding| holding.frames));
        let text = ["", "all: --json"].map(str::to_owned);
        rows.push([vec![format!("{} others", rest.len()), String::new(), alone, frames], text.to_vec()].concat());
    }
    (!rows.is_empty()).then(|| table(&header.map(str::to_owned), rows, &[0, 5], ascii))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::owners::names::Owner;

    #[test]
    fn long_lists_and_names_are_cut_and_nothing_is_lost() {
        let holding = |number: u64| Holding {
            key: Owner::Mapped(number as u32),
            owner: format!("/dev/{}{number}, mapped by program", "x".repeat(60)),
            processes: 3,
            pids: vec![5, 6, 7],
            example: 512,
            source: "maps".to_owned(),
            frames: 10,
            blocks: 2,
            alone: 1,
            to_move: 100,
        };
        let all: Vec<Holding> = (0..25).map(holding).collect();
        let text = holdings_table(&all, true).expect("rows").to_string();
        assert!(text.is_ascii() && text.lines().all(|line| line.len() < 140), "{text}");
        let last = text.lines().rev().nth(1).expect("a row");
        assert_eq!(last.split_whitespace().collect::<Vec<_>>()[1..5], ["5", "others", "5", "50"]);
        assert!(text.contains("...") && text.contains("mapped by program x 3"));
        assert!(holdings_table(&[], true).is_none());
    }
}
