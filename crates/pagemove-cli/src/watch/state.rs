//! What the screen shows: the captures so far, and how the user wants to see them. No drawing, no clock.
//!
//! Takes captures, gives rows in the order asked for with their change since the capture before. Promises bounded memory.

use std::{
    cmp::Ordering,
    collections::{HashMap, VecDeque},
    time::Duration,
};

use super::snapshot::{Holder, Snapshot};

/// Captures whose count of free blocks is kept.
const HISTORY: usize = 2048;
/// After a capture it pauses this many times as long as that took, at least: a tenth of one CPU's time at most.
const REST: u32 = 9;

/// A column of the table of owners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Column {
    Alone,
    AloneChange,
    Blocks,
    BlocksChange,
    ToMove,
    Frames,
    Processes,
    Name,
}

impl Column {
    /// All, in the order in which the sort key goes through them.
    pub(crate) const ALL: [Self; 8] = [
        Self::Alone,
        Self::AloneChange,
        Self::Blocks,
        Self::BlocksChange,
        Self::ToMove,
        Self::Frames,
        Self::Processes,
        Self::Name,
    ];

    /// Gives the next one.
    pub(crate) fn next(self) -> Self {
        let at = Self::ALL.iter().position(|&column| column == self).unwrap_or(0);
        Self::ALL[(at + 1) % Self::ALL.len()]
    }

    /// Gives its name in full.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Alone => "alone",
            Self::AloneChange => "change of alone",
            Self::Blocks => "blocks",
            Self::BlocksChange => "change of blocks",
            Self::ToMove => "to move",
            Self::Frames => "frames",
            Self::Processes => "processes",
            Self::Name => "name",
        }
    }
}

/// How the user wants to see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Controls {
    pub(crate) sort: Column,
    /// The smallest first; of names, the last.
    pub(crate) is_reversed: bool,
    /// The first owner that is shown.
    pub(crate) first: usize,
    pub(crate) is_paused: bool,
    pub(crate) shows_help: bool,
    /// Seconds from the start of a capture to the next.
    pub(crate) interval: u64,
    /// Of a recording, which capture is shown.
    pub(crate) playback: Option<Playback>,
}

/// Captures that are shown in a second, by [`Playback::speed`].
const SPEEDS: [u32; 6] = [1, 2, 5, 10, 25, 50];

/// Where a recording is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Playback {
    pub(crate) at: usize,
    /// How many there are; one at least.
    pub(crate) count: usize,
    pub(crate) is_playing: bool,
    speed: usize,
}

impl Playback {
    /// At the first capture.
    pub(crate) fn new(count: usize) -> Self {
        Self { at: 0, count, is_playing: false, speed: 1 }
    }

    /// The last capture's number.
    pub(crate) fn last(self) -> usize {
        self.count.saturating_sub(1)
    }

    /// Goes on by one capture, or stops at the last.
    pub(crate) fn advance(&mut self) {
        self.is_playing &= self.at < self.last();
        if self.is_playing {
            self.at += 1;
        }
    }

    /// Plays, from the start if it is at the end; or stops.
    pub(crate) fn toggle(&mut self) {
        self.is_playing = !self.is_playing;
        if self.is_playing && self.at >= self.last() {
            self.at = 0;
        }
    }

    /// Goes to a capture, and stays there.
    pub(crate) fn go(&mut self, to: usize) {
        (self.at, self.is_playing) = (to.min(self.last()), false);
    }

    /// Plays faster or slower.
    pub(crate) fn change_speed(&mut self, is_faster: bool) {
        self.speed = if is_faster { (self.speed + 1).min(SPEEDS.len() - 1) } else { self.speed.saturating_sub(1) };
    }

    /// Captures in a second.
    pub(crate) fn per_second(self) -> u32 {
        SPEEDS[self.speed]
    }
}

impl Controls {
    /// Those at the start.
    pub(crate) fn new(interval: u64) -> Self {
        let (is_reversed, is_paused, shows_help) = (false, false, false);
        Self { sort: Column::Alone, is_reversed, first: 0, is_paused, shows_help, interval, playback: None }
    }
}

/// Where the captures come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Feed {
    /// This machine; while it is captured, how many per cent are done.
    Live { capturing: Option<u64> },
    /// A file, which doesn't change.
    Still,
    /// A recording.
    Recorded,
}

/// What the screen shows.
#[derive(Debug, Clone)]
pub(crate) struct State {
    pub(crate) controls: Controls,
    pub(crate) feed: Feed,
    /// The last capture, and the one before it.
    pub(crate) now: Option<Snapshot>,
    pub(crate) before: Option<Snapshot>,
    /// Free blocks over the captures so far.
    pub(crate) free: VecDeque<u64>,
    /// Why the last try gave no capture.
    pub(crate) trouble: Option<String>,
    pub(crate) ascii: bool,
}

/// An owner with the change of its blocks since the capture before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row<'s> {
    pub(crate) owner: &'s Holder,
    pub(crate) is_gone: bool,
    /// None: there is no capture before.
    pub(crate) blocks: Option<i64>,
    pub(crate) alone: Option<i64>,
}

impl Row<'_> {
    fn shown(&self, count: u64) -> u64 {
        if self.is_gone { 0 } else { count }
    }

    /// Gives a column's count; one who is gone has none.
    pub(crate) fn count(&self, column: Column) -> u64 {
        match column {
            Column::Alone => self.shown(self.owner.alone),
            Column::Blocks => self.shown(self.owner.blocks),
            Column::ToMove => self.shown(self.owner.to_move),
            Column::Frames => self.shown(self.owner.frames),
            Column::Processes => self.shown(self.owner.processes),
            Column::AloneChange | Column::BlocksChange | Column::Name => 0,
        }
    }

    /// The larger first; names from A on.
    fn compare(&self, other: &Self, column: Column) -> Ordering {
        match column {
            Column::Name => self.owner.name.cmp(&other.owner.name),
            Column::AloneChange => other.alone.cmp(&self.alone),
            Column::BlocksChange => other.blocks.cmp(&self.blocks),
            _ => other.count(column).cmp(&self.count(column)),
        }
    }
}

impl State {
    /// Makes one without captures.
    pub(crate) fn new(feed: Feed, interval: u64, ascii: bool) -> Self {
        let (now, before, trouble) = (None, None, None);
        Self { controls: Controls::new(interval), feed, now, before, free: VecDeque::new(), trouble, ascii }
    }

    /// Takes a capture in.
    pub(crate) fn take(&mut self, snapshot: Snapshot) {
        if self.free.len() == HISTORY {
            self.free.pop_front();
        }
        self.free.push_back(snapshot.free());
        self.before = self.now.replace(snapshot);
        self.trouble = None;
    }

    /// Shows a capture of a recording.
    pub(crate) fn show(&mut self, now: Snapshot, before: Option<Snapshot>) {
        (self.now, self.before) = (Some(now), before);
    }

    /// Gives the owners in the order asked for; those who have gone since the capture before are there once more.
    pub(crate) fn rows(&self) -> Vec<Row<'_>> {
        let Some(now) = &self.now else { return Vec::new() };
        let by_name = |snapshot: &Snapshot| -> HashMap<String, (u64, u64)> {
            snapshot.owners.iter().map(|owner| (owner.name.clone(), (owner.blocks, owner.alone))).collect()
        };
        let before = self.before.as_ref().map(by_name);
        let mut rows = Vec::new();
        for owner in &now.owners {
            let old = before.as_ref().map(|before| before.get(&owner.name).copied().unwrap_or((0, 0)));
            rows.push(Row {
                owner,
                is_gone: false,
                blocks: old.map(|(blocks, _)| difference(blocks, owner.blocks)),
                alone: old.map(|(_, alone)| difference(alone, owner.alone)),
            });
        }
        let known = by_name(now);
        let gone =
            self.before.iter().flat_map(|before| &before.owners).filter(|owner| !known.contains_key(&owner.name));
        rows.extend(gone.map(|owner| Row {
            owner,
            is_gone: true,
            blocks: Some(difference(owner.blocks, 0)),
            alone: Some(difference(owner.alone, 0)),
        }));
        let Controls { sort, is_reversed, .. } = self.controls;
        rows.sort_by(|one, other| {
            let order = one.compare(other, sort);
            let order = if is_reversed { order.reverse() } else { order };
            // By name at last, so that rows don't swap places from capture to capture.
            order
                .then_with(|| other.owner.blocks.cmp(&one.owner.blocks))
                .then_with(|| one.owner.name.cmp(&other.owner.name))
        });
        rows
    }

    /// Gives how long to wait after the last capture; true: longer than the interval asks for, to leave the CPU alone.
    pub(crate) fn pause(&self) -> (Duration, bool) {
        let took = self.now.as_ref().map_or(Duration::ZERO, Snapshot::took);
        pause_after(took, Duration::from_secs(self.controls.interval))
    }
}

/// Gives the difference with its sign.
pub(crate) fn difference(before: u64, after: u64) -> i64 {
    i64::try_from(i128::from(after) - i128::from(before)).unwrap_or(if after > before { i64::MAX } else { i64::MIN })
}

/// Gives how long to wait after a capture that took this long; true: longer than the interval asks for.
pub(crate) fn pause_after(took: Duration, interval: Duration) -> (Duration, bool) {
    let (asked, least) = (interval.saturating_sub(took), took.saturating_mul(REST));
    (asked.max(least), least > asked)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::watch::snapshot::tests::made_up;

    /// A state after two captures.
    pub(crate) fn made_up_state(ascii: bool) -> State {
        let mut state = State::new(Feed::Live { capturing: None }, 5, ascii);
        [0, 3].into_iter().for_each(|more| state.take(made_up(more)));
        state.free = (0..40).map(|at| 6_000 + (at * 7) % 23).collect();
        state
    }

    #[test]
    fn rows_are_sorted_by_each_column_both_ways() {
        let mut state = made_up_state(false);
        state.before.as_mut().expect("two").owners.push(Holder { name: "gone".into(), blocks: 5, ..Holder::default() });
        let first = |state: &State| state.rows()[0].owner.name.clone();
        for column in Column::ALL {
            (state.controls.sort, state.controls.is_reversed) = (column, false);
            let names: Vec<_> = state.rows().iter().map(|row| row.owner.name.clone()).collect();
            assert_eq!(names.len(), 35);
            let expected = match column {
                Column::Alone | Column::Blocks | Column::BlocksChange | Column::ToMove | Column::Frames => "kernel",
                Column::AloneChange => "slab",
                Column::Processes | Column::Name => "/dev/dri/card0, mapped by gnome-shell × 北京",
            };
            assert_eq!(names[0], expected, "{column:?}");
            state.controls.is_reversed = true;
            assert_ne!(first(&state), expected, "{column:?} reversed");
        }
        state.controls = Controls { sort: Column::BlocksChange, is_reversed: true, ..state.controls };
        let rows = state.rows();
        assert_eq!((rows[0].is_gone, rows[0].blocks, rows[0].count(Column::Blocks)), (true, Some(-5), 0));
        assert_eq!(rows[1].blocks, Some(-3));
        let mut column = Column::Alone;
        Column::ALL.iter().for_each(|_| column = column.next());
        assert_eq!(column, Column::Alone);
    }

    #[test]
    fn captures_take_a_tenth_of_a_cpu_at_most() {
        let seconds = Duration::from_secs;
        assert_eq!(pause_after(Duration::from_millis(100), seconds(5)), (Duration::from_millis(4900), false));
        assert_eq!(pause_after(seconds(2), seconds(5)), (seconds(18), true));
        assert_eq!(pause_after(seconds(1), seconds(10)), (seconds(9), false));
        for took in [0, 1, 499, 500, 501, 5_000, 100_000].map(Duration::from_millis) {
            let (pause, _) = pause_after(took, seconds(5));
            assert!(took * 10 <= took + pause && took + pause >= seconds(5), "{took:?}: {pause:?}");
        }
    }

    #[test]
    fn a_recording_is_played_to_its_end_and_from_its_start() {
        let mut playback = Playback::new(3);
        playback.advance();
        assert_eq!(playback.at, 0, "it doesn't play");
        playback.toggle();
        [1, 2, 2].into_iter().for_each(|at| {
            playback.advance();
            assert_eq!(playback.at, at);
        });
        assert!(!playback.is_playing);
        playback.toggle();
        assert_eq!((playback.at, playback.is_playing), (0, true));
        playback.go(9);
        assert_eq!((playback.at, playback.is_playing), (2, false));
        (0..9).for_each(|_| playback.change_speed(true));
        assert_eq!(playback.per_second(), 50);
        (0..9).for_each(|_| playback.change_speed(false));
        assert_eq!(playback.per_second(), 1);
    }

    #[test]
    fn memory_is_bounded_and_differences_dont_overflow() {
        let mut state = State::new(Feed::Still, 5, true);
        assert!(state.rows().is_empty());
        (0..HISTORY as u64 + 9).for_each(|_| state.take(made_up(0)));
        assert_eq!(state.free.len(), HISTORY);
        assert_eq!([difference(0, u64::MAX), difference(u64::MAX, 0), difference(7, 4)], [i64::MAX, i64::MIN, -3]);
    }
}
