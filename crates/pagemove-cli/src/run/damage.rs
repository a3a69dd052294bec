//! Wrong words of a run, told on stderr as soon as they are seen: whatever comes later (Ctrl-C, a panic, a full disk), the
//! user knows of them, and the run's exit code is 1.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{error::RunError, progress::Progress, region::Wrong};
use crate::message::say;

/// What is known of wrong words.
pub(crate) struct Damage {
    seed: u64,
    seen: AtomicBool,
}

impl Damage {
    /// Knows of none yet.
    pub(crate) fn none(seed: u64) -> Self {
        Self { seed, seen: AtomicBool::new(false) }
    }

    /// Tells of the first one; how many there are is in the results.
    pub(crate) fn tell(&self, policy: &str, wrong: Wrong, progress: &Progress) {
        // Relaxed: only one thread gets false, and joining publishes the rest.
        if !self.seen.swap(true, Ordering::Relaxed) {
            progress.say(&format!("MEMORY IS CORRUPTED: policy {policy}, {wrong}. Repeat with --seed {}.", self.seed));
        }
    }

    /// Judges the run: with a wrong word it has failed, also if it ended for another reason, which is told here.
    pub(crate) fn verdict(&self, result: Result<(), RunError>) -> Result<bool, RunError> {
        match result {
            Ok(()) => Ok(!self.is_seen()),
            Err(error) if self.is_seen() => {
                say(&format!("pagemove: {error}"));
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Tells whether a word was wrong.
    pub(crate) fn is_seen(&self) -> bool {
        self.seen.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_outlasts_whatever_ends_the_run() {
        let disk_full = || RunError::Print(std::io::ErrorKind::StorageFull.into());
        let damage = Damage::none(1);
        assert!(matches!(damage.verdict(Ok(())), Ok(true)));
        assert!(matches!(damage.verdict(Err(RunError::Stopped)), Err(RunError::Stopped)));
        assert!(matches!(damage.verdict(Err(disk_full())), Err(RunError::Print(_))));
        let wrong = Wrong { region: 1, page: 2, found: 3, expected: 4, lost: true };
        damage.tell("any", wrong, &Progress::new(true));
        for result in [Ok(()), Err(RunError::Stopped), Err(disk_full())] {
            assert!(matches!(damage.verdict(result), Ok(false)));
        }
    }
}
