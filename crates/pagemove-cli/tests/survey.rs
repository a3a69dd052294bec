//! `pagemove survey` as a user starts it: what it prints in each form, its exit codes, and what it does to files, pipes and signals.

use std::{
    fs::{self, File},
    path::Path,
    process::{Command, Output, Stdio},
    thread,
    time::Duration,
};

use serde_json::Value;

fn survey(line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pagemove"));
    command.arg("survey").args(line.split_whitespace()).env("LC_ALL", "C.UTF-8");
    command
}

fn run(line: &str) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = survey(line).output().expect("the command starts");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (status.code(), text(stdout), text(stderr))
}

fn number(value: &Value, field: &str) -> u64 {
    value[field].as_u64().unwrap_or_else(|| panic!("no number {field} in {value}"))
}

#[test]
fn the_sample_in_each_form() {
    let (code, text, stderr) = run("--layout sample");
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    for words in ["1,024 pageblocks of 2 MiB", "hostage blocks held by", "most would be gained with", "█"] {
        assert!(text.contains(words), "{words:?} isn't in\n{text}");
    }
    let ascii = survey("--layout sample").env("LC_ALL", "C").output().expect("the command starts");
    assert!(ascii.stdout.is_ascii() && ascii.stdout.len() > 1000);

    let (code, json, _) = run("--layout sample --json");
    let all: Value = serde_json::from_str(&json).expect("one JSON object");
    let owners = all["owners"].as_array().expect("owners");
    assert_eq!((code, number(&all, "frame_bytes"), number(&all, "pageblock_order")), (Some(0), 4096, 9));
    let hostages = number(&all["total"]["blocks"], "hostage");
    assert!(owners.len() > 3 && owners.iter().all(|owner| number(owner, "alone") <= number(owner, "blocks")));
    assert!(owners.iter().map(|owner| number(owner, "alone")).sum::<u64>() <= hostages);
    assert!(owners.iter().map(|owner| number(owner, "blocks")).sum::<u64>() >= hostages);

    let (code, metrics, _) = run("--layout sample --openmetrics");
    assert_eq!(code, Some(0));
    let row = metrics.lines().find(|line| line.starts_with("pagemove_hostage_blocks{owner=\"kernel\"}"));
    assert!(row.is_some() && metrics.ends_with("# EOF\n"), "{metrics}");

    let (code, block, _) = run("--layout sample --explain 0x200");
    assert!(code == Some(0) && block.starts_with("PFN 0x200 to 0x3ff, zone "), "{block}");
}

#[test]
fn a_report_is_one_file_and_appears_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let (code, _, stderr) = run(&format!("--layout sample --report {}/new/folder", folder.display()));
    let page = fs::read_to_string(folder.join("new/folder/survey.html")).expect("the page");
    assert!(code == Some(0) && stderr.contains("survey.html"), "{stderr}");
    assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>"), "{page:.100}");
    assert_eq!(fs::read_dir(folder.join("new/folder")).expect("the folder").count(), 1);
    // What a path has can't steer the terminal.
    let steering = folder.join("a\u{1b}[31m.layout");
    let output = survey("--layout sample --save").arg(&steering).output().expect("the command starts");
    let said = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(steering.exists() && said.starts_with("Saved 1,024 pageblocks") && !said.contains('\u{1b}'), "{said:?}");
    // A file where the folder should be: said before the work.
    File::create(folder.join("file")).expect("a file");
    let (code, stdout, stderr) = run(&format!("--layout sample --report {}/file", folder.display()));
    assert!(code == Some(2) && stdout.is_empty() && stderr.contains("name another folder with --report"), "{stderr}");
}

#[test]
fn two_layouts_are_compared() {
    let diff = |line: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pagemove"));
        let Output { status, stdout, .. } = command.arg("diff").args(line.split_whitespace()).output().expect("starts");
        (status.code(), String::from_utf8(stdout).expect("UTF-8"))
    };
    let folder = tempfile::tempdir().expect("a folder");
    let half = folder.path().join("half.layout").display().to_string();
    assert_eq!(run(&format!("--layout sample --blocks 512 --save {half}")).0, Some(0));
    let (code, json) = diff(&format!("sample {half} --json"));
    let all: Value = serde_json::from_str(&json).expect("one JSON object");
    assert_eq!(code, Some(0));
    assert_eq!(number(&all, "only_before"), 512);
    let (code, text) = diff("sample sample");
    assert!(code == Some(0) && text.contains("No block became hostages."), "{text}");
    assert_eq!(diff("sample /nonexistent").0, Some(2));
}

#[test]
fn exit_codes() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    fs::write(path("bad"), "no layout").expect("writes");
    let rows = [
        ("--layout sample --threshold 1".to_owned(), 0, ""),
        ("--layout sample --threshold 1025".to_owned(), 1, "fewer blocks"),
        ("--layout sample --explain 0xffffffff".to_owned(), 2, "is in no pageblock"),
        ("--layout sample --explain 1f".to_owned(), 2, "a PFN is a number"),
        (format!("--layout sample --save {}", path("none/x")), 2, "No such file or directory"),
        (format!("--layout sample --textfile {}", path("none/x")), 2, "No such file or directory"),
        (format!("--layout {}", path("bad")), 2, "not a layout file"),
        (format!("--layout {}", path("none")), 2, "No such file or directory"),
    ];
    for (line, expected, words) in rows {
        let (code, _, stderr) = run(&line);
        assert!(code == Some(expected) && stderr.contains(words), "{line}: {code:?}, {stderr}");
    }
    let full = File::options().write(true).open("/dev/full").expect("opens");
    let code = survey("--layout sample").stdout(full).stderr(Stdio::null()).status().expect("starts").code();
    assert_eq!(code, Some(2), "stdout is full");
}

/// Files are there whole or not at all, and nothing else is left beside them.
#[test]
fn files_that_it_writes() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let line = format!("--layout sample --save {} --textfile {}", path("a.layout").display(), path("a.prom").display());
    assert_eq!(run(&line).0, Some(0));
    let (_, again, _) = run(&format!("--layout {} --json", path("a.layout").display()));
    assert_eq!(again, run("--layout sample --json").1, "what was saved is what was seen");
    let metrics = fs::read_to_string(path("a.prom")).expect("reads");
    assert!(metrics.contains("pagemove_blocks{") && !metrics.contains("# EOF"));
    assert_eq!(fs::read_dir(folder.path()).expect("lists").count(), 2, "a temporary file stayed");
    assert_eq!(run("--layout sample --save /dev/null").0, Some(0));
    assert!(!Path::new("/dev/null").is_file());
}

/// A pipe from which nothing comes: Ctrl-C, TERM and HUP end the wait.
#[test]
fn signals_end_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let pipe = folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("runs").success());
    for signal in ["INT", "TERM", "HUP"] {
        let line = format!("--layout {}", pipe.display());
        let mut child = survey(&line).stderr(Stdio::null()).spawn().expect("starts");
        let status = format!("/proc/{}/status", child.id());
        // Once it catches signals: HUP, INT and TERM are the bits 0, 1 and 14.
        let catches = || {
            let text = fs::read_to_string(&status).unwrap_or_default();
            let caught = text.lines().find_map(|line| line.strip_prefix("SigCgt:"))?.trim();
            u64::from_str_radix(caught, 16).ok().filter(|bits| bits & 0x4003 == 0x4003)
        };
        while catches().is_none() {
            thread::sleep(Duration::from_millis(5));
        }
        // Again, if the first one came before the flag was there for it.
        let ended = loop {
            let killed = Command::new("kill").args([format!("-{signal}"), child.id().to_string()]).status();
            assert!(killed.expect("runs").success());
            if let Some(ended) = (0..100).find_map(|_| {
                thread::sleep(Duration::from_millis(5));
                child.try_wait().expect("waits")
            }) {
                break ended;
            }
        };
        assert_eq!(ended.code(), Some(130), "{signal}");
    }
}
