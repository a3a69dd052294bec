//! Hands the free frames of per-CPU lists back to the buddy allocator, so that a capture sees them as free.
//!
//! Takes the sysctl `vm.percpu_pagelist_high_fraction` (root may write it): the largest fraction makes the lists as
//! short as they can be, and Linux since 6.7 trims lists that are too long every second. It stays so until the capture is read:
//! the lists would fill again meanwhile. Moves no page. Promises that the old value comes back whatever ends the program: it is kept in a file under `/run` until then, from which the
//! next program restores it if this one was killed; and that two programs don't do this at once.

use std::{
    fs::{self, File, Metadata, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use super::zoneinfo;
use crate::{
    cancel::{Hold, Stop, Stopped},
    message::say,
};

/// Makes the share of each list less than a batch, in a zone of any size.
const SHORTEST: &str = "1000000000";
/// A little longer than Linux waits between two trims.
const PAUSE: Duration = Duration::from_millis(1100);
/// Trims that it waits for at most.
const ROUNDS: u32 = 4;
/// The sysctl's old value, while it has another one.
const KEPT: &str = "pagemove.percpu_pagelist_high_fraction";

/// Why the lists aren't trimmed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettleError {
    /// A file of the system.
    #[error("{path}: {error}", path = path.display())]
    System {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Another program is at it.
    #[error("another pagemove is trimming them; wait until it has ended")]
    Busy,
    /// A signal.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// Adds the file's name to an error of the system.
fn at<T>(path: &Path, result: io::Result<T>) -> Result<T, SettleError> {
    result.map_err(|error| SettleError::System { path: path.to_owned(), error })
}

/// The sysctl's old value, written back on drop.
struct Old {
    knob: PathBuf,
    path: PathBuf,
    /// Locked, so that there is one of these at a time; has the value while the sysctl has another one.
    kept: File,
    value: String,
}

/// Opens the file, which is there while somebody has it, and locks it.
fn lock(path: &Path) -> Result<File, SettleError> {
    loop {
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = at(path, opened)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(SettleError::Busy),
            Err(TryLockError::Error(error)) => return at(path, Err(error)),
        }
        // Who had it may have removed it just before.
        let is_there = |there: Metadata| file.metadata().is_ok_and(|locked| locked.ino() == there.ino());
        if fs::metadata(path).is_ok_and(is_there) {
            return Ok(file);
        }
    }
}

impl Old {
    /// Takes the value from the sysctl, or if a program was killed that had set it, what that one has kept.
    fn take(proc: &Path, run: &Path) -> Result<Self, SettleError> {
        let knob = proc.join("sys/vm/percpu_pagelist_high_fraction");
        let path = run.join(KEPT);
        let mut kept = lock(&path)?;
        let mut value = String::new();
        at(&path, kept.read_to_string(&mut value))?;
        let now = at(&knob, fs::read_to_string(&knob))?;
        // Somebody may have chosen another value since.
        if value.trim().is_empty() || now.trim() != SHORTEST {
            value = now;
        }
        Ok(Self { knob, path, kept, value: value.trim().to_owned() })
    }

    /// Sets another value, once the old one is kept.
    fn replace(&mut self, value: &str) -> Result<(), SettleError> {
        let kept = self.kept.rewind().and_then(|()| self.kept.write_all(self.value.as_bytes()));
        at(&self.path, kept.and_then(|()| self.kept.sync_all()))?;
        at(&self.knob, fs::write(&self.knob, value))
    }
}

impl Drop for Old {
    fn drop(&mut self) {
        let back = fs::write(&self.knob, &self.value).and_then(|()| fs::remove_file(&self.path));
        if let Err(error) = back {
            say(&format!("can't set {} back to {}: {error}", self.knob.display(), self.value));
        }
    }
}

/// Lists that are kept short until this is dropped, which sets the sysctl back.
pub(crate) struct Settled<'s> {
    /// Frames on the lists before.
    pub(crate) before: u64,
    /// Frames on them now.
    pub(crate) after: u64,
    _old: Old,
    // After the old value is back.
    _hold: Hold<'s>,
}

/// Trims the lists, in two to five seconds.
pub(crate) fn settle(stop: &Stop) -> Result<Settled<'_>, SettleError> {
    let hold = stop.hold();
    let (old, before, after) = settle_in(Path::new("/proc"), Path::new("/run"), || Ok(stop.sleep(PAUSE)?))?;
    Ok(Settled { before, after, _old: old, _hold: hold })
}

/// Restores the sysctl if a program was killed before it did so. Says nothing if it can't: then this program can't have set it either.
pub(crate) fn restore_left() {
    restore_left_in(Path::new("/proc"), Path::new("/run"));
}

fn restore_left_in(proc: &Path, run: &Path) {
    if fs::metadata(run.join(KEPT)).is_ok_and(|file| file.len() > 0) {
        drop(Old::take(proc, run));
    }
}

fn settle_in(
    proc: &Path,
    run: &Path,
    mut pause: impl FnMut() -> Result<(), SettleError>,
) -> Result<(Old, u64, u64), SettleError> {
    let on_lists = || -> Result<u64, SettleError> {
        let path = proc.join("zoneinfo");
        let text = at(&path, fs::read_to_string(&path))?;
        Ok(zoneinfo::parse(&text).iter().map(|zone| zone.per_cpu).sum())
    };
    let before = on_lists()?;
    let mut old = Old::take(proc, run)?;
    old.replace(SHORTEST)?;
    let mut now = before;
    for round in 0..ROUNDS {
        pause()?;
        let last = std::mem::replace(&mut now, on_lists()?);
        // The first pause may have ended just ahead of a trim.
        if round > 0 && now + now / 8 >= last {
            break;
        }
    }
    Ok((old, before, now))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Machine(tempfile::TempDir);

    impl Machine {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            fs::create_dir_all(folder.path().join("sys/vm")).expect("makes");
            let machine = Self(folder);
            fs::write(machine.zones(), "Node 0, zone Normal\n spanned 9\n present 9\n count: 5\n count: 6\n")
                .expect("writes");
            machine
        }

        fn path(&self) -> &Path {
            self.0.path()
        }

        fn zones(&self) -> PathBuf {
            self.path().join("zoneinfo")
        }

        fn set(&self, value: &str) {
            fs::write(self.path().join("sys/vm/percpu_pagelist_high_fraction"), value).expect("writes");
        }

        fn value(&self) -> String {
            fs::read_to_string(self.path().join("sys/vm/percpu_pagelist_high_fraction")).expect("reads")
        }

        fn settle(&self, pause: impl FnMut() -> Result<(), SettleError>) -> Result<(u64, u64), SettleError> {
            settle_in(self.path(), self.path(), pause).map(|(_, before, after)| (before, after))
        }
    }

    #[test]
    fn the_old_value_comes_back_whether_it_works_or_not() {
        let machine = Machine::new();
        assert!(machine.settle(|| Ok(())).is_err(), "there is no sysctl");
        machine.set("8\n");
        assert_eq!(machine.settle(|| Ok(())).expect("settles"), (11, 11));
        assert_eq!(machine.value(), "8");

        // While it waits, the sysctl must be set; then a signal comes, or the zones become unreadable: the value comes back.
        let mut set = None;
        let stopped = machine.settle(|| {
            set = Some(machine.value());
            Err(Stopped.into())
        });
        assert!(matches!(stopped, Err(SettleError::Stopped(_))) && set.as_deref() == Some(SHORTEST));
        assert_eq!(machine.value(), "8");
        let result = machine.settle(|| {
            fs::remove_file(machine.zones()).expect("removes");
            Ok(())
        });
        assert!(result.is_err());
        assert_eq!(machine.value(), "8");
    }

    /// As if by SIGKILL in its wait: the next one restores the first one's old value, not what that one had set.
    #[test]
    fn what_a_killed_program_left_is_restored() {
        let machine = Machine::new();
        machine.set("8");
        let killed = || {
            let mut old = Old::take(machine.path(), machine.path()).expect("takes");
            old.replace(SHORTEST).expect("sets");
            // Closed, so unlocked, and not restored.
            std::mem::drop(std::mem::replace(&mut old.kept, File::open("/dev/null").expect("opens")));
            std::mem::forget(old);
            assert_eq!(machine.value(), SHORTEST);
        };
        killed();
        machine.settle(|| Ok(())).expect("settles");
        assert_eq!(machine.value(), "8");
        killed();
        restore_left_in(machine.path(), machine.path());
        assert_eq!(machine.value(), "8");
        killed();
        machine.set("9");
        restore_left_in(machine.path(), machine.path());
        assert_eq!(machine.value(), "9", "somebody's choice since then");
        restore_left_in(machine.path(), machine.path());
        assert_eq!(machine.value(), "9", "nothing was left");
    }

    #[test]
    fn two_do_not_overlap() {
        let machine = Machine::new();
        machine.set("8");
        let mut inner = None;
        machine
            .settle(|| {
                inner.get_or_insert_with(|| machine.settle(|| Ok(())));
                restore_left_in(machine.path(), machine.path());
                assert_eq!(machine.value(), SHORTEST, "the other one isn't disturbed");
                Ok(())
            })
            .expect("settles");
        assert!(matches!(inner, Some(Err(SettleError::Busy))), "{inner:?}");
        assert_eq!(machine.value(), "8");
    }
}
