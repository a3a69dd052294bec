//! Hands the free frames of per-CPU lists back to the buddy allocator, so that a capture sees them as free.
//!
//! Takes the sysctl `vm.percpu_pagelist_high_fraction` (root may write it): the largest fraction makes the lists as
//! short as they can be, and Linux since 6.7 trims lists that are too long every second. Moves no page. Promises to
//! put the old value back however it ends, except when the process is killed.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use super::zoneinfo;

/// Makes the share of each list less than a batch, in a zone of any size.
const SHORTEST: &str = "1000000000";
/// A little longer than Linux waits between two trims.
const PAUSE: Duration = Duration::from_millis(1100);
/// Trims that it waits for at most.
const ROUNDS: u32 = 4;

/// The sysctl's old value, written back on drop.
struct Restore {
    knob: PathBuf,
    value: String,
}

impl Drop for Restore {
    fn drop(&mut self) {
        if let Err(error) = fs::write(&self.knob, &self.value) {
            eprintln!("can't set {} back to {}: {error}", self.knob.display(), self.value);
        }
    }
}

/// Trims the lists, in two to five seconds; returns the frames on them before and after.
pub(crate) fn settle() -> io::Result<(u64, u64)> {
    settle_in(Path::new("/proc"), || thread::sleep(PAUSE))
}

fn settle_in(proc: &Path, mut pause: impl FnMut()) -> io::Result<(u64, u64)> {
    let on_lists = || -> io::Result<u64> {
        let text = fs::read_to_string(proc.join("zoneinfo"))?;
        Ok(zoneinfo::parse(&text).iter().map(|zone| zone.per_cpu).sum())
    };
    let before = on_lists()?;
    let knob = proc.join("sys/vm/percpu_pagelist_high_fraction");
    let value = fs::read_to_string(&knob)?.trim().to_owned();
    fs::write(&knob, SHORTEST)?;
    let _restore = Restore { knob, value };
    let mut now = before;
    for round in 0..ROUNDS {
        pause();
        let last = std::mem::replace(&mut now, on_lists()?);
        // The first pause may have ended just ahead of a trim.
        if round > 0 && now + now / 8 >= last {
            break;
        }
    }
    Ok((before, now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_old_value_comes_back_whether_it_works_or_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let (zones, knob) =
            (folder.path().join("zoneinfo"), folder.path().join("sys/vm/percpu_pagelist_high_fraction"));
        fs::create_dir_all(folder.path().join("sys/vm")).expect("makes");
        fs::write(&zones, "Node 0, zone Normal\n spanned 9\n present 9\n count: 5\n count: 6\n").expect("writes");
        assert!(settle_in(folder.path(), || ()).is_err(), "there is no sysctl");
        fs::write(&knob, "8\n").expect("writes");
        assert_eq!(settle_in(folder.path(), || ()).expect("settles"), (11, 11));
        assert_eq!(fs::read_to_string(&knob).expect("reads"), "8");

        // While it waits, the sysctl must be set; then the zones become unreadable, and still the value comes back.
        let mut set = None;
        let result = settle_in(folder.path(), || {
            set = Some(fs::read_to_string(&knob).expect("reads"));
            fs::remove_file(&zones).expect("removes");
        });
        assert_eq!(set.as_deref(), Some(SHORTEST));
        assert!(result.is_err());
        assert_eq!(fs::read_to_string(&knob).expect("reads"), "8");
    }
}
