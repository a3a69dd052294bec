//! Ctrl-C and `kill`: a flag that the signal sets and that long steps look at, all but the reading of the layout.
//!
//! Nothing is torn down in the signal handler, so nothing is left half done: whoever sees the flag returns, and what
//! he holds is dropped on the way. Who can't wait for that sends a second signal, which ends the program at once.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use signal_hook::consts::{SIGINT, SIGTERM};

use super::error::RunError;

/// The flag.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Catches SIGINT and SIGTERM from now on; a second one exits with 130.
    pub(crate) fn on_signals() -> Result<Self, RunError> {
        let stop = Self::default();
        for signal in [SIGINT, SIGTERM] {
            // Before the flag is set, so that the first signal doesn't find it set.
            signal_hook::flag::register_conditional_shutdown(signal, 130, stop.0.clone()).map_err(RunError::Signals)?;
            signal_hook::flag::register(signal, stop.0.clone()).map_err(RunError::Signals)?;
        }
        Ok(stop)
    }

    /// Tells whether to stop.
    pub(crate) fn is_set(&self) -> bool {
        // Relaxed: nothing is published with it, and a look that comes a moment late is no matter.
        self.0.load(Ordering::Relaxed)
    }

    /// Returns early if it's time to stop.
    pub(crate) fn check(&self) -> Result<(), RunError> {
        if self.is_set() { Err(RunError::Stopped) } else { Ok(()) }
    }
}
