//! `pagemove replay`: shows a recording in the screen of `watch`, or as a line for each capture.
//!
//! Takes a folder; says on stderr what in it is damaged or of others, and passes that over. Promises to read only.

use std::{
    io,
    ops::ControlFlow,
    path::PathBuf,
    sync::mpsc::{self, RecvTimeoutError},
    time::{Duration, Instant},
};

use jiff::Timestamp;

use super::{
    name::time,
    store::{Recorded, StoreError, read},
};
use crate::{
    cancel::{STOPPED, Stop, Stopped},
    diff::{Diff, DiffError, describe},
    layout::{Layout, LayoutError},
    message::{print, say},
    numbers::thousands,
    terminal::{self, plain, shown},
    watch::{
        LOOK, check, hear_keys,
        keys::{Extent, press},
        obey, screen, shows_screens,
        snapshot::Snapshot,
        state::{Feed, Playback, State},
        tty::Tty,
    },
};

/// Shows what record has recorded: a screen, or lines where stdout is no terminal.
#[derive(Debug, clap::Args)]
pub(crate) struct ReplayArgs {
    /// The folder.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Shows captures from this time on: 2026-11-27T21:30 (UTC), with an offset, a day, or a capture's name.
    #[arg(long, value_name = "TIME", value_parser = time)]
    from: Option<Timestamp>,
    /// Shows captures up to this time.
    #[arg(long, value_name = "TIME", value_parser = time)]
    to: Option<Timestamp>,
    /// Prints a line for each capture, and what changed between the first and the last.
    #[arg(long)]
    lines: bool,
}

/// Why there is nothing more to show.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReplayError {
    /// The folder.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no capture.
    #[error("{path} has no capture{1}: pagemove record makes them", path = .0.display())]
    Empty(PathBuf, &'static str),
    /// A layout that was whole before.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The first and the last are of different machines.
    #[error(transparent)]
    Diff(#[from] DiffError),
    /// A signal, or Ctrl-C.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// Signals can't be caught.
    #[error("can't catch Ctrl-C: {0}")]
    Signals(io::Error),
    /// The terminal doesn't do it.
    #[error("can't use this terminal: {0}; for lines instead of a screen: --lines")]
    Terminal(io::Error),
    /// Stdout is gone.
    #[error("can't print: {0}")]
    Print(io::Error),
}

impl ReplayError {
    /// Gives the code to exit with.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Stopped(Stopped) => STOPPED,
            _ => 2,
        }
    }
}

/// Runs the command.
pub(crate) fn run(args: &ReplayArgs) -> Result<(), ReplayError> {
    let stop = Stop::on_signals().map_err(ReplayError::Signals)?;
    let is_wanted = |at: Timestamp| {
        // Names have whole seconds.
        args.from.is_none_or(|from| at.as_second() >= from.as_second()) && args.to.is_none_or(|to| at <= to)
    };
    let all = read(&args.dir, |name| is_wanted(name.at()) && !stop.is_set(), &mut say)?;
    stop.check()?;
    let (Some(first), Some(last)) = (all.first(), all.last()) else {
        let of_time = if args.from.is_some() || args.to.is_some() { " of that time" } else { "" };
        return Err(ReplayError::Empty(args.dir.clone(), of_time));
    };
    if args.lines || !shows_screens() { print_lines(&all, first, last) } else { show(&all, &stop) }
}

/// Prints a line for each capture, and what changed.
fn print_lines(all: &[Recorded], first: &Recorded, last: &Recorded) -> Result<(), ReplayError> {
    let ascii = !terminal::is_utf8();
    let lines: String = all.iter().map(|capture| line(&capture.snapshot)).collect();
    print(&shown(lines, ascii)).map_err(ReplayError::Print)?;
    if all.len() < 2 {
        return Ok(());
    }
    let diff = Diff::of(&Layout::load(&first.layout)?, &Layout::load(&last.layout)?)?;
    let names = [first, last].map(|capture| {
        format!("{}, {}", capture.snapshot.at.strftime("%Y-%m-%d %H:%M:%S UTC"), plain(&capture.snapshot.source))
    });
    print(&format!("\n{}", describe(&diff, names, ascii))).map_err(ReplayError::Print)
}

/// A capture in one line.
fn line(snapshot: &Snapshot) -> String {
    let blocks = snapshot.blocks.unwrap_or_default();
    let counts = [blocks.free, blocks.movable, blocks.hostage].map(thousands);
    let top = snapshot
        .top(1)
        .first()
        .map_or(String::new(), |owner| format!("  most alone: {} {}", owner.name, thousands(owner.alone)));
    format!(
        "{}  {:>7} free  {:>7} movable  {:>7} hostage{top}\n",
        snapshot.at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        counts[0],
        counts[1],
        counts[2],
    )
}

/// Shows the screen.
fn show(all: &[Recorded], stop: &Stop) -> Result<(), ReplayError> {
    // Until the terminal is put back nothing else may end the program.
    let _hold = stop.hold();
    let mut state = State::new(Feed::Recorded, 1, !terminal::is_utf8());
    state.free = all.iter().map(|capture| capture.snapshot.free()).collect();
    state.controls.playback = Some(Playback::new(all.len()));
    let (send, wakes) = mpsc::channel();
    let mut tty = Tty::open().map_err(ReplayError::Terminal)?;
    hear_keys(send);
    let mut extent = Extent::default();
    let (mut shown, mut last_step) = (None, Instant::now());
    let mut is_changed = true;
    loop {
        check(stop)?;
        is_changed |= tty.follow_signals().map_err(ReplayError::Terminal)?;
        let mut wait = LOOK;
        if let Some(playback) = state.controls.playback.as_mut().filter(|playback| playback.is_playing) {
            let step = Duration::from_secs(1) / playback.per_second();
            if last_step.elapsed() >= step {
                (last_step, is_changed) = (Instant::now(), true);
                playback.advance();
            }
            wait = wait.min(step.saturating_sub(last_step.elapsed()));
        }
        let at = state.controls.playback.map_or(0, |playback| playback.at);
        if shown != Some(at) {
            let snapshot = |at: usize| all.get(at).map(|capture| capture.snapshot.clone());
            if let Some(now) = snapshot(at) {
                state.show(now, at.checked_sub(1).and_then(snapshot));
            }
            shown = Some(at);
        }
        if is_changed {
            tty.draw(|frame| extent = screen::draw(&state, frame)).map_err(ReplayError::Terminal)?;
            is_changed = false;
        }
        let wake = match wakes.recv_timeout(wait) {
            Ok(wake) => wake,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => continue,
        };
        is_changed = true;
        if let Some(key) = wake.key() {
            let was_playing = state.controls.playback.is_some_and(|playback| playback.is_playing);
            let (controls, act) = press(state.controls, key, extent);
            state.controls = controls;
            if !was_playing {
                last_step = Instant::now();
            }
            if let ControlFlow::Break(ended) = obey(act, &mut tty).map_err(ReplayError::Terminal)? {
                return Ok(ended?);
            }
        }
    }
}
