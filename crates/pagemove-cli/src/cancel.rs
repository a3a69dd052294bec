//! Ctrl-C, `kill`, and the end of the terminal: a flag that the signal sets and that long steps look at.
//!
//! Nothing is torn down in the signal handler, so nothing is left half done: whoever sees the flag returns, and what
//! he holds is dropped on the way. Who can't wait for that sends a second signal, which ends the program at once.

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

/// A signal said to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("stopped")]
pub(crate) struct Stopped;

/// The flag.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Catches SIGINT, SIGTERM and SIGHUP from now on; a second one exits with 130.
    pub(crate) fn on_signals() -> io::Result<Self> {
        let stop = Self::default();
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            // Before the flag is set, so that the first signal doesn't find it set.
            signal_hook::flag::register_conditional_shutdown(signal, i32::from(STOPPED), stop.0.clone())?;
            signal_hook::flag::register(signal, stop.0.clone())?;
        }
        Ok(stop)
    }

    /// Tells whether to stop.
    pub(crate) fn is_set(&self) -> bool {
        // Relaxed: nothing is published with it, and a look that comes a moment late is no matter.
        self.0.load(Ordering::Relaxed)
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
