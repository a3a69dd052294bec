//! `pagemove survey --why` as a user starts it. Where this process may trace, Linux compacts meanwhile, and the events of
//! that are counted; whatever ends the command, its tracing instance is gone. Elsewhere it says why it can't, and exits with 2.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio, id},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use serde_json::Value;

const COMPACT: &str = "/proc/sys/vm/compact_memory";
/// So long that only a signal ends it.
const ENDLESS: &str = "--why 100000 --json";

/// Each run removes what killed ones left, so a test that leaves something must be alone; so must a probe.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn survey(line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pagemove"));
    command.arg("survey").args(line.split_whitespace()).env("LC_ALL", "C.UTF-8");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(line: &str) -> (Option<i32>, String, String) {
    told(survey(line).spawn().expect("the command starts"))
}

fn told(child: Child) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = child.wait_with_output().expect("it ends");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (status.code(), text(stdout), text(stderr))
}

/// The folder of instances, if this process may make one.
fn instances() -> Option<PathBuf> {
    let folder = ["/sys/kernel/tracing/instances", "/sys/kernel/debug/tracing/instances"]
        .into_iter()
        .find(|folder| fs::metadata(folder).is_ok())?;
    let probe = Path::new(folder).join(format!("pagemove-probe-{}", id()));
    fs::create_dir(&probe).and_then(|()| fs::remove_dir(&probe)).ok()?;
    Some(folder.into())
}

/// One that watches until a signal comes. Killed if a test fails before that.
struct Watching {
    child: Option<Child>,
    instance: PathBuf,
}

impl Watching {
    /// Starts it, and waits until it watches.
    fn start(instances: &Path) -> Self {
        let child = survey(ENDLESS).spawn().expect("the command starts");
        let instance = instances.join(format!("pagemove-{}", child.id()));
        // The last event that is enabled.
        let enable = instance.join("events/kmem/mm_page_alloc_extfrag/enable");
        let mut watching = Self { child: Some(child), instance };
        while !fs::read_to_string(&enable).is_ok_and(|text| text.starts_with('1')) {
            if watching.child().try_wait().expect("waits").is_some() {
                panic!("it ended: {:?}", watching.end());
            }
            thread::sleep(Duration::from_millis(5));
        }
        watching
    }

    fn child(&mut self) -> &mut Child {
        self.child.as_mut().expect("it wasn't waited for")
    }

    fn signal(&mut self, name: &str) {
        let killed = Command::new("kill").args([format!("-{name}"), self.child().id().to_string()]).status();
        assert!(killed.expect("runs").success());
    }

    fn end(&mut self) -> (Option<i32>, String, String) {
        told(self.child.take().expect("it wasn't waited for"))
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn events_are_counted_and_a_signal_leaves_no_instance() {
    let _alone = alone();
    let Some(instances) = instances().filter(|_| fs::metadata(COMPACT).is_ok()) else { return };
    for name in ["INT", "TERM", "HUP"] {
        let mut watching = Watching::start(&instances);
        fs::write(COMPACT, "1").expect("compacts");
        watching.signal(name);
        let (code, json, stderr) = watching.end();
        assert_eq!(code, Some(130), "{name}: {stderr}");
        assert!(!watching.instance.exists(), "{name} left {}", watching.instance.display());
        assert!(!stderr.contains("can't"), "{stderr}");
        let report: Value = serde_json::from_str(&json).expect("one JSON object");
        let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("no number in {report}"));
        assert_eq!(report["interrupted"], true);
        assert_eq!(number(&report["unreadable_lines"]), 0, "{report}");
        let runs = report["runs"].as_array().expect("runs");
        let of_all = |run: &&Value| run["order"] == -1 && run["node"].is_u64() && run["mode"] == "sync";
        // With lost events a run's order may be lost.
        assert!(runs.iter().any(|run| of_all(&run)) || number(&report["lost_events"]) > 0, "{report}");
        assert!(number(&report["events"]) > 2 && number(&report["compaction"]["scanned_pages"]) > 0, "{report}");
        let took = report["compaction"]["seconds"].as_f64().expect("a number");
        assert!(took > 0.0 || number(&report["lost_events"]) > 0, "{report}");
    }
}

#[test]
fn what_a_killed_one_left_goes_with_the_next() {
    let _alone = alone();
    let Some(instances) = instances() else { return };
    let mut killed = Watching::start(&instances);
    let mut other = Watching::start(&instances);
    assert!(killed.instance.exists(), "the second one removed that of the first one, which runs");
    killed.child().kill().expect("kills");
    // Not waited for: while its process is a zombie, its instance must be removed as well. It is one once its files are closed.
    let status = format!("/proc/{}/status", killed.child().id());
    while !fs::read_to_string(&status).expect("reads").contains("State:\tZ") {
        thread::sleep(Duration::from_millis(5));
    }
    assert!(killed.instance.exists(), "there is nothing to remove");
    let (code, text, stderr) = run("--why 1");
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{text}");
    assert!(text.starts_with("Watched Linux for ") || text.starts_with("In "), "{text}");
    assert!(!killed.instance.exists(), "it was left");
    assert!(other.instance.exists(), "the next one removed that of one that runs");
    other.signal("TERM");
    other.end();
    assert!(!other.instance.exists());
}

#[test]
fn who_may_not_trace_is_told_so() {
    let _alone = alone();
    if instances().is_some() {
        return;
    }
    let (code, text, stderr) = run("--why 1");
    assert_eq!((code, text.as_str()), (Some(2), ""), "{stderr}");
    assert!(stderr.starts_with("pagemove: can't watch what Linux does: "), "{stderr}");
}

#[test]
fn what_makes_no_sense_with_it_is_refused() {
    for other in
        ["--explain 1", "--openmetrics", "--textfile x", "--save x", "--blocks 1", "--threshold 1", "--try", "--settle"]
    {
        let (code, _, stderr) = run(&format!("--why 1 {other}"));
        assert!(code == Some(2) && stderr.contains("cannot be used with"), "{other}: {code:?}, {stderr}");
    }
    let rows = [("--why 0", "0 is not in"), ("--why x", "invalid"), ("--why 1 --layout sample", "--layout live only")];
    for (line, words) in rows {
        let (code, _, stderr) = run(line);
        assert!(code == Some(2) && stderr.contains(words), "{line}: {code:?}, {stderr}");
    }
}
