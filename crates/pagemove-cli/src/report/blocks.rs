//! The pictures of memory: every block a small cell, before and after compaction, side by side.
//!
//! Takes results and gives inline SVG with a legend, and the counts that `hover.js` shows over a cell. Each block that
//! has frames is covered by exactly one cell. Cells of the same look that stand side by side are drawn as one run, so
//! the size of the page grows with the pictures' detail and not with the number of blocks.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use maud::{Markup, html};

use super::kind::{self, Fixed, Kind};
use crate::numbers::{change, thousands};
use crate::results::{BlockPicture, CLASSES, PolicyResult, Results};

/// Steps of shade between an almost empty block and a full one; more than these an eye can't tell apart.
const SHADES: u8 = 4;
/// Width of the largest cell in CSS pixels, so that a picture of few blocks stays a picture of small cells.
const LARGEST_CELL: usize = 14;

/// How a cell is drawn: what the block is, and its shade from 1 to [`SHADES`], or 0 where the kind has none.
type Look = (Kind, u8);

/// Gives the section with every policy's pictures.
pub(crate) fn section(results: &Results) -> Markup {
    html! {
        // The patterns stand in an SVG of their own, for all pictures to refer to.
        svg.patterns width="0" height="0" aria-hidden="true" {
            defs {
                pattern id="grid" width="1" height="1" patternUnits="userSpaceOnUse" { path d="M0 0H1M0 0V1" {} }
                pattern id="hatch" width="0.5" height="0.5" patternUnits="userSpaceOnUse"
                    patternTransform="rotate(45)" { rect width="0.2" height="0.5" {} }
            }
        }
        (legend(results))
        @for policy in &results.policies { (pair(policy)) }
    }
}

/// Gives one policy's two pictures.
fn pair(policy: &PolicyResult) -> Markup {
    let name = &policy.policy;
    // One width for both, so that a block stands at the same place in each.
    let columns = columns(policy.before.len().max(policy.after.len()));
    let hostages_before = kind::hostages(&policy.before, &policy.fixed);
    let fixed: Vec<_> =
        policy.fixed.iter().enumerate().filter(|(_, fixed)| **fixed).map(|(class, _)| class.to_string()).collect();
    html! {
        article.pair data-before=(packed(&policy.before)) data-after=(packed(&policy.after))
            data-fixed=(fixed.join(" ")) data-columns=(columns) {
            h3 { (name) " " span { (kind::policy_in_words(name)) } }
            figure {
                figcaption {
                    b { "Before" } " "
                    (thousands(policy.free_blocks_before)) " free, " (thousands(hostages_before)) " hostage"
                }
                (picture(&policy.before, &policy.fixed, columns))
            }
            figure {
                figcaption {
                    b { "After" } " "
                    (thousands(policy.free_blocks_after)) " free ("
                    (change(policy.free_blocks_before, policy.free_blocks_after)) "), "
                    (thousands(policy.hostage_blocks_after)) " hostage"
                }
                (picture(&policy.after, &policy.fixed, columns))
            }
        }
    }
}

/// Draws blocks as a grid, row by row in the order of their PFN.
fn picture(blocks: &[BlockPicture], fixed: &Fixed, columns: usize) -> Markup {
    if blocks.is_empty() {
        return html! { p.nothing { "No picture was taken." } };
    }
    let rows = blocks.len().div_ceil(columns);
    let looks: Vec<Look> = blocks.iter().map(|block| look(block, fixed)).collect();
    html! {
        svg.blocks role="img" viewBox=(format!("0 0 {columns} {rows}"))
            style=(format!("max-width:{}px", columns * LARGEST_CELL)) aria-label=(in_words(&looks)) {
            @for ((kind, shade), runs) in runs(&looks, columns) {
                path class=(style_class(kind, shade)) d=(runs) {}
            }
            rect.grid width=(columns) height=(rows) {}
            rect.here width="1" height="1" {}
        }
    }
}

/// Gives the number of cells in a row: a power of two from 64 up, so that a row is a round piece of memory.
fn columns(blocks: usize) -> usize {
    match blocks {
        0..64 => blocks.max(1),
        64..=2048 => 64,
        2049..=8192 => 128,
        _ => 256,
    }
}

fn look(block: &BlockPicture, fixed: &Fixed) -> Look {
    let kind = kind::kind(block, fixed);
    let shade = match kind {
        Kind::Movable | Kind::Hostage(_) => {
            let step = (kind::occupancy(block) * f64::from(SHADES)).ceil();
            (step as u8).clamp(1, SHADES)
        }
        Kind::Absent | Kind::Free | Kind::Fixed => 0,
    };
    (kind, shade)
}

/// Gives the outline of all cells of each look; neighbours in a row that look the same share a rectangle.
fn runs(looks: &[Look], columns: usize) -> BTreeMap<Look, String> {
    let mut paths = BTreeMap::<Look, String>::new();
    for (y, row) in looks.chunks(columns).enumerate() {
        let mut x = 0;
        for run in row.chunk_by(|left, right| left == right) {
            let width = run.len();
            if run[0].0 != Kind::Absent {
                let path = paths.entry(run[0]).or_default();
                // Writing to a string can't fail.
                let _ = write!(path, "M{x} {y}h{width}v1h-{width}z");
            }
            x += width;
        }
    }
    paths
}

fn style_class(kind: Kind, shade: u8) -> String {
    match kind {
        Kind::Absent => "absent".into(),
        Kind::Free => "free".into(),
        Kind::Movable => format!("movable m{shade}"),
        Kind::Hostage(class) => format!("c{class} s{shade}"),
        Kind::Fixed => "fixed".into(),
    }
}

/// Says what a picture shows, for those who can't see it.
fn in_words(looks: &[Look]) -> String {
    let count = |wanted: fn(&Kind) -> bool| thousands(looks.iter().filter(|(kind, _)| wanted(kind)).count() as u64);
    format!(
        "{} blocks: {} free, {} movable, {} hostage, {} wholly fixed",
        thousands(looks.len() as u64),
        count(|kind| *kind == Kind::Free),
        count(|kind| *kind == Kind::Movable),
        count(|kind| matches!(kind, Kind::Hostage(_))),
        count(|kind| *kind == Kind::Fixed),
    )
}

/// Packs the frames of each block for `hover.js`: counts by class with commas between and no zeros at the end, blocks
/// with blanks between; `7*512` stands for seven equal blocks.
fn packed(blocks: &[BlockPicture]) -> String {
    let runs = blocks.chunk_by(|left, right| left == right).map(|run| {
        let counts = run[0].frames.map(|count| if count == 0 { String::new() } else { count.to_string() }).join(",");
        let counts = counts.trim_end_matches(',');
        // An absent block has no counts, and still needs its place.
        let counts = if counts.is_empty() { "0" } else { counts };
        if run.len() == 1 { counts.to_owned() } else { format!("{}*{counts}", run.len()) }
    });
    runs.collect::<Vec<_>>().join(" ")
}

/// Explains the looks that occur in any picture.
fn legend(results: &Results) -> Markup {
    let mut kinds = BTreeSet::new();
    for policy in &results.policies {
        for block in policy.before.iter().chain(&policy.after) {
            kinds.insert(kind::kind(block, &policy.fixed));
        }
    }
    let entry = |looks: &[String], text: String| {
        html! { li { span.swatch { @for look in looks { svg viewBox="0 0 1 1" { rect class=(look) width="1" height="1" {} } } } (text) } }
    };
    let shaded = |kind| (1..=SHADES).map(|shade| style_class(kind, shade)).collect::<Vec<_>>();
    html! {
        ul.legend {
            @for kind in kinds {
                @match kind {
                    Kind::Absent => {}
                    Kind::Free => (entry(&[style_class(kind, 0)], "wholly free".into())),
                    Kind::Movable => (entry(&shaded(kind), "only movable pages, few to full".into())),
                    Kind::Hostage(class) => (entry(&shaded(kind), format!("held by: {}", CLASSES[class]))),
                    Kind::Fixed => (entry(&[style_class(kind, 0)], "full of pages that stay".into())),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture;

    /// Paints the paths on a grid, each cell with the look of its path, and fails where one is painted twice.
    fn painted(paths: &BTreeMap<Look, String>, columns: usize, cells: usize) -> Vec<Option<Look>> {
        let mut grid = vec![None; cells];
        for (look, path) in paths {
            for run in path.split('M').skip(1) {
                let numbers: Vec<usize> =
                    run.split([' ', 'h', 'v', '-', 'z']).filter_map(|number| number.parse().ok()).collect();
                let [x, y, width, 1, back] = numbers[..] else { panic!("{run}") };
                assert!(width == back && x + width <= columns, "{run}");
                for cell in &mut grid[y * columns + x..][..width] {
                    assert_eq!(cell.replace(*look), None, "{run}");
                }
            }
        }
        grid
    }

    /// Undoes `packed`.
    fn unpacked(text: &str) -> Vec<BlockPicture> {
        text.split_whitespace()
            .flat_map(|run| {
                let (times, counts) = run.split_once('*').unwrap_or(("1", run));
                let mut block = BlockPicture::default();
                for (frames, count) in block.frames.iter_mut().zip(counts.split(',')) {
                    *frames = if count.is_empty() { 0 } else { count.parse().unwrap() };
                }
                vec![block; times.parse().unwrap()]
            })
            .collect()
    }

    #[test]
    fn every_block_has_one_cell_of_its_look() {
        for size in [1, 2, 63, 64, 65, 1000, 2048, 2049] {
            for policy in &fixture::results(size).policies {
                let looks: Vec<_> = policy.after.iter().map(|block| look(block, &policy.fixed)).collect();
                let painted = painted(&runs(&looks, columns(size)), columns(size), size);
                assert!(painted.iter().copied().eq(looks.iter().copied().map(Some)));
                let free = painted.iter().filter(|cell| **cell == Some((Kind::Free, 0))).count();
                assert_eq!(free as u64, policy.free_blocks_after);
            }
        }
    }

    #[test]
    fn absent_blocks_leave_a_gap() {
        let (free, absent) = ((Kind::Free, 0), (Kind::Absent, 0));
        let runs = runs(&[free, absent, free, free], 4);
        assert_eq!(runs.len(), 1);
        assert_eq!(runs[&free], "M0 0h1v1h-1zM2 0h2v1h-2z");
    }

    #[test]
    fn runs_stop_at_the_end_of_a_row() {
        let runs = runs(&[(Kind::Free, 0); 5], 3);
        assert_eq!(runs[&(Kind::Free, 0)], "M0 0h3v1h-3zM0 1h2v1h-2z");
    }

    #[test]
    fn shade_follows_occupancy() {
        let used = |used: u16| BlockPicture { frames: [512 - used, used, 0, 0, 0, 0, 0, 0, 0, 0] };
        let shades = [1, 128, 129, 384, 512].map(|count| look(&used(count), &fixture::fixed("any")).1);
        assert_eq!(shades, [1, 1, 2, 3, 4]);
        assert_eq!(look(&used(0), &fixture::fixed("any")), (Kind::Free, 0));
    }

    #[test]
    fn packing_loses_nothing() {
        let mut blocks = fixture::results(300).policies.remove(0).after;
        blocks.push(BlockPicture::default());
        assert_eq!(unpacked(&packed(&blocks)), blocks);
        assert_eq!(packed(&[]), "");
    }
}
