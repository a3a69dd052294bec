//! What anybody may read: free blocks by order, and the kernel's counters with their rates.

use ratatui::{Frame, layout::Rect, style::Modifier, text::Line, widgets::Paragraph};

use super::{
    snapshot::Snapshot,
    state::State,
    words::{heading, rate},
};
use crate::{kernel::free::FreeBlocks, layout::tables::mib, numbers::thousands};

/// A counter with its sum and rate, and with its rate only.
const COUNTER: usize = 47;
const NARROW: usize = 37;

/// Gives the height of the free blocks: a line for each zone, and the header.
pub(super) fn free_height(now: &Snapshot, most: u16) -> u16 {
    let zones = now.free_blocks.len().min(most.saturating_sub(1).into()) as u16;
    if zones == 0 { 0 } else { zones + 1 }
}

/// Draws free blocks by order and zone; the small orders go first where it is narrow.
pub(super) fn free_blocks(now: &Snapshot, frame: &mut Frame<'_>, area: Rect) {
    let zones = &now.free_blocks[..now.free_blocks.len().min(area.height.saturating_sub(1).into())];
    let orders = zones.iter().map(|zone| zone.blocks.len()).max().unwrap_or(0).min(64);
    if orders == 0 {
        return;
    }
    let mut columns: Vec<Vec<String>> = Vec::new();
    let column = |head: &str, cell: &dyn Fn(&FreeBlocks) -> String| {
        [head.to_owned()].into_iter().chain(zones.iter().map(cell)).collect::<Vec<_>>()
    };
    let unusable = |zone: &FreeBlocks| format!("{:.1} %", zone.unusable_per_mille as f64 / 10.0);
    columns.push(column("free blocks, order", &|zone| format!("{}, node {}", zone.zone, zone.node)));
    columns.push(column("MiB", &|zone| mib(zone.free_frames, now.frame_bytes)));
    columns.push(column("unusable", &unusable));
    columns.push(column("index", &|zone| zone.fragmentation_index.to_string()));
    for order in (0..orders).rev() {
        let count = |zone: &FreeBlocks| thousands(zone.blocks.get(order).copied().unwrap_or(0));
        columns.push(column(&order.to_string(), &count));
    }
    // Those that fit, the most important first; shown with the orders upwards.
    let width = |column: &Vec<String>| column.iter().map(|cell| cell.chars().count()).max().unwrap_or(0);
    let mut left = usize::from(area.width);
    let mut fit = columns.iter().map(|column| (column, width(column))).take_while(|(_, width)| {
        let fits = *width < left;
        left = left.saturating_sub(width + 1);
        fits
    });
    let name = fit.next();
    let mut rest: Vec<_> = fit.collect();
    let facts = rest.len().min(3);
    rest[facts..].reverse();
    rest.rotate_left(facts);
    let line = |at: usize| {
        let mut text = name.map_or(String::new(), |(column, width)| format!("{:width$}", column[at]));
        rest.iter().for_each(|(column, width)| text += &format!(" {:>width$}", column[at]));
        let line = Line::from(text);
        if at == 0 { line.style(Modifier::UNDERLINED) } else { line }
    };
    frame.render_widget(Paragraph::new((0..=zones.len()).map(line).collect::<Vec<_>>()), area);
}

/// Gives the counters' height in columns beside each other, with the heading.
pub(super) fn counters_height(now: &Snapshot, width: u16, most: u16) -> u16 {
    let columns = (usize::from(width) / NARROW).max(1);
    let lines = now.counters.len().div_ceil(columns).min(most.saturating_sub(1).into()) as u16;
    if lines == 0 { 0 } else { lines + 1 }
}

/// Draws the counters: those that have counted something first.
pub(super) fn counters(state: &State, now: &Snapshot, frame: &mut Frame<'_>, area: Rect) {
    if area.height < 2 || now.counters.is_empty() {
        return;
    }
    let rates = match &state.before {
        Some(before) => now.rates(before),
        None => now.counters.iter().map(|(name, _)| (name.as_str(), None)).collect(),
    };
    let all = now.counters.iter().zip(rates).map(|((name, count), (_, rate))| (name, *count, rate));
    let (moved, still): (Vec<_>, Vec<_>) = all.partition(|(_, count, _)| *count > 0);
    let all = [moved, still].concat();
    let lines = usize::from(area.height - 1);
    let columns = (usize::from(area.width) / NARROW).max(1).min(all.len().div_ceil(lines));
    let width = (usize::from(area.width) - (columns - 1)) / columns;
    let shown = all.len().min(lines * columns);
    let rest = if shown < all.len() { format!(", {shown} of {}", all.len()) } else { String::new() };
    let mut text = vec![heading(&format!("counters of Linux, in all and a second{rest}"), area.width, state.ascii)];
    let cell = |&(name, count, per_second): &(&String, u64, Option<f64>)| {
        let name_width = width.min(COUNTER).saturating_sub(if width < COUNTER { 12 } else { 23 });
        let name: String = name.chars().take(name_width).collect();
        match per_second {
            per_second if width >= COUNTER => {
                format!("{name:name_width$} {:>12} {:>9}", thousands(count), rate(per_second))
            }
            None => format!("{name:name_width$} {:>11}", thousands(count)),
            per_second => format!("{name:name_width$} {:>11}", rate(per_second)),
        }
    };
    // Down the columns.
    let rows = shown.div_ceil(columns);
    text.extend((0..rows).map(|row| {
        let cells = all[..shown].iter().skip(row).step_by(rows).map(|counter| format!("{:width$}", cell(counter)));
        Line::from(cells.collect::<Vec<_>>().join(" "))
    }));
    frame.render_widget(Paragraph::new(text), area);
}
