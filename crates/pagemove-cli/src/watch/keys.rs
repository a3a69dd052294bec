//! What a key does: a pure function of the controls and the key.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::state::Controls;

/// Intervals that + and - go through, in seconds.
const INTERVALS: [u64; 13] = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1_800, 3_600, 86_400];

/// What is to be done beside changing the controls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    /// Nothing.
    Stay,
    /// The user is done.
    End,
    /// Ctrl-C.
    Interrupt,
    /// Ctrl-Z.
    Suspend,
    /// Ctrl-L: something else has written to the screen.
    Redraw,
}

/// How much of the table there is, and fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Extent {
    pub(crate) rows: usize,
    pub(crate) page: usize,
}

impl Extent {
    /// Keeps the first row where as many rows as fit are shown.
    pub(crate) fn bound(self, first: usize) -> usize {
        first.min(self.rows.saturating_sub(self.page.max(1)))
    }
}

/// Gives the controls after a key, and what else is to be done.
pub(crate) fn press(mut controls: Controls, key: KeyEvent, extent: Extent) -> (Controls, Act) {
    if key.kind == KeyEventKind::Release {
        return (controls, Act::Stay);
    }
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        let act = match key.code {
            KeyCode::Char('c') => Act::Interrupt,
            KeyCode::Char('z') => Act::Suspend,
            KeyCode::Char('l') => Act::Redraw,
            _ => Act::Stay,
        };
        return (controls, act);
    }
    if key.code == KeyCode::Char('q') {
        return (controls, Act::End);
    }
    if controls.shows_help {
        controls.shows_help = false;
        return (controls, Act::Stay);
    }
    if let Some(playback) = &mut controls.playback {
        match key.code {
            KeyCode::Left => playback.go(playback.at.saturating_sub(1)),
            KeyCode::Right => playback.go(playback.at.saturating_add(1)),
            KeyCode::Home => playback.go(0),
            KeyCode::End => playback.go(usize::MAX),
            KeyCode::Char('p' | ' ') => playback.toggle(),
            KeyCode::Char('+' | '=') => playback.change_speed(true),
            KeyCode::Char('-') => playback.change_speed(false),
            _ => return view(controls, key.code, extent),
        }
        return (controls, Act::Stay);
    }
    view(controls, key.code, extent)
}

/// Keys that change how it is seen.
fn view(mut controls: Controls, key: KeyCode, extent: Extent) -> (Controls, Act) {
    let page = extent.page.max(1);
    match key {
        KeyCode::Esc => return (controls, Act::End),
        // Another order is looked at from its top.
        KeyCode::Char('s') => (controls.sort, controls.first) = (controls.sort.next(), 0),
        KeyCode::Char('r') => (controls.is_reversed, controls.first) = (!controls.is_reversed, 0),
        KeyCode::Char('p' | ' ') => controls.is_paused = !controls.is_paused,
        KeyCode::Char('?' | 'h') => controls.shows_help = true,
        KeyCode::Char('+' | '=') => controls.interval = longer(controls.interval),
        KeyCode::Char('-') => controls.interval = shorter(controls.interval),
        KeyCode::Up => controls.first = extent.bound(controls.first).saturating_sub(1),
        KeyCode::Down => controls.first = extent.bound(controls.first + 1),
        KeyCode::PageUp => controls.first = extent.bound(controls.first).saturating_sub(page),
        KeyCode::PageDown => controls.first = extent.bound(controls.first.saturating_add(page)),
        KeyCode::Home => controls.first = 0,
        KeyCode::End => controls.first = extent.bound(usize::MAX),
        _ => {}
    }
    (controls, Act::Stay)
}

fn longer(interval: u64) -> u64 {
    INTERVALS.into_iter().find(|&longer| longer > interval).unwrap_or(interval)
}

fn shorter(interval: u64) -> u64 {
    INTERVALS.into_iter().rev().find(|&shorter| shorter < interval).unwrap_or(interval)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::state::{Column, Playback};

    const EXTENT: Extent = Extent { rows: 34, page: 10 };

    fn after(keys: &[KeyCode]) -> Controls {
        keys.iter().fold(Controls::new(5), |controls, &key| {
            let (controls, act) = press(controls, key.into(), EXTENT);
            assert_eq!(act, Act::Stay, "{key:?}");
            controls
        })
    }

    #[test]
    fn keys_that_end_it_and_keys_that_are_nothing() {
        let act = |code: KeyCode, modifiers| press(Controls::new(5), KeyEvent::new(code, modifiers), EXTENT).1;
        let (none, control) = (KeyModifiers::NONE, KeyModifiers::CONTROL);
        assert_eq!((act(KeyCode::Char('q'), none), act(KeyCode::Esc, none)), (Act::End, Act::End));
        assert_eq!([('c', Act::Interrupt), ('z', Act::Suspend), ('l', Act::Redraw), ('q', Act::Stay)], {
            ['c', 'z', 'l', 'q'].map(|letter| (letter, act(KeyCode::Char(letter), control)))
        });
        assert_eq!(after(&[KeyCode::Char('x'), KeyCode::Tab, KeyCode::F(1)]), Controls::new(5));
        let release = KeyEvent::new_with_kind(KeyCode::Char('q'), none, KeyEventKind::Release);
        assert_eq!(press(Controls::new(5), release, EXTENT), (Controls::new(5), Act::Stay));
    }

    #[test]
    fn the_order_goes_through_all_columns_from_the_top() {
        let sorted = after(&[KeyCode::Down, KeyCode::Char('s')]);
        assert_eq!((sorted.sort, sorted.first), (Column::AloneChange, 0));
        assert_eq!(after(&[KeyCode::Char('s'); 8]), Controls::new(5));
        let reversed = after(&[KeyCode::Down, KeyCode::Char('r')]);
        assert!(reversed.is_reversed && reversed.first == 0 && !after(&[KeyCode::Char('r'); 2]).is_reversed);
    }

    #[test]
    fn scrolling_ends_where_the_table_ends() {
        for (keys, first) in [
            (&[KeyCode::Up][..], 0),
            (&[KeyCode::Down; 3], 3),
            (&[KeyCode::PageDown; 9], 24),
            (&[KeyCode::End, KeyCode::Down], 24),
            (&[KeyCode::End, KeyCode::Up], 23),
            (&[KeyCode::End, KeyCode::PageUp], 14),
            (&[KeyCode::PageDown, KeyCode::PageUp, KeyCode::PageUp], 0),
            (&[KeyCode::End, KeyCode::Home], 0),
        ] {
            assert_eq!(after(keys).first, first, "{keys:?}");
        }
        // The table got shorter meanwhile, or has no room at all.
        let far = Controls { first: 900, ..Controls::new(5) };
        assert_eq!(press(far, KeyCode::Up.into(), EXTENT).0.first, 23);
        assert_eq!(press(far, KeyCode::Down.into(), Extent::default()).0.first, 0);
    }

    #[test]
    fn pause_help_and_the_interval() {
        assert!(after(&[KeyCode::Char(' ')]).is_paused && !after(&[KeyCode::Char('p'), KeyCode::Char(' ')]).is_paused);
        assert!(after(&[KeyCode::Char('?')]).shows_help);
        // Any key closes the help, and does nothing else; q ends it even so.
        assert_eq!(after(&[KeyCode::Char('?'), KeyCode::Esc]), Controls::new(5));
        assert_eq!(press(after(&[KeyCode::Char('?')]), KeyCode::Char('q').into(), EXTENT).1, Act::End);
        assert_eq!(after(&[KeyCode::Char('+')]).interval, 10);
        assert_eq!(after(&[KeyCode::Char('-'); 9]).interval, 1);
        assert_eq!(after(&[KeyCode::Char('+'); 99]).interval, 86_400);
        assert_eq!((longer(7), shorter(7)), (10, 5));
    }

    #[test]
    fn a_recording_has_keys_of_its_own() {
        let press = |keys: &[KeyCode]| {
            let recorded = Controls { playback: Some(Playback::new(5)), ..Controls::new(5) };
            keys.iter().fold(recorded, |controls, &key| press(controls, key.into(), EXTENT).0)
        };
        let at = |keys: &[KeyCode]| press(keys).playback.map(|playback| (playback.at, playback.is_playing));
        assert_eq!(at(&[KeyCode::Left]), Some((0, false)));
        assert_eq!(at(&[KeyCode::Right, KeyCode::Right, KeyCode::Left]), Some((1, false)));
        assert_eq!(at(&[KeyCode::End, KeyCode::Right]), Some((4, false)));
        assert_eq!(at(&[KeyCode::End, KeyCode::Home]), Some((0, false)));
        assert_eq!(at(&[KeyCode::Char(' ')]), Some((0, true)));
        // A step stops it.
        assert_eq!(at(&[KeyCode::Char(' '), KeyCode::Right]), Some((1, false)));
        let faster = press(&[KeyCode::Char('+')]);
        assert_eq!((faster.playback.map(Playback::per_second), faster.interval, faster.is_paused), (Some(5), 5, false));
        assert_eq!(press(&[KeyCode::Down, KeyCode::Down]).first, 2);
        assert_eq!(press(&[KeyCode::Char('s')]).sort, Column::AloneChange);
    }
}
