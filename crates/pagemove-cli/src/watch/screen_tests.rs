//! What is on the screen for a made-up state, in several sizes, in UTF-8 and ASCII: the files in `screens` have it as text.

use ratatui::{Terminal, backend::TestBackend, buffer::Cell};

use super::{
    keys::Extent,
    screen::draw,
    snapshot::Blocks,
    state::{Column, Feed, Playback, State, tests::made_up_state},
};

/// Draws a state; gives the screen's lines without blanks at their ends.
fn screen(state: &State, width: u16, height: u16) -> (String, Extent) {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
    let mut extent = Extent::default();
    terminal.draw(|frame| extent = draw(state, frame)).expect("draws");
    let line = |row: &[Cell]| row.iter().map(Cell::symbol).collect::<String>().trim_end().to_owned() + "\n";
    (terminal.backend().buffer().content.chunks(width.max(1).into()).map(line).collect(), extent)
}

/// As root without a table of owners.
fn without_frames(ascii: bool) -> State {
    let mut state = made_up_state(ascii);
    for snapshot in state.now.iter_mut().chain(&mut state.before) {
        (snapshot.blocks, snapshot.owners) = (None, Vec::new());
        snapshot.lacks = Some("As root: what is in each block, and who holds it.".to_owned());
    }
    state
}

fn check(state: &State, width: u16, height: u16, expected: &str) {
    let (shown, _) = screen(state, width, height);
    assert!(shown == expected, "{width} × {height} shows\n{shown}\nand not\n{expected}");
    assert!(!state.ascii || shown.is_ascii());
}

#[test]
fn each_size_shows_the_most_important_first() {
    check(&made_up_state(false), 120, 40, include_str!("screens/120x40.txt"));
    check(&made_up_state(false), 80, 24, include_str!("screens/80x24.txt"));
    check(&made_up_state(false), 40, 10, include_str!("screens/40x10.txt"));
    check(&without_frames(false), 80, 24, include_str!("screens/without_frames.txt"));
}

#[test]
fn in_ascii_as_well() {
    check(&made_up_state(true), 120, 40, include_str!("screens/120x40.ascii.txt"));
    check(&made_up_state(true), 80, 24, include_str!("screens/80x24.ascii.txt"));
    check(&made_up_state(true), 40, 10, include_str!("screens/40x10.ascii.txt"));
}

#[test]
fn no_size_is_too_small_and_none_too_large() {
    let mut help = made_up_state(false);
    help.controls.shows_help = true;
    let mut far = made_up_state(true);
    far.controls.first = usize::MAX;
    let mut huge = made_up_state(false);
    huge.now.as_mut().expect("a capture").blocks =
        Some(Blocks { free: u64::MAX, movable: u64::MAX, hostage: 1, full: 0 });
    huge.free = [0, u64::MAX].into();
    let states = [State::new(Feed::Still, 5, false), made_up_state(false), help, far, huge, without_frames(true)];
    for state in &states {
        for width in [0, 1, 2, 20, 39, 40, 72, 80, 150, 300] {
            for height in [0, 1, 2, 3, 4, 5, 8, 10, 14, 24, 40, 200] {
                let (shown, extent) = screen(state, width, height);
                assert!(!state.ascii || shown.is_ascii());
                assert!(extent.page <= height.into() && (extent.rows == 34 || extent.rows == 0), "{extent:?}");
            }
        }
    }
}

#[test]
fn what_is_going_on_is_in_the_last_line() {
    let last = |state: &State| screen(state, 80, 24).0.lines().last().expect("a line").to_owned();
    let mut state = made_up_state(false);
    assert!(last(&state).starts_with("q end  ? help  s sort"));
    state.feed = Feed::Live { capturing: Some(34) };
    assert!(last(&state).starts_with("reading 34 %  q end"));
    state.now.as_mut().expect("a capture").took_us = 1_200_000;
    state.feed = Feed::Live { capturing: None };
    assert!(
        last(&state).starts_with("next 10.8 s after this, for a tenth of a CPU at most  q end"),
        "{}",
        last(&state)
    );
    let narrow = screen(&state, 40, 10).0.lines().last().map(str::to_owned);
    assert_eq!(narrow.as_deref(), Some("waits 10.8 s  q end  ? help  s sort"));
    state.controls.is_paused = true;
    assert!(last(&state).starts_with("paused  q end") && last(&state).contains("p go on"));
    state.trouble = Some("why ".repeat(99));
    assert!(last(&state).ends_with("why  q end  ? help"), "{}", last(&state));
    state.trouble = Some("why".into());
    assert!(last(&state).starts_with("no capture: why  q end"));
    state = made_up_state(true);
    state.feed = Feed::Still;
    assert_eq!(last(&state), "q end  ? help  s sort  r reverse  up/down scroll");
    state.controls.shows_help = true;
    assert!(screen(&state, 40, 10).0.starts_with("q Esc Ctrl-C      end\n"));
}

#[test]
fn a_recording_shows_where_it_is() {
    let mut state = made_up_state(true);
    let mut playback = Playback::new(40);
    playback.go(10);
    (state.feed, state.controls.playback) = (Feed::Recorded, Some(playback));
    let (shown, _) = screen(&state, 80, 24);
    assert!(shown.starts_with("live capture, Linux 6.12, 2026-11-27 21:13:35 UTC, 11 of 40\n"), "{shown}");
    // Each capture has a column from 34 on.
    assert_eq!(shown.lines().nth(4).expect("a mark"), format!("{:>45}", "^"), "{shown}");
    assert!(
        shown.ends_with("q end  ? help  left/right step  space play  +/- 2 a second  s sort  r reverse\n"),
        "{shown}"
    );
    // More captures than columns: the last one is in the last column.
    state.free = (0..1_000).collect();
    playback = Playback::new(1_000);
    playback.go(999);
    state.controls.playback = Some(playback);
    let (shown, _) = screen(&state, 80, 24);
    assert_eq!(shown.lines().nth(4).expect("a mark"), format!("{:>80}", "^"), "{shown}");
    assert!(shown.contains("free blocks 0 to 999"), "{shown}");
}

#[test]
fn the_table_is_scrolled_and_its_order_marked() {
    let mut state = made_up_state(false);
    (state.controls.sort, state.controls.first) = (Column::Frames, 7);
    let (shown, extent) = screen(&state, 80, 24);
    assert!(
        shown.contains("owners of hostage blocks 8 to 15 of 34, by frames") && shown.contains("frames↓"),
        "{shown}"
    );
    assert_eq!(extent, Extent { rows: 34, page: 8 });
    state.controls.first = 33;
    state.controls.is_reversed = true;
    let (shown, _) = screen(&state, 80, 24);
    assert!(shown.contains("27 to 34 of 34, by frames, reversed") && shown.contains("frames↑"), "{shown}");
    state.now.as_mut().expect("a capture").owners.remove(3);
    state.controls.sort = Column::BlocksChange;
    let (shown, _) = screen(&state, 80, 24);
    assert!(!shown.contains("socket"), "one who is gone is where the order puts it");
    state.controls.first = 0;
    let (shown, _) = screen(&state, 80, 24);
    let gone = shown.lines().find(|line| line.contains("socket")).expect("a row");
    assert_eq!(gone.split_whitespace().take(6).collect::<Vec<_>>(), ["0", "-12", "0", "-40", "0", "0"], "{gone}");
}

/// Names are plain already; the screen has no way for what isn't.
#[test]
fn names_dont_steer_the_terminal() {
    let mut state = made_up_state(false);
    state.now.as_mut().expect("a capture").owners[0].name = "a\x1b[31mb\u{7}c".into();
    let (shown, _) = screen(&state, 80, 24);
    assert!(!shown.contains('\x1b') && !shown.contains('\u{7}') && shown.contains("a[31mbc"), "{shown}");
}
