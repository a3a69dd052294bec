//! A watchdog: tells of it when nothing goes on for a long time, so that threads that wait for each other for ever, as
//! after a panic with a page's lock held, end the program and don't hang it.

use std::{
    process,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use pagemove::Engine;

use super::events;
use crate::message::say;

/// Generous: a slow machine with much else to do goes on all the same.
const LIMIT: Duration = Duration::from_secs(120);
/// Looks in the limit.
const LOOKS: u32 = 16;

/// Watches until it's dropped.
pub(crate) struct Watchdog {
    beats: Arc<AtomicU64>,
    /// Its end is what the thread waits for.
    _end: mpsc::Sender<()>,
}

impl Watchdog {
    /// Watches the engine from now on: ends the program with code 1, the seed and the last events.
    pub(crate) fn of(engine: &Arc<Engine>, subject: &'static str, seed: u64) -> Self {
        let engine = engine.clone();
        Self::with(LIMIT, move || {
            let events = events::last(&engine);
            say(&format!(
                "pagemove: {subject}: nothing went on for {} s\nThe last events:\n{events}Repeat with --seed {seed}.",
                LIMIT.as_secs()
            ));
            // Threads that hang can't be joined, so nothing can be dropped.
            process::exit(1);
        })
    }

    /// Calls `bark` once if nobody calls [`Self::beat`] for so long.
    fn with(limit: Duration, bark: impl FnOnce() + Send + 'static) -> Self {
        let beats = Arc::new(AtomicU64::new(0));
        let (end, ended) = mpsc::channel();
        let seen = beats.clone();
        thread::spawn(move || {
            let mut silence = Silence { beats: 0, looks: 0 };
            while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(limit / LOOKS) {
                if silence.look(seen.load(Ordering::Relaxed)) >= LOOKS {
                    return bark();
                }
            }
        });
        Self { beats, _end: end }
    }

    /// Tells that work goes on.
    pub(crate) fn beat(&self) {
        // Relaxed: nothing is published with it.
        self.beats.fetch_add(1, Ordering::Relaxed);
    }
}

/// How often nothing was heard. Looks and not seconds: while the program is stopped, as by Ctrl-Z, no thread goes on, and
/// time does.
struct Silence {
    beats: u64,
    looks: u32,
}

impl Silence {
    fn look(&mut self, beats: u64) -> u32 {
        let looks = if beats == self.beats { self.looks + 1 } else { 0 };
        *self = Self { beats, looks };
        looks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_lasts_from_the_last_beat() {
        let mut silence = Silence { beats: 0, looks: 0 };
        let looks = [0, 0, 1, 1, 2, 2, 2].map(|beats| silence.look(beats));
        assert_eq!(looks, [1, 2, 0, 1, 0, 1, 2]);
    }

    #[test]
    fn it_barks_in_silence_and_not_once_it_is_dropped() {
        let (bark, barked) = mpsc::channel();
        let watchdog = Watchdog::with(Duration::from_millis(30), move || bark.send(()).unwrap());
        barked.recv_timeout(Duration::from_secs(60)).expect("it barks");
        drop(watchdog);
        let (bark, barked) = mpsc::channel::<()>();
        drop(Watchdog::with(Duration::from_secs(3600), move || bark.send(()).unwrap()));
        // The thread ends, and with it the other end of the channel.
        assert_eq!(barked.recv_timeout(Duration::from_secs(60)), Err(RecvTimeoutError::Disconnected));
    }
}
