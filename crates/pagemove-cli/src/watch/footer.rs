//! The last line: what is going on, and the keys; and the list of all keys.

use ratatui::{
    Frame,
    layout::Rect,
    style::{Modifier, Style},
    text::{Line, Span},
    widgets::Paragraph,
};

use super::state::{Feed, State};
use crate::numbers::seconds;

/// The width of the first two keys, which stay whatever is going on, and of what is between.
const FIRST_KEYS: usize = 17;

/// Draws it: what is going on comes first, then as many keys as fit.
pub(super) fn draw(state: &State, frame: &mut Frame<'_>, area: Rect) {
    let mut spans = Vec::new();
    let mut left = usize::from(area.width);
    if let Some([long, short]) = status(state) {
        let room = left.saturating_sub(FIRST_KEYS);
        let text = if long.chars().count() <= room { long } else { short };
        let text: String = text.chars().take(room).collect();
        left = left.saturating_sub(text.chars().count() + 2);
        spans.extend([Span::styled(text, Style::new().add_modifier(Modifier::REVERSED)), Span::raw("  ")]);
    }
    for (key, what) in keys(state) {
        let length = key.chars().count() + what.chars().count() + 3;
        if length > left + 2 {
            break;
        }
        left = left.saturating_sub(length);
        spans.extend([Span::styled(key, Modifier::BOLD), Span::raw(format!(" {what}  "))]);
    }
    frame.render_widget(Paragraph::new(Line::from(spans)), area);
}

/// Says what a user wouldn't expect, at length and in short.
fn status(state: &State) -> Option<[String; 2]> {
    if let Some(trouble) = &state.trouble {
        let text = format!("no capture: {trouble}");
        return Some([text.clone(), text]);
    }
    let (pause, is_longer) = state.pause();
    let pause = seconds(pause.as_secs_f64());
    let alike = |text: String| [text.clone(), text];
    match state.feed {
        Feed::Still => None,
        Feed::Recorded => {
            let playing = state.controls.playback.filter(|playback| playback.is_playing)?;
            Some([format!("{} captures a second", playing.per_second()), "plays".to_owned()])
        }
        Feed::Live { .. } if state.controls.is_paused => Some(alike("paused".to_owned())),
        // The first one has the whole screen.
        Feed::Live { capturing: Some(percent) } if state.now.is_some() && percent > 0 => {
            Some(alike(format!("reading {percent} %")))
        }
        Feed::Live { .. } => is_longer
            .then(|| [format!("next {pause} after this, for a tenth of a CPU at most"), format!("waits {pause}")]),
    }
}

/// The keys, the most important first.
fn keys(state: &State) -> Vec<(&'static str, String)> {
    let mut keys: Vec<(&str, String)> = vec![("q", "end".to_owned()), ("?", "help".to_owned())];
    if let Some(playback) = state.controls.playback {
        let play = if playback.is_playing { "stop" } else { "play" };
        keys.extend([
            (if state.ascii { "left/right" } else { "←→" }, "step".to_owned()),
            ("space", play.to_owned()),
            ("+/-", format!("{} a second", playback.per_second())),
        ]);
    }
    if state.now.as_ref().is_some_and(|now| now.blocks.is_some()) {
        keys.extend([("s", "sort".to_owned()), ("r", "reverse".to_owned())]);
    }
    if let Feed::Live { .. } = state.feed {
        let pause = if state.controls.is_paused { "go on" } else { "pause" };
        keys.extend([("p", pause.to_owned()), ("+/-", format!("each {} s", state.controls.interval))]);
    }
    keys.push((if state.ascii { "up/down" } else { "↑↓" }, "scroll".to_owned()));
    keys
}

/// All keys.
pub(super) fn help(state: &State) -> Vec<Line<'static>> {
    let mut rows = vec![
        ("q Esc Ctrl-C", "end"),
        ("s", "sort by the next column"),
        ("r", "reverse the order"),
        ("Up Down PgUp PgDn", "scroll"),
    ];
    if let Feed::Recorded = state.feed {
        rows.extend([
            ("Left Right", "one capture back, on"),
            ("Home End", "the first, the last capture"),
            ("Space", "play, stop"),
            ("+ -", "play faster, slower"),
        ]);
    } else {
        rows.push(("Home End", "scroll to the ends"));
    }
    if let Feed::Live { .. } = state.feed {
        rows.extend([("p Space", "pause, go on"), ("+ -", "longer, shorter interval")]);
    }
    rows.extend([("Ctrl-L", "draw anew"), ("Ctrl-Z", "stop; fg goes on")]);
    let mut lines: Vec<Line<'_>> = rows
        .into_iter()
        .map(|(keys, what)| Line::from(vec![Span::styled(format!("{keys:18}"), Modifier::BOLD), Span::raw(what)]))
        .collect();
    lines.extend(
        [
            "",
            "alone: hostage blocks that this owner alone holds: gained if just its pages could move.",
            "blocks: all hostage blocks with a page of it.  to move: other pages in those held alone.",
            "change: since the capture before.  unusable: free memory in blocks smaller than a pageblock.",
            "index: why there is no free pageblock: 0: memory is short; 1000: it is fragmented; -1000: there is one.",
            "A capture is followed by a pause at least nine times as long: a tenth of a CPU's time at most.",
        ]
        .map(Line::from),
    );
    lines
}
