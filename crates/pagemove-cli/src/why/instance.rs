//! An instance of Linux' tracing of this program's own: other tracing isn't disturbed, nor does it disturb.
//!
//! Takes the folder where tracefs is mounted; gives lines of text. Mounts nothing. Promises that the instance goes
//! whatever ends the program: it is removed on drop, and one of a killed program by the next that makes one.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process,
};

use rustix::fs::OFlags;

use crate::message::say;

/// The events that say why memory isn't compacted or moved.
const EVENTS: [&str; 16] = [
    "compaction/mm_compaction_begin",
    "compaction/mm_compaction_end",
    "compaction/mm_compaction_finished",
    "compaction/mm_compaction_suitable",
    "compaction/mm_compaction_deferred",
    "compaction/mm_compaction_migratepages",
    "compaction/mm_compaction_isolate_migratepages",
    "compaction/mm_compaction_isolate_freepages",
    "compaction/mm_compaction_try_to_compact_pages",
    "compaction/mm_compaction_kcompactd_wake",
    "migrate/mm_migrate_pages",
    "cma/cma_alloc_start",
    "cma/cma_alloc_finish",
    "cma/cma_alloc_busy_retry",
    "page_isolation/test_pages_isolated",
    "kmem/mm_page_alloc_extfrag",
];
/// What the parser relies on; an instance inherits what somebody has set for all tracing.
const OPTIONS: [&str; 7] = ["nobin", "noraw", "nohex", "nofields", "nolatency-format", "context-info", "record-cmd"];
/// A clock that all CPUs share, so that the time of a task that changes CPU is right.
const CLOCK: &str = "mono";
/// An instance's name before the process's number.
const PREFIX: &str = "pagemove-";
/// Memory for events of all CPUs, unless that is too little or too much for one.
const BUFFERS_KIB: usize = 64 << 10;
const LEAST_KIB: usize = 1 << 10;
const MOST_KIB: usize = 4 << 10;
/// More than Linux gives at once.
const CHUNK: usize = 64 << 10;
/// Linux' own lines are shorter.
const LONGEST: usize = 16 << 10;

/// Why Linux can't be watched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TraceError {
    /// No tracefs.
    #[error("tracefs isn't mounted; mount it as root: mount -t tracefs nodev /sys/kernel/tracing")]
    NotMounted,
    /// A kernel built without.
    #[error("this kernel has no tracing; --why takes one that was built with CONFIG_TRACING")]
    NoTracing,
    /// Not for this user.
    #[error(
        "tracing takes root, and a kernel that isn't locked down: {path}: permission denied\n\
         Run it as root: sudo pagemove survey --why",
        path = .0.display()
    )]
    Permission(PathBuf),
    /// The instance of another program, which has the same number (in another namespace of processes).
    #[error("{path} is in use by another program; wait until it has ended", path = .0.display())]
    Busy(PathBuf),
    /// Nothing to watch.
    #[error("this kernel has none of the events that --why watches; it takes one built with CONFIG_COMPACTION")]
    NoEvents,
    /// A file of the system.
    #[error("{path}: {error}", path = path.display())]
    System {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

impl TraceError {
    fn of(path: &Path, error: io::Error) -> Self {
        let path = path.to_owned();
        match error.kind() {
            ErrorKind::PermissionDenied => Self::Permission(path),
            _ => Self::System { path, error },
        }
    }
}

/// Finds where tracefs is mounted; `sys` is `/sys`.
pub(super) fn find(sys: &Path) -> Result<PathBuf, TraceError> {
    let mut denied = None;
    for folder in ["kernel/tracing", "kernel/debug/tracing"].map(|folder| sys.join(folder)) {
        match fs::metadata(folder.join("instances")) {
            Ok(_) => return Ok(folder),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => denied = denied.or(Some(folder)),
            Err(_) => {}
        }
    }
    match denied {
        Some(folder) => Err(TraceError::Permission(folder)),
        None if sys.join("kernel/tracing").is_dir() => Err(TraceError::NotMounted),
        None => Err(TraceError::NoTracing),
    }
}

/// The instance; removed on drop.
#[derive(Debug)]
pub(super) struct Instance {
    folder: PathBuf,
    /// Open while events are read. Linux removes no instance that is read.
    pipe: Option<Pipe>,
}

impl Instance {
    /// Makes the instance of this process, without events yet; removes those that killed programs left.
    pub(super) fn make(tracefs: &Path, proc: &Path) -> Result<Self, TraceError> {
        let instances = tracefs.join("instances");
        remove_left(&instances, proc);
        let folder = instances.join(format!("{PREFIX}{}", process::id()));
        match fs::create_dir(&folder) {
            // A killed program had the same number.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let made = remove(&folder).and_then(|()| fs::create_dir(&folder));
                made.map_err(|_| TraceError::Busy(folder.clone()))?;
            }
            made => made.map_err(|error| TraceError::of(&folder, error))?,
        }
        Ok(Self { folder, pipe: None })
    }

    /// Begins to record; gives the events that this kernel doesn't have.
    pub(super) fn start(&mut self) -> Result<Vec<&'static str>, TraceError> {
        // With less of this a line may be unreadable, which is counted, or events be lost, which Linux says.
        for option in OPTIONS {
            let _ = set(&self.folder.join("trace_options"), option);
        }
        let _ = set(&self.folder.join("trace_clock"), CLOCK);
        let cpus = fs::read_dir(self.folder.join("per_cpu")).map_or(1, |cpus| cpus.count().max(1));
        let size = (BUFFERS_KIB / cpus).clamp(LEAST_KIB, MOST_KIB);
        let _ = set(&self.folder.join("buffer_size_kb"), &size.to_string());

        // The pipe takes clock and options as they are when it's opened.
        let path = self.folder.join("trace_pipe");
        self.pipe = Some(Pipe::open(&path).map_err(|error| TraceError::of(&path, error))?);
        let mut missing = Vec::new();
        for event in EVENTS {
            let path = self.folder.join("events").join(event).join("enable");
            match set(&path, "1") {
                Err(error) if error.kind() == ErrorKind::NotFound => missing.push(event),
                result => result.map_err(|error| TraceError::of(&path, error))?,
            }
        }
        if missing.len() == EVENTS.len() { Err(TraceError::NoEvents) } else { Ok(missing) }
    }

    /// Ends recording; what was recorded can still be read. Tells whether it could.
    pub(super) fn stop(&self) -> bool {
        set(&self.folder.join("tracing_on"), "0").is_ok()
    }

    /// Reads lines that are there, gives each to `each`, and doesn't wait; false if there is none.
    pub(super) fn read(&mut self, each: impl FnMut(&str)) -> Result<bool, TraceError> {
        let Some(pipe) = &mut self.pipe else { return Ok(false) };
        pipe.read(each).map_err(|error| TraceError::of(&self.folder.join("trace_pipe"), error))
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.pipe = None;
        if let Err(error) = remove(&self.folder) {
            let folder = self.folder.display();
            say(&format!("can't remove {folder}: {error}; when nobody reads it any more: rmdir {folder}"));
        }
    }
}

/// Writes to a file that is there.
fn set(path: &Path, value: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
}

/// Removes an instance, unless somebody reads it; Linux turns it off then. Its files go with it: they are the kernel's.
fn remove(folder: &Path) -> io::Result<()> {
    fs::remove_dir(folder)
}

/// Removes the instances of programs that were killed.
fn remove_left(instances: &Path, proc: &Path) {
    // What this user may not read, he may not make either, and is told so.
    for entry in fs::read_dir(instances).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse::<u32>().ok());
        // If it can't be removed, somebody reads it.
        if number.is_some_and(|number| number != process::id() && !runs(proc, number)) {
            let _ = remove(&entry.path());
        }
    }
}

/// Tells whether a process of this program has the number.
fn runs(proc: &Path, number: u32) -> bool {
    let status = |of: &str| fs::read_to_string(proc.join(of).join("status")).unwrap_or_default();
    let (theirs, ours) = (status(&number.to_string()), status("self"));
    let field = |text: &str, name: &str| text.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()));
    // One that is dead, but not waited for, has closed its files.
    let is_dead = field(&theirs, "State:").is_some_and(|state| state.starts_with(['Z', 'X']));
    !is_dead && field(&theirs, "Name:").is_some_and(|name| Some(name) == field(&ours, "Name:"))
}

/// The file `trace_pipe`, in lines.
#[derive(Debug)]
struct Pipe {
    file: File,
    chunk: Vec<u8>,
    /// The beginning of a line whose end isn't there yet.
    rest: Vec<u8>,
}

impl Pipe {
    fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        Ok(Self { file, chunk: vec![0; CHUNK], rest: Vec::new() })
    }

    fn read(&mut self, each: impl FnMut(&str)) -> io::Result<bool> {
        match self.file.read(&mut self.chunk) {
            Ok(0) => Ok(false),
            Ok(count) => {
                split(&mut self.rest, &self.chunk[..count], each);
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(true),
            Err(error) => Err(error),
        }
    }
}

/// Gives each whole line to `each`, and keeps the rest. A line without an end is given in pieces.
fn split(rest: &mut Vec<u8>, bytes: &[u8], mut each: impl FnMut(&str)) {
    for part in bytes.split_inclusive(|&byte| byte == b'\n') {
        rest.extend_from_slice(part);
        if part.ends_with(b"\n") || rest.len() > LONGEST {
            each(&String::from_utf8_lossy(rest));
            rest.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder in place of tracefs, and one of `/proc`. Unlike tracefs, it doesn't fill a new instance with files.
    struct Machine(tempfile::TempDir);

    impl Machine {
        fn new() -> Self {
            let machine = Self(tempfile::tempdir().expect("a folder"));
            fs::create_dir_all(machine.path().join("instances")).expect("makes");
            machine.process("self", "pagemove", "R (running)");
            machine
        }

        fn path(&self) -> &Path {
            self.0.path()
        }

        fn process(&self, number: &str, name: &str, state: &str) {
            fs::create_dir(self.path().join(number)).expect("makes");
            let status = format!("Name:\t{name}\nUmask:\t0022\nState:\t{state}\n");
            fs::write(self.path().join(number).join("status"), status).expect("writes");
        }

        fn instance(&self) -> Result<Instance, TraceError> {
            Instance::make(self.path(), self.path())
        }

        fn put(&self, name: &str) {
            fs::create_dir(self.path().join("instances").join(name)).expect("makes");
        }

        fn instances(&self) -> Vec<String> {
            let entries = fs::read_dir(self.path().join("instances")).expect("lists");
            let mut names: Vec<_> = entries.map(|entry| entry.expect("lists").file_name().into_string()).collect();
            names.sort();
            names.into_iter().map(|name| name.expect("UTF-8")).collect()
        }
    }

    #[test]
    fn it_goes_whether_it_works_or_not() {
        let machine = Machine::new();
        let mut instance = machine.instance().expect("makes");
        assert_eq!(machine.instances(), [format!("pagemove-{}", process::id())]);
        let failed = instance.start();
        assert!(matches!(failed, Err(TraceError::System { .. })), "there is no pipe: {failed:?}");
        drop(instance);
        assert_eq!(machine.instances(), [""; 0]);
        let panicked = std::panic::catch_unwind(|| {
            let _instance = machine.instance().expect("makes");
            assert_eq!(machine.instances().len(), 1);
            panic!("a bug");
        });
        assert!(panicked.is_err());
        assert_eq!(machine.instances(), [""; 0]);
    }

    #[test]
    fn what_killed_programs_left_goes_and_nothing_else() {
        let machine = Machine::new();
        machine.process("11", "pagemove", "S (sleeping)");
        machine.process("12", "bash", "S (sleeping)");
        machine.process("13", "pagemove", "Z (zombie)");
        let own = format!("pagemove-{}", process::id());
        for name in
            ["pagemove-10", "pagemove-11", "pagemove-12", "pagemove-13", "pagemove-", "pagemove-1x", "other", &own]
        {
            machine.put(name);
        }
        let instance = machine.instance().expect("makes");
        let mut others = vec![own.as_str(), "other", "pagemove-", "pagemove-11", "pagemove-1x"];
        others.sort_unstable();
        assert_eq!(machine.instances(), others);
        drop(instance);
        others.retain(|name| *name != own);
        assert_eq!(machine.instances(), others);
        // One that can't be removed, as if it were read.
        machine.put(&own);
        let on = machine.path().join("instances").join(&own).join("tracing_on");
        fs::write(&on, "1").expect("writes");
        assert!(matches!(machine.instance(), Err(TraceError::Busy(_))));
        assert_eq!(fs::read_to_string(&on).expect("reads"), "1", "it was switched off for who reads it");
        assert_eq!(machine.instances().len(), others.len() + 1, "it isn't this program's");
    }

    #[test]
    fn events_that_the_kernel_has_are_enabled() {
        let machine = Machine::new();
        let mut instance = Instance { folder: machine.path().join("instances/full"), pipe: None };
        machine.put("full");
        let file = |name: &str| instance.folder.join(name);
        fs::write(file("trace_pipe"), "one\ntwo").expect("writes");
        let on = file("events/migrate/mm_migrate_pages/enable");
        let (buffer, trace) = (file("buffer_size_kb"), file("tracing_on"));
        assert!(matches!(instance.start(), Err(TraceError::NoEvents)));
        fs::create_dir_all(on.parent().expect("a folder")).expect("makes");
        for name in [&on, &buffer, &trace] {
            fs::write(name, "").expect("writes");
        }
        let missing = instance.start().expect("starts");
        assert_eq!(missing.len(), EVENTS.len() - 1);
        assert!(!missing.contains(&"migrate/mm_migrate_pages"));
        assert_eq!(
            (fs::read_to_string(on).expect("reads"), fs::read_to_string(&buffer).expect("reads")),
            ("1".into(), "4096".into())
        );
        let mut lines = Vec::new();
        assert!(instance.read(|line| lines.push(line.to_owned())).expect("reads"));
        assert!(!instance.read(|line| lines.push(line.to_owned())).expect("reads"));
        assert_eq!(lines, ["one\n"]);
        assert!(instance.stop());
        assert_eq!(fs::read_to_string(trace).expect("reads"), "0");
        // As empty as tracefs shows it to rmdir.
        fs::remove_dir_all(&instance.folder).and_then(|()| fs::create_dir(&instance.folder)).expect("empties");
    }

    #[test]
    fn lines_come_whole() {
        let (mut rest, mut lines) = (Vec::new(), Vec::new());
        for bytes in [&b"on"[..], b"e\ntwo\n\xffthr", b"ee\n"] {
            split(&mut rest, bytes, |line| lines.push(line.to_owned()));
        }
        assert_eq!(lines, ["one\n", "two\n", "\u{fffd}three\n"]);
        let mut longest = 0;
        for _ in 0..100 {
            split(&mut rest, &[b'x'; 1000], |line| longest = longest.max(line.len()));
        }
        assert!(longest > LONGEST && rest.len() <= LONGEST, "an endless line takes memory without end");
    }

    #[test]
    fn where_it_is_mounted() {
        let machine = Machine::new();
        let folder = |name: &str| machine.path().join("kernel").join(name);
        assert!(matches!(find(machine.path()), Err(TraceError::NoTracing)));
        fs::create_dir_all(folder("tracing")).expect("makes");
        let sentence = find(machine.path()).expect_err("it isn't mounted").to_string();
        assert!(sentence.contains("mount -t tracefs nodev /sys/kernel/tracing"), "{sentence}");
        fs::create_dir_all(folder("debug/tracing/instances")).expect("makes");
        assert_eq!(find(machine.path()).expect("finds"), folder("debug/tracing"));
        fs::create_dir_all(folder("tracing/instances")).expect("makes");
        assert_eq!(find(machine.path()).expect("finds"), folder("tracing"));
    }

    #[test]
    fn who_may_not_is_told_to_be_root() {
        let denied = TraceError::of(Path::new("x"), ErrorKind::PermissionDenied.into());
        assert!(denied.to_string().contains("as root"), "{denied}");
        let full = TraceError::of(Path::new("x"), ErrorKind::StorageFull.into());
        assert!(matches!(full, TraceError::System { .. }));
    }
}
