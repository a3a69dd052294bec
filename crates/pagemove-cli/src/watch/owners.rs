//! The table of owners, as wide and as long as there is room.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Modifier, Style},
    text::{Line, Text},
    widgets::{Cell, Paragraph, Row as TableRow, Table},
};

use super::{
    keys::Extent,
    state::{Column, Row, State},
    words::{heading, signed},
};
use crate::{
    numbers::{DASH, thousands},
    terminal::cut,
};

/// How the rows are sorted: the largest first, or last; the same in ASCII.
const MARKS: [char; 4] = ['↓', '↑', 'v', '^'];
/// Columns, and the least width of a name beside them.
const SETS: [(&[Column], usize); 3] = [
    (
        &[
            Column::Alone,
            Column::AloneChange,
            Column::Blocks,
            Column::BlocksChange,
            Column::ToMove,
            Column::Frames,
            Column::Processes,
        ],
        40,
    ),
    (&[Column::Alone, Column::AloneChange, Column::Blocks, Column::BlocksChange, Column::ToMove, Column::Frames], 24),
    (&[Column::Alone, Column::Blocks, Column::BlocksChange], 0),
];

/// Draws it; gives how many rows there are and fit.
pub(super) fn draw(state: &State, frame: &mut Frame<'_>, area: Rect) -> Extent {
    let rows = state.rows();
    let (columns, name_width) = fit(state, &rows, area.width.into());
    // The heading goes first where there is little room.
    let head = u16::from(area.height >= 5);
    let [top, body] = Layout::vertical([Constraint::Length(head), Constraint::Min(0)]).areas(area);
    let extent = Extent { rows: rows.len(), page: body.height.saturating_sub(1).into() };
    let first = extent.bound(state.controls.first);
    let shown = &rows[first..rows.len().min(first + extent.page)];
    let text = match shown.len() {
        0 => "owners of hostage blocks: none".to_owned(),
        count if count == rows.len() => format!("owners of hostage blocks, {}", order(state)),
        count => {
            format!("owners of hostage blocks {} to {} of {}, {}", first + 1, first + count, rows.len(), order(state))
        }
    };
    frame.render_widget(Paragraph::new(heading(&text, top.width, state.ascii)), top);

    let header = columns.iter().map(|&(column, _)| right(&column_head(state, column)));
    let header = header.chain([Cell::from(mark(state, Column::Name, "held by"))]);
    let table_row = |row: &Row<'_>| {
        let cells = columns.iter().map(|&(column, _)| right(&cell(row, column)));
        let name = match row.owner.processes {
            0 | 1 => row.owner.name.clone(),
            several => format!("{} × {several}", row.owner.name),
        };
        let style = if row.is_gone { Style::new().add_modifier(Modifier::DIM) } else { Style::new() };
        TableRow::new(cells.chain([Cell::from(cut(&name, name_width))]).collect::<Vec<_>>()).style(style)
    };
    let widths = columns.iter().map(|&(_, width)| Constraint::Length(width)).chain([Constraint::Min(0)]);
    let table = Table::new(shown.iter().map(table_row), widths)
        .header(TableRow::new(header.collect::<Vec<_>>()).style(Modifier::UNDERLINED));
    frame.render_widget(table, body);
    extent
}

/// Gives the columns that fit with their widths, and the width that is left for names.
fn fit(state: &State, rows: &[Row<'_>], width: usize) -> (Vec<(Column, u16)>, usize) {
    let column = |&column: &Column| {
        // Of all rows, so that nothing moves aside when they are scrolled.
        let cells = rows.iter().map(|row| cell(row, column).chars().count()).max().unwrap_or(0);
        // A mark may come.
        (column, cells.max(column_head(state, column).trim_end_matches(MARKS).chars().count() + 1) as u16)
    };
    let mut sets = SETS.iter().map(|(columns, least)| {
        let columns: Vec<_> = columns.iter().map(column).collect();
        let taken: usize = columns.iter().map(|(_, width)| usize::from(*width) + 1).sum();
        (columns, width.saturating_sub(taken), *least)
    });
    let fitting = sets.clone().find(|(_, left, least)| left >= least).or_else(|| sets.next_back());
    fitting.map_or((Vec::new(), width), |(columns, left, _)| (columns, left))
}

/// Says by what the rows are sorted.
fn order(state: &State) -> String {
    format!("by {}{}", state.controls.sort.name(), if state.controls.is_reversed { ", reversed" } else { "" })
}

fn right(text: &str) -> Cell<'static> {
    Cell::from(Text::from(Line::from(text.to_owned()).right_aligned()))
}

fn column_head(state: &State, column: Column) -> String {
    let name = match column {
        Column::AloneChange | Column::BlocksChange => "change",
        Column::Processes => "procs",
        column => column.name(),
    };
    mark(state, column, name)
}

/// Marks the column by which it is sorted.
fn mark(state: &State, column: Column, name: &str) -> String {
    if state.controls.sort != column {
        return name.to_owned();
    }
    let mark = MARKS[match (state.controls.is_reversed, state.ascii) {
        (false, false) => 0,
        (true, false) => 1,
        (false, true) => 2,
        (true, true) => 3,
    }];
    format!("{name}{mark}")
}

fn cell(row: &Row<'_>, column: Column) -> String {
    let change = |change: Option<i64>| change.map_or(DASH.to_owned(), signed);
    match column {
        Column::AloneChange => change(row.alone),
        Column::BlocksChange => change(row.blocks),
        // What isn't a matter of processes has none.
        Column::Processes if row.owner.processes == 0 => String::new(),
        column => thousands(row.count(column)),
    }
}
