//! `pagemove watch`: a screen with the blocks of this machine, who holds them, and what the kernel counts, as they change.
//!
//! Takes a source of layouts; shows a screen until a key or signal ends it, or prints lines where stdout is no terminal.
//! Promises that the terminal is put back, that captures take a tenth of one CPU's time at most, and that nothing is
//! changed.

pub(crate) mod footer;
pub(crate) mod gather;
pub(crate) mod keys;
pub(crate) mod lines;
pub(crate) mod owners;
pub(crate) mod panels;
pub(crate) mod screen;
#[cfg(test)]
mod screen_tests;
pub(crate) mod snapshot;
pub(crate) mod state;
pub(crate) mod tty;
pub(crate) mod words;

use std::{
    env,
    io::{self, IsTerminal},
    ops::ControlFlow,
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread,
    time::{Duration, Instant},
};

use ratatui::crossterm::event::{Event, KeyEvent, read};

use self::{
    gather::{Gather, News, gather},
    keys::{Act, Extent, press},
    state::{Feed, State, pause_after},
    tty::{Tty, has_hung_up, is_unread},
};
use crate::{
    cancel::{STOPPED, Stop, Stopped},
    layout::{LayoutSource, SourceError, settle::restore_left},
    message::print,
    terminal,
};

/// How often it looks for a signal.
pub(crate) const LOOK: Duration = Duration::from_millis(50);

/// Shows what changes in physical memory: a screen, or lines where stdout is no terminal.
///
/// A capture is followed by a pause that is at least nine times as long, whatever the interval: a tenth of one CPU's time
/// at most.
#[derive(Debug, clap::Args)]
pub(crate) struct WatchArgs {
    /// Seconds from the start of a capture to the next.
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    interval: u64,
    /// Prints one capture as lines, and ends.
    #[arg(long)]
    once: bool,
    /// What to look at: this machine (without root only its free blocks by order, and the kernel's counters), the sample
    /// that ships with the command, or a layout file; these two stand still.
    #[arg(long, value_name = "live|sample|FILE", default_value_t = LayoutSource::Live)]
    layout: LayoutSource,
}

/// Why it ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WatchError {
    /// There is no layout to look at.
    #[error(transparent)]
    Source(SourceError),
    /// A signal, or Ctrl-C.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// Signals can't be caught.
    #[error("can't catch Ctrl-C: {0}")]
    Signals(io::Error),
    /// The terminal doesn't do it.
    #[error("can't use this terminal: {0}; for lines instead of a screen: TERM=dumb, or --once")]
    Terminal(io::Error),
    /// Stdout is gone.
    #[error("can't print: {0}")]
    Print(io::Error),
}

impl WatchError {
    /// Gives the code to exit with.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Stopped(Stopped) => STOPPED,
            _ => 2,
        }
    }
}

impl From<SourceError> for WatchError {
    fn from(error: SourceError) -> Self {
        match error {
            SourceError::Stopped(stopped) => Self::Stopped(stopped),
            error => Self::Source(error),
        }
    }
}

/// What the screen waits for.
pub(crate) enum Wake {
    Event(Event),
    News(News),
}

impl Wake {
    /// Gives the key that was pressed.
    pub(crate) fn key(&self) -> Option<KeyEvent> {
        match self {
            Self::Event(Event::Key(key)) => Some(*key),
            _ => None,
        }
    }
}

/// Runs the command.
pub(crate) fn run(args: &WatchArgs) -> Result<(), WatchError> {
    let stop = Stop::on_signals().map_err(WatchError::Signals)?;
    if args.layout == LayoutSource::Live {
        restore_left();
    }
    if args.once || !shows_screens() { print_lines(args, &stop) } else { show(args, &stop) }
}

/// Tells whether stdout can show a screen.
pub(crate) fn shows_screens() -> bool {
    let is_dumb = env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    io::stdout().is_terminal() && !is_dumb
}

/// Prints each capture as lines, until nobody reads them.
fn print_lines(args: &WatchArgs, stop: &Stop) -> Result<(), WatchError> {
    let ascii = !terminal::is_utf8();
    let mut before = None;
    loop {
        let now = gather(&args.layout, stop, &mut |_, _| {})?;
        print(&lines::describe(&now, before.as_ref(), ascii)).map_err(WatchError::Print)?;
        if args.once || args.layout != LayoutSource::Live {
            return Ok(());
        }
        let (mut pause, _) = pause_after(now.took(), Duration::from_secs(args.interval));
        while !pause.is_zero() {
            if is_unread() {
                return Ok(());
            }
            let slice = pause.min(LOOK);
            stop.sleep(slice)?;
            pause -= slice;
        }
        before = Some(now);
    }
}

/// Shows the screen.
fn show(args: &WatchArgs, stop: &Stop) -> Result<(), WatchError> {
    // Until the terminal is put back nothing else may end the program.
    let _hold = stop.hold();
    let (send, wakes) = mpsc::channel();
    let is_live = args.layout == LayoutSource::Live;
    let tell = send.clone();
    let mut gather = Gather::start(args.layout.clone(), stop.clone(), move |news| tell.send(Wake::News(news)).is_ok());
    let feed = if is_live { Feed::Live { capturing: Some(0) } } else { Feed::Still };
    let mut state = State::new(feed, args.interval, !terminal::is_utf8());
    gather.request();
    let mut last_end = None;
    let mut tty = Tty::open().map_err(WatchError::Terminal)?;
    hear_keys(send);
    let mut extent = Extent::default();
    let mut is_changed = true;
    loop {
        check(stop)?;
        gather.check();
        is_changed |= tty.follow_signals().map_err(WatchError::Terminal)?;
        let is_idle = state.feed == Feed::Live { capturing: None };
        if is_idle && !state.controls.is_paused && last_end.is_none_or(|end: Instant| end.elapsed() >= state.pause().0)
        {
            state.feed = Feed::Live { capturing: Some(0) };
            gather.request();
        }
        if is_changed {
            tty.draw(|frame| extent = screen::draw(&state, frame)).map_err(WatchError::Terminal)?;
            is_changed = false;
        }
        let wake = match wakes.recv_timeout(LOOK) {
            Ok(wake) => wake,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => continue,
        };
        is_changed = true;
        match wake {
            Wake::Event(Event::Key(key)) => {
                let (controls, act) = press(state.controls, key, extent);
                state.controls = controls;
                if let ControlFlow::Break(ended) = obey(act, &mut tty).map_err(WatchError::Terminal)? {
                    return Ok(ended?);
                }
            }
            // Another size, which drawing asks for itself.
            Wake::Event(_) => {}
            Wake::News(News::Progress(percent)) => state.feed = Feed::Live { capturing: Some(percent) },
            Wake::News(News::Done(done)) => {
                last_end = Some(Instant::now());
                if is_live {
                    state.feed = Feed::Live { capturing: None };
                }
                match done {
                    Ok(snapshot) => state.take(*snapshot),
                    // Memory may come or go while it is read; the next try may do.
                    Err(error @ SourceError::Live(_)) if state.now.is_some() => {
                        state.trouble = Some(terminal::plain(&error.to_string()));
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }
}

/// Does what a key asks for beside changing the controls; breaks where that is the end.
pub(crate) fn obey(act: Act, tty: &mut Tty) -> io::Result<ControlFlow<Result<(), Stopped>>> {
    match act {
        Act::Stay => {}
        Act::End => return Ok(ControlFlow::Break(Ok(()))),
        Act::Interrupt => return Ok(ControlFlow::Break(Err(Stopped))),
        Act::Suspend => tty.suspend()?,
        Act::Redraw => tty.retake()?,
    }
    Ok(ControlFlow::Continue(()))
}

/// Tells whether a signal came, or the terminal has gone.
pub(crate) fn check(stop: &Stop) -> Result<(), Stopped> {
    stop.check()?;
    if has_hung_up() { Err(Stopped) } else { Ok(()) }
}

/// Reads keys on a thread of its own: reading may wait for the rest of a key's sequence.
pub(crate) fn hear_keys(send: Sender<Wake>) {
    // It ends with the program.
    drop(thread::spawn(move || {
        while let Ok(event) = read()
            && send.send(Wake::Event(event)).is_ok()
        {}
    }));
}
