//! Draws the screen: a pure function of the state and the screen's size.
//!
//! Takes a state and a frame of any size, gives how much of the table is shown. Promises that the most important comes
//! first where there is little room: the counts, then the owners, then the keys; and, where the locale asks for it, ASCII
//! only.

use ratatui::{
    Frame,
    buffer::Buffer,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier},
    symbols::bar,
    text::{Line, Span, Text},
    widgets::{Paragraph, Sparkline, Wrap},
};

use super::{
    footer,
    keys::Extent,
    owners,
    panels::{counters, counters_height, free_blocks, free_height},
    snapshot::{Blocks, Snapshot},
    state::{Feed, Playback, State, difference},
    words::signed,
};
use crate::{
    numbers::{bytes_size, seconds, thousands},
    terminal::to_ascii,
};

/// From this width on the counters stand beside the owners.
const WIDE: u16 = 150;
/// The counters' width there.
const COUNTERS: u16 = 48;
/// The states: name, short name, how it looks, in ASCII, and its colour.
const STATES: [(&str, &str, &str, &str, Color); 4] = [
    ("wholly free", "free", "█", "#", Color::Green),
    ("could be emptied", "movable", "▓", "+", Color::Cyan),
    ("hostage", "hostage", "▒", "x", Color::Red),
    ("nothing to gain", "full", "░", ".", Color::DarkGray),
];
/// A sparkline in ASCII.
const ASCII_BARS: bar::Set<'_> = bar::Set {
    full: "@",
    seven_eighths: "#",
    three_quarters: "*",
    five_eighths: "+",
    half: "=",
    three_eighths: "-",
    one_quarter: ":",
    one_eighth: ".",
    empty: " ",
};

/// Draws it.
pub(crate) fn draw(state: &State, frame: &mut Frame<'_>) -> Extent {
    let area = frame.area();
    let extent = if area.is_empty() { Extent::default() } else { draw_in(state, frame, area) };
    if state.ascii {
        as_ascii(frame.buffer_mut());
    }
    extent
}

fn draw_in(state: &State, frame: &mut Frame<'_>, area: Rect) -> Extent {
    let [body, foot] = Layout::vertical([Constraint::Min(0), Constraint::Length(1)]).areas(area);
    footer::draw(state, frame, if area.height > 1 { foot } else { Rect::ZERO });
    let body = if area.height > 1 { body } else { area };
    if state.controls.shows_help {
        frame.render_widget(Paragraph::new(footer::help(state)).wrap(Wrap { trim: false }), body);
        return Extent::default();
    }
    let Some(now) = &state.now else {
        frame.render_widget(Paragraph::new(title(state, None, body.width)), body);
        return Extent::default();
    };

    let is_wide = body.width >= WIDE;
    let lines = if now.blocks.is_some() && body.width < 72 { 2 } else { 1 };
    let spark = match body.height {
        0..13 => 0,
        13..30 => 1,
        _ => 3,
    };
    // With a mark below it.
    let spark = spark + u16::from(spark > 0 && state.controls.playback.is_some());
    let head = [1, lines, u16::from(body.height >= 8), spark];
    let rest = body.height.saturating_sub(head.iter().sum());
    // Without frames there is no table of owners, and all the room is for what there is.
    let has_owners = now.blocks.is_some();
    let free = if !has_owners || rest >= 14 { free_height(now, rest / 3 + u16::from(!has_owners) * rest) } else { 0 };
    let counts = match rest - free {
        _ if is_wide && has_owners => 0,
        left if !has_owners => left,
        left if left >= 11 => counters_height(now, body.width, left / 3),
        _ => 0,
    };
    let rows = [head[0], head[1], head[2], head[3], rest - free - counts, free, counts].map(Constraint::Length);
    let [top, blocks, gauge, trend, middle, free, below] = Layout::vertical(rows).areas(body);
    frame.render_widget(Paragraph::new(title(state, Some(now), body.width)), top);
    match &now.blocks {
        Some(counts) => {
            frame.render_widget(Paragraph::new(block_counts(state, now, counts, blocks)), blocks);
            frame.render_widget(Paragraph::new(stacked(counts, gauge.width, state.ascii)), gauge);
        }
        None => {
            let text = now.lacks.as_deref().unwrap_or("This capture has no frames.");
            // Over the bar's line as well, which has nothing to show.
            let area = blocks.union(gauge);
            frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: true }), area);
        }
    }
    draw_trend(state, frame, trend);
    free_blocks(now, frame, free);
    let mut beside = middle;
    if is_wide && has_owners {
        let [owners, counts] =
            Layout::horizontal([Constraint::Min(0), Constraint::Length(COUNTERS)]).spacing(1).areas(middle);
        beside = owners;
        counters(state, now, frame, counts);
    } else {
        counters(state, now, frame, below);
    }
    if has_owners { owners::draw(state, frame, beside) } else { Extent::default() }
}

/// The first line: the machine, and the capture.
fn title<'s>(state: &State, now: Option<&'s Snapshot>, width: u16) -> Line<'s> {
    let Some(now) = now else {
        let text = match state.feed {
            Feed::Live { capturing: Some(percent) } => format!("Reading the frame table: {percent} %"),
            _ => "Reading the frame table".to_owned(),
        };
        return Line::from(text).style(Modifier::BOLD);
    };
    let source = Span::styled(now.source.as_str(), Modifier::BOLD);
    let rest = match state.controls.playback {
        Some(Playback { at, count, .. }) => {
            format!(
                "{}, {} of {}",
                now.at.strftime("%Y-%m-%d %H:%M:%S UTC"),
                thousands(at as u64 + 1),
                thousands(count as u64)
            )
        }
        None => format!("{}, took {}", now.at.strftime("%H:%M:%S UTC"), seconds(now.took().as_secs_f64())),
    };
    // What changes comes first where there is little room.
    if usize::from(width) < source.width() + rest.chars().count() + 2 {
        Line::from(vec![Span::raw(rest + ", "), source])
    } else {
        Line::from(vec![source, Span::raw(", "), Span::raw(rest)])
    }
}

/// Blocks by state with their change, in one line or two; short names where there is little room.
fn block_counts(state: &State, now: &Snapshot, counts: &Blocks, area: Rect) -> Text<'static> {
    let before = state.before.as_ref().and_then(|before| before.blocks.as_ref());
    let part = |at: usize, is_short: bool| {
        let (name, short, symbol, letter, color) = STATES[at];
        let count = counts.counts()[at];
        let change = before.map(|before| difference(before.counts()[at], count)).filter(|&change| change != 0);
        let change = change.map_or(String::new(), |change| format!(" {}", signed(change)));
        [
            Span::styled(if state.ascii { letter } else { symbol }, color),
            Span::raw(format!(" {} {}", thousands(count), if is_short { short } else { name })),
            Span::styled(change, Modifier::BOLD),
            Span::raw("  "),
        ]
    };
    let line = |parts: &[usize], is_short| parts.iter().flat_map(|&at| part(at, is_short)).collect::<Vec<_>>();
    if area.height > 1 {
        return vec![Line::from(line(&[0, 1], true)), Line::from(line(&[2, 3], true))].into();
    }
    let total = [
        format!("of {}, each {}", thousands(counts.total()), bytes_size(now.block_bytes())),
        format!("of {}", thousands(counts.total())),
    ];
    let [long, short] = total.map(Span::raw);
    let with = |is_short, total: Option<Span<'static>>| {
        let mut line = line(&[0, 1, 2, 3], is_short);
        line.extend(total);
        Line::from(line)
    };
    let choices = [
        with(false, Some(long.clone())),
        with(false, Some(short.clone())),
        with(true, Some(long)),
        with(true, Some(short)),
    ];
    let fitting = choices.into_iter().find(|line| line.width() <= area.width.into());
    fitting.unwrap_or_else(|| with(true, None)).into()
}

/// All blocks in one bar.
fn stacked(counts: &Blocks, width: u16, ascii: bool) -> Line<'static> {
    let part = |((_, _, symbol, letter, color), cells): (_, u16)| {
        Span::styled((if ascii { letter } else { symbol } as &str).repeat(cells.into()), color as Color)
    };
    Line::from_iter(STATES.into_iter().zip(shares(counts.counts(), width)).map(part))
}

/// Shares cells out by count: what isn't nothing has one at least, where there are enough of them.
fn shares(counts: [u64; 4], width: u16) -> [u16; 4] {
    let total: u128 = counts.into_iter().map(u128::from).sum();
    if total == 0 {
        return [0; 4];
    }
    let exact = |count: u64| (u128::from(count) * u128::from(width) / total) as u16;
    let mut cells = counts.map(|count| exact(count).max(u16::from(count > 0)));
    let largest = (0..4).max_by_key(|&at| counts[at]).unwrap_or(0);
    let others: u16 = (0..4).filter(|&at| at != largest).map(|at| cells[at]).sum();
    cells[largest] = width.saturating_sub(others);
    cells
}

/// Free blocks over the captures so far, or over all of a recording, from the least to the most of those shown.
fn draw_trend(state: &State, frame: &mut Frame<'_>, area: Rect) {
    if area.is_empty() {
        return;
    }
    // Wide enough for two counts.
    let [left, right] = Layout::horizontal([Constraint::Length(34), Constraint::Min(0)]).areas(area);
    let (shown, mark) = trend(state, right.width.into());
    let all = || if mark.is_some() { state.free.iter().collect::<Vec<_>>() } else { shown.iter().collect() };
    let (least, most) = (all().into_iter().min().copied().unwrap_or(0), all().into_iter().max().copied().unwrap_or(0));
    let range = if least == most { thousands(least) } else { format!("{} to {}", thousands(least), thousands(most)) };
    frame.render_widget(Paragraph::new(format!("free blocks {range}")), left);
    // The least is a low bar, not none; if all are alike they are of half the height.
    let low = (most - least) / 6 + 1;
    let line = Sparkline::default()
        .data(shown.iter().map(|count| count.saturating_sub(least).saturating_add(low)))
        .max((most - least).saturating_add(low).saturating_add((least == most).into()))
        .style(Color::Green)
        .bar_set(if state.ascii { ASCII_BARS } else { bar::NINE_LEVELS });
    let [above, below] = Layout::vertical([Constraint::Min(0), Constraint::Length(mark.is_some().into())]).areas(right);
    frame.render_widget(line, above);
    if let Some(at) = mark {
        frame.render_widget(Paragraph::new(format!("{:>1$}", if state.ascii { '^' } else { '▲' }, at + 1)), below);
    }
}

/// Gives the last counts that fit; of a recording all, the mean of several in a column where they don't, and the column of
/// the one shown.
fn trend(state: &State, room: usize) -> (Vec<u64>, Option<usize>) {
    let count = state.free.len();
    let Some(playback) = state.controls.playback else {
        return (state.free.iter().skip(count.saturating_sub(room)).copied().collect(), None);
    };
    let columns = room.min(count);
    let mean = |column: usize| {
        let (start, end) = (column * count / columns, (column + 1) * count / columns);
        let sum: u128 = state.free.range(start..end).copied().map(u128::from).sum();
        (sum / (end - start).max(1) as u128) as u64
    };
    let shown = (0..columns).map(mean).collect();
    let mark = (0..columns).rev().find(|column| column * count / columns <= playback.at);
    (shown, mark)
}

/// Makes sure that nothing else is on the screen, wherever a name comes from.
fn as_ascii(buffer: &mut Buffer) {
    for cell in buffer.content.iter_mut().filter(|cell| !cell.symbol().is_ascii()) {
        // A wide letter's second cell is a blank already.
        let letter: String = to_ascii(cell.symbol()).chars().take(1).collect();
        cell.set_symbol(&letter);
    }
}
