//! `pagemove watch`, `record` and `replay` as a user starts them: in a terminal, whose screen and modes are looked at, and
//! with their lines in a pipe.

use std::{
    fs::{self, File},
    io::{Read, Write},
    num::NonZero,
    path::Path,
    process::{Command, Output, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};
use tempfile::TempDir;
use vt100::Parser;

const BINARY: &str = env!("CARGO_BIN_EXE_pagemove");
/// Takes the screen; puts it back, and shows the cursor.
const ENTERED: &[u8] = b"\x1b[?1049h";
const LEFT: &[u8] = b"\x1b[?1049l\x1b[?25h";
/// Under a shell, as a user starts it: a stopped program needs one. It tells the terminal's modes before and after.
const SCRIPT: &str =
    "stty -a >$0/before; sh -c 'echo $$ >$0/pid; exec \"$@\"' $0 \"$@\"; code=$?; stty -a >$0/after; exit $code";

/// The command in a terminal. Killed if a test fails before its end.
struct Terminal {
    master: Box<dyn MasterPty + Send>,
    keys: Box<dyn Write + Send>,
    child: Box<dyn Child + Send + Sync>,
    reader: Option<JoinHandle<()>>,
    written: Arc<Mutex<Vec<u8>>>,
    folder: TempDir,
    size: PtySize,
}

impl Terminal {
    fn start(line: &str, cols: u16, rows: u16, locale: &str) -> Self {
        let size = PtySize { rows, cols, ..PtySize::default() };
        let pair = native_pty_system().openpty(size).expect("a terminal");
        let folder = tempfile::tempdir().expect("a folder");
        let mut command = CommandBuilder::new("sh");
        command.args(["-c", SCRIPT]);
        command.arg(folder.path());
        command.arg(BINARY);
        command.args(line.split_whitespace());
        command.env("LC_ALL", locale);
        command.env("TERM", "xterm-256color");
        let child = pair.slave.spawn_command(command).expect("starts");
        let (mut from, keys) =
            (pair.master.try_clone_reader().expect("reads"), pair.master.take_writer().expect("writes"));
        let written = Arc::new(Mutex::new(Vec::new()));
        let to = written.clone();
        let reader = thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length @ 1..) = from.read(&mut bytes) {
                to.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&bytes[..length]);
            }
        });
        Self { master: pair.master, keys, child, reader: Some(reader), written, folder, size }
    }

    fn written(&self) -> Vec<u8> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is on the screen.
    fn screen(&self) -> vt100::Screen {
        let [rows, cols] = [self.size.rows, self.size.cols].map(|size| NonZero::new(size).expect("a size"));
        let mut parser = Parser::new(rows, cols, 0);
        parser.process(&self.written());
        parser.screen().clone()
    }

    fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        while !holds(self) {
            let ended = self.child.try_wait().expect("waits");
            assert!(ended.is_none(), "it ended before {what}: {ended:?}\n{}", self.screen().contents());
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn shows(&mut self, words: &str) {
        self.until(words, |terminal| terminal.screen().contents().contains(words));
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).and_then(|()| self.keys.flush()).expect("writes");
    }

    fn pid(&self) -> String {
        fs::read_to_string(self.folder.path().join("pid")).expect("it has started").trim().to_owned()
    }

    fn signal(&self, name: &str) {
        let killed = Command::new("kill").args([format!("-{name}"), self.pid()]).status();
        assert!(killed.expect("runs").success());
    }

    /// Waits for the end; gives the exit code. The terminal must be as it was.
    fn end(mut self) -> u32 {
        let code = self.child.wait().expect("it ends").exit_code();
        let modes = |name: &str| {
            let text = fs::read_to_string(self.folder.path().join(name)).expect("modes");
            // The first line has the size, which a test may have changed.
            text.split_once('\n').map(|(_, modes)| modes.to_owned())
        };
        let modes = ["before", "after"].map(modes);
        assert!(modes[0].as_ref().is_some_and(|modes| modes.contains(" icanon ")) && modes[0] == modes[1], "{modes:?}");
        let reader = self.reader.take().expect("once");
        // All of what it wrote: the last one that has the terminal open is the reader.
        reader.join().expect("reads");
        let (written, screen) = (self.written(), self.screen());
        assert!(!screen.alternate_screen() && !screen.hide_cursor(), "the screen wasn't put back");
        let at = |what: &[u8]| written.windows(what.len()).rposition(|part| part == what);
        let (left, entered) = (at(LEFT).expect("it left"), at(ENTERED).expect("it entered"));
        assert!(left > entered && !written[left + LEFT.len()..].contains(&0x1b), "what puts it back isn't the last");
        code
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Ok(pid) = fs::read_to_string(self.folder.path().join("pid")) {
            let _ = Command::new("kill").args(["-KILL", pid.trim()]).stderr(Stdio::null()).status();
        }
        let _ = self.child.kill();
    }
}

#[test]
fn keys_answer_and_q_puts_the_screen_back() {
    let mut terminal = Terminal::start("watch --layout sample", 80, 24, "C.UTF-8");
    terminal.shows("owners of hostage blocks, by alone");
    assert!(terminal.screen().alternate_screen() && terminal.screen().hide_cursor());
    let text = terminal.screen().contents();
    assert!(text.contains("█ 20 free") && text.contains("of 1,024, each 2 MiB"), "{text}");
    terminal.press("s");
    terminal.shows("by change of alone");
    terminal.press("r");
    terminal.shows("by change of alone, reversed");
    terminal.press("?");
    terminal.shows("sort by the next column");
    terminal.press("\x1b");
    terminal.shows("by change of alone, reversed");
    terminal.size = PtySize { rows: 10, cols: 40, ..terminal.size };
    terminal.master.resize(terminal.size).expect("another size");
    terminal.until("the other size", |terminal| {
        let text = terminal.screen().contents();
        text.lines().last().is_some_and(|last| last == "q end  ? help  s sort  r reverse") && text.contains("free")
    });
    terminal.press("q");
    assert_eq!(terminal.end(), 0);
}

#[test]
fn signals_and_ctrl_c_put_the_screen_back() {
    for how in ["TERM", "HUP", "INT", "\x03"] {
        let mut terminal = Terminal::start("watch --layout sample", 80, 24, "C");
        terminal.shows("owners of hostage blocks");
        assert!(terminal.screen().contents().is_ascii());
        match how {
            "\x03" => terminal.press(how),
            name => terminal.signal(name),
        }
        assert_eq!(terminal.end(), 130, "{how:?}");
    }
}

#[test]
fn a_stopped_one_leaves_the_screen_and_takes_it_again() {
    let mut terminal = Terminal::start("watch --layout sample", 80, 24, "C.UTF-8");
    terminal.shows("owners of hostage blocks");
    for how in ["\x1a", "TSTP"] {
        match how {
            "\x1a" => terminal.press(how),
            name => terminal.signal(name),
        }
        let stat = format!("/proc/{}/stat", terminal.pid());
        terminal.until("it is stopped", |_| fs::read_to_string(&stat).is_ok_and(|text| text.contains(") T ")));
        terminal.until("the screen is left", |terminal| !terminal.screen().alternate_screen());
        assert!(!terminal.screen().hide_cursor());
        terminal.signal("CONT");
        terminal.until("the screen is taken", |terminal| terminal.screen().alternate_screen());
        terminal.shows("owners of hostage blocks");
    }
    terminal.press("q");
    assert_eq!(terminal.end(), 0);
}

#[test]
fn what_cant_be_read_ends_it_with_the_screen_put_back() {
    let terminal = Terminal::start("watch --layout /nonexistent", 80, 24, "C.UTF-8");
    let written = terminal.written.clone();
    assert_eq!(terminal.end(), 2);
    let text = String::from_utf8_lossy(&written.lock().unwrap_or_else(PoisonError::into_inner)).into_owned();
    assert!(text.contains("pagemove: can't read /nonexistent"), "{text}");
}

fn run(line: &str, locale: &str) -> (Option<i32>, String, String) {
    let mut command = Command::new(BINARY);
    command.args(line.split_whitespace()).env("LC_ALL", locale).stdin(Stdio::null());
    let Output { status, stdout, stderr } = command.output().expect("the command starts");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn lines_where_there_is_no_terminal() {
    let (code, text, stderr) = run("watch --layout sample", "C");
    assert_eq!((code, stderr.as_str(), text.is_ascii()), (Some(0), "", true), "{text}");
    assert!(text.contains("blocks of 2 MiB: ") && text.lines().count() == 7 && !text.contains('\x1b'), "{text}");
    let (code, text, stderr) = run("watch --once", "C.UTF-8");
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{text}");
    assert!(text.contains("wholly free") || text.contains("As root") || text.contains("With a kernel"), "{text}");
    for (line, words) in [
        ("watch --layout /nonexistent", "No such file or directory"),
        ("watch --interval 0", "0 is not in"),
        ("watch --interval x", "invalid"),
    ] {
        let (code, _, stderr) = run(line, "C.UTF-8");
        assert!(code == Some(2) && stderr.contains(words), "{line}: {code:?}, {stderr}");
    }
    let full = File::options().write(true).open("/dev/full").expect("opens");
    let code = Command::new(BINARY).args(["watch", "--once"]).stdout(full).stderr(Stdio::null()).status();
    assert_eq!(code.expect("starts").code(), Some(2), "stdout is full");
}

/// A reader that has seen enough ends it quietly, whatever the interval.
#[test]
fn a_closed_pipe_ends_it() {
    let mut command = Command::new(BINARY);
    command.args(["watch", "--interval", "86400"]).stdin(Stdio::null());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    let mut byte = [0];
    child.stdout.take().expect("a pipe").read_exact(&mut byte).expect("a line");
    let Output { status, stderr, .. } = child.wait_with_output().expect("it ends");
    assert_eq!((status.code(), String::from_utf8_lossy(&stderr).as_ref()), (Some(0), ""));
}

/// Records the sample so many times.
fn record(dir: &Path, count: u64) {
    let line = format!("record {} --layout sample --interval 1 --count {count}", dir.display());
    let (code, stdout, stderr) = run(&line, "C.UTF-8");
    assert_eq!((code, stdout.as_str()), (Some(0), ""), "{stderr}");
    // On a slow machine it has said before that captures lie further apart.
    let last = stderr.lines().last().unwrap_or_default();
    assert!(last.starts_with("Recorded ") && last.contains(" bytes."), "{stderr}");
}

#[test]
fn what_is_recorded_is_replayed() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().join("recording");
    record(&dir, 1);
    record(&dir, 2);
    fs::write(dir.join("notes"), "").expect("writes");
    let (code, text, stderr) = run(&format!("replay {}", dir.display()), "C");
    assert_eq!((code, stderr.as_str()), (Some(0), "Passed over notes: it isn't a capture's.\n"));
    assert!(text.is_ascii() && text.contains("\nbefore: ") && text.contains("No block became hostages."), "{text}");
    let lines: Vec<_> = text.lines().take_while(|line| !line.is_empty()).collect();
    assert!(
        lines.len() == 3 && lines.iter().all(|line| line.contains("20 free") && line.ends_with("kernel 96")),
        "{text}"
    );
    // What is saved is a layout as any other.
    let layout = fs::read_dir(&dir).expect("reads").map(|entry| entry.expect("a file").path());
    let layout = layout.into_iter().find(|path| path.extension().is_some_and(|end| end == "layout")).expect("one");
    assert!(run(&format!("survey --layout {} --json", layout.display()), "C").0 == Some(0));

    let rows = [
        (format!("replay {} --from 2200-01-01", dir.display()), "has no capture of that time"),
        (format!("replay {} --from yesterday", dir.display()), "a time is one such as"),
        (format!("replay {}", dir.join("none").display()), "No such file or directory"),
        (format!("replay {}", dir.join("notes").display()), "can't use the folder"),
        (format!("record {}", dir.join("notes").display()), "can't use the folder"),
        (format!("record {} --layout /nonexistent", dir.display()), "can't read /nonexistent"),
        (format!("record {} --layout sample --most-bytes 10", dir.display()), "more than --most-bytes: 10"),
        (format!("record {} --most-bytes 10X", dir.display()), "a size is a number of bytes"),
    ];
    for (line, words) in rows {
        let (code, _, stderr) = run(&line, "C.UTF-8");
        assert!(code == Some(2) && stderr.contains(words), "{line}: {code:?}, {stderr}");
    }
    let (code, ..) = run(&format!("record {} --layout /nonexistent", folder.path().join("new").display()), "C.UTF-8");
    assert!(code == Some(2) && !folder.path().join("new").exists(), "a folder is left of what failed");
    let empty = tempfile::tempdir().expect("a folder");
    let (code, _, stderr) = run(&format!("replay {}", empty.path().display()), "C.UTF-8");
    assert!(code == Some(2) && stderr.contains("has no capture: pagemove record makes them"), "{stderr}");
}

#[test]
fn a_recording_on_the_screen() {
    let folder = tempfile::tempdir().expect("a folder");
    record(folder.path(), 3);
    let mut terminal = Terminal::start(&format!("replay {}", folder.path().display()), 80, 24, "C.UTF-8");
    terminal.shows("UTC, 1 of 3");
    terminal.press("\x1b[C");
    terminal.shows("UTC, 2 of 3");
    terminal.press("\x1b[F");
    terminal.shows("UTC, 3 of 3");
    terminal.press("\x1b[D");
    terminal.shows("UTC, 2 of 3");
    // From there it plays to the end.
    terminal.press(" ");
    terminal.shows("UTC, 3 of 3");
    terminal.press("q");
    assert_eq!(terminal.end(), 0);
    let mut terminal = Terminal::start(&format!("replay {}", folder.path().display()), 40, 10, "C");
    terminal.shows("held by");
    terminal.signal("TERM");
    assert_eq!(terminal.end(), 130);
}

/// A signal, also a second one, ends it with whole files only; meanwhile no other program records into the folder.
#[test]
fn recording_is_for_one_and_a_signal_ends_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path();
    for signal in ["INT", "TERM", "HUP"] {
        let mut command = Command::new(BINARY);
        command.args(["record", "--layout", "sample", "--interval", "86400"]).arg(dir).stderr(Stdio::piped());
        let before = fs::read_dir(dir).expect("reads").count();
        let child = command.spawn().expect("starts");
        let is_whole = |entry: &fs::DirEntry| !entry.file_name().to_string_lossy().starts_with('.');
        while fs::read_dir(dir).expect("reads").flatten().filter(is_whole).count() < before + 2 {
            thread::sleep(Duration::from_millis(5));
        }
        let (code, _, stderr) = run(&format!("record {} --layout sample --count 1", dir.display()), "C.UTF-8");
        assert!(code == Some(2) && stderr.contains("another pagemove records into"), "{code:?}, {stderr}");
        for _ in 0..2 {
            let _ = Command::new("kill")
                .args([format!("-{signal}"), child.id().to_string()])
                .stderr(Stdio::null())
                .status();
        }
        let Output { status, stderr, .. } = child.wait_with_output().expect("it ends");
        let stderr = String::from_utf8_lossy(&stderr);
        assert!(status.code() == Some(130) && stderr.contains("Recorded 1 capture;"), "{signal}: {status}, {stderr}");
        let names: Vec<_> = fs::read_dir(dir).expect("reads").flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(names.len(), before + 2, "{names:?}");
    }
}
