//! Ctrl-C, `kill`, and the end of the terminal: a flag that the signal sets and that long steps look at.
//!
//! Nothing is torn down in the signal handler, so nothing is left half done: whoever sees the flag returns, and what
//! he holds is dropped on the way. Who can't wait for that sends a second signal a moment later, which ends the program at
//! once, unless there is something to put back.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// The exit code of what a signal has stopped.
pub(crate) const STOPPED: u8 = 130;
/// How long a stopped program may sleep on.
const SLICE: Duration = Duration::from_millis(20);

/// How long the first signal has to itself.
const PATIENCE: Duration = Duration::from_millis(200);

/// A signal said to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("stopped")]
pub(crate) struct Stopped;

/// The flag.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stop {
    is_set: Arc<AtomicBool>,
    /// Somebody has something to put back, and looks at the flag all the time.
    is_held: Arc<AtomicBool>,
}

/// Until this is dropped, no second signal ends the program.
pub(crate) struct Hold<'s>(&'s Stop);

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.0.is_held.store(false, Ordering::SeqCst);
    }
}

impl Stop {
    /// Catches SIGINT, SIGTERM and SIGHUP from now on; a second one, some time after the first, exits with 130. (A closing terminal may send two at
    /// once.)
    pub(crate) fn on_signals() -> io::Result<Self> {
        let stop = Self::default();
        let may_exit = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register_conditional_shutdown(signal, i32::from(STOPPED), may_exit.clone())?;
            signal_hook::flag::register(signal, stop.is_set.clone())?;
        }
        let of_thread = stop.clone();
        // It ends with the program.
        drop(thread::spawn(move || {
            loop {
                thread::sleep(PATIENCE);
                may_exit.store(of_thread.is_set() && !of_thread.is_held.load(Ordering::SeqCst), Ordering::SeqCst);
            }
        }));
        Ok(stop)
    }

    /// Keeps the program from ending in the midst of what must be undone.
    pub(crate) fn hold(&self) -> Hold<'_> {
        self.is_held.store(true, Ordering::SeqCst);
        Hold(self)
    }

    /// Tells whether to stop.
    pub(crate) fn is_set(&self) -> bool {
        // Relaxed: nothing is published with it, and a look that comes a moment late is no matter.
        self.is_set.load(Ordering::Relaxed)
    }

    /// Returns early if it's time to stop.
    pub(crate) fn check(&self) -> Result<(), Stopped> {
        if self.is_set() { Err(Stopped) } else { Ok(()) }
    }

    /// Sleeps, but not on when it's time to stop.
    pub(crate) fn sleep(&self, time: Duration) -> Result<(), Stopped> {
        let mut left = time;
        while !left.is_zero() {
            self.check()?;
            let slice = left.min(SLICE);
            thread::sleep(slice);
            left -= slice;
        }
        self.check()
    }
}
