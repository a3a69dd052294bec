//! The terminal's screen: taken on start, put back whatever ends the program.
//!
//! Takes what draws; promises that raw mode, the alternate screen and the hidden cursor end with a value's drop, before a panic's
//! message, and while the program is stopped.

use std::{
    io::{self, BufWriter, IsTerminal, Stdout, stdin, stdout},
    panic,
    sync::{
        Arc, Once,
        atomic::{AtomicBool, Ordering},
    },
};

use ratatui::{
    Frame, Terminal,
    backend::CrosstermBackend,
    crossterm::{
        cursor::{Hide, Show},
        execute,
        terminal::{Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode},
    },
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{getppid, getsid},
};
use signal_hook::{
    consts::{SIGCONT, SIGTSTP},
    flag,
    low_level::emulate_default_handler,
};

/// The screen is this program's now. Of all values, since a panic's hook has none of them.
static IS_TAKEN: AtomicBool = AtomicBool::new(false);
static HOOK: Once = Once::new();

type Screen = Terminal<CrosstermBackend<BufWriter<Stdout>>>;

/// The screen.
pub(crate) struct Tty {
    /// None while the screen isn't taken: dropped, it shows the cursor, which must come before what puts the screen back.
    terminal: Option<Screen>,
    /// SIGTSTP came.
    must_stop: Arc<AtomicBool>,
    /// SIGCONT came: the shell may have changed the terminal.
    went_on: Arc<AtomicBool>,
}

impl Tty {
    /// Takes the screen.
    pub(crate) fn open() -> io::Result<Self> {
        HOOK.call_once(|| {
            let next = panic::take_hook();
            panic::set_hook(Box::new(move |told| {
                // Its message belongs on the user's own screen.
                leave();
                next(told);
            }));
        });
        let (must_stop, went_on) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        flag::register(SIGTSTP, must_stop.clone())?;
        flag::register(SIGCONT, went_on.clone())?;
        Ok(Self { terminal: Some(enter()?), must_stop, went_on })
    }

    /// Draws; nothing after a panic on another thread.
    pub(crate) fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        if let Some(terminal) = self.terminal.as_mut().filter(|_| IS_TAKEN.load(Ordering::SeqCst)) {
            terminal.draw(draw)?;
        }
        Ok(())
    }

    /// Stops and goes on as signals ask; true: all is to be drawn anew.
    pub(crate) fn follow_signals(&mut self) -> io::Result<bool> {
        if self.must_stop.swap(false, Ordering::SeqCst) {
            self.suspend()?;
            return Ok(true);
        }
        let went_on = self.went_on.swap(false, Ordering::SeqCst);
        if went_on {
            self.retake()?;
        }
        Ok(went_on)
    }

    /// Gives the screen back, stops until SIGCONT, and takes it again.
    pub(crate) fn suspend(&mut self) -> io::Result<()> {
        // A stopped program that no shell waits for would stay so.
        if !has_a_shell() {
            return Ok(());
        }
        self.leave();
        emulate_default_handler(SIGTSTP)?;
        self.went_on.store(false, Ordering::SeqCst);
        self.terminal = Some(enter()?);
        Ok(())
    }

    /// Takes the screen again, with whatever another program has made of it.
    pub(crate) fn retake(&mut self) -> io::Result<()> {
        self.leave();
        self.terminal = Some(enter()?);
        Ok(())
    }

    fn leave(&mut self) {
        self.terminal = None;
        leave();
    }
}

impl Drop for Tty {
    fn drop(&mut self) {
        self.leave();
    }
}

fn enter() -> io::Result<Screen> {
    enable_raw_mode()?;
    IS_TAKEN.store(true, Ordering::SeqCst);
    let entered = execute!(stdout(), EnterAlternateScreen, Hide, Clear(ClearType::All));
    entered.and_then(|()| Terminal::new(CrosstermBackend::new(BufWriter::new(stdout())))).inspect_err(|_| leave())
}

/// Puts the terminal back, once. With a terminal that has gone nothing can be done.
fn leave() {
    if IS_TAKEN.swap(false, Ordering::SeqCst) {
        let _ = execute!(stdout(), LeaveAlternateScreen, Show);
        let _ = disable_raw_mode();
    }
}

/// Tells whether the program that started this one is of the same session, as a shell is.
fn has_a_shell() -> bool {
    getppid().is_some_and(|parent| getsid(Some(parent)).ok() == getsid(None).ok())
}

/// Tells whether the terminal has gone.
pub(crate) fn has_hung_up() -> bool {
    // A pipe whose writer has ended is no terminal that has gone: keys come from the terminal itself then.
    stdin().is_terminal() && is_broken(&stdin(), PollFlags::HUP)
}

/// Tells whether nobody reads stdout any more.
pub(crate) fn is_unread() -> bool {
    is_broken(&stdout(), PollFlags::ERR)
}

fn is_broken(file: &impl std::os::fd::AsFd, how: PollFlags) -> bool {
    let mut polled = [PollFd::new(file, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut polled, Some(&now)).is_ok() && polled[0].revents().contains(how)
}
