//! `pagemove soak` as a user starts it: some seconds of everything at once, Ctrl-C, and bad input.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Command, Output, Stdio},
};

fn soak(line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pagemove"));
    command.arg("soak").args(line.split_whitespace());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

#[test]
fn everything_at_once_for_some_seconds_on_either_tlb() {
    for tlb in ["host", "soft"] {
        // Every deed is done, and pages move: else nothing was tried. A busy machine may need longer for that.
        let done = ["0.05", "0.2", "1"].into_iter().any(|minutes| {
            let line = format!("--minutes {minutes} --memory 128M --seed 7 --tlb {tlb}");
            let Output { status, stdout, stderr } = soak(&line).output().expect("the command starts");
            let (told, stderr) = (text(&stdout), text(&stderr));
            assert_eq!(status.code(), Some(0), "{line}: {stderr}");
            assert!(told.contains("seed 7, 128 MiB") && told.contains("none wrong"), "{told}");
            assert!(stderr.starts_with("Seed: 7.\n"), "{stderr}");
            println!("{told}");
            ![": 0,", ": 0;", " 0 words", "\n0 pages moved"].iter().any(|nothing| told.contains(nothing))
        });
        assert!(done, "something was never done, as told above");
    }
}

#[test]
fn ctrl_c_ends_it_with_what_was_done_so_far() {
    let line = "--minutes 60 --memory 64M";
    let mut child = soak(line).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the command starts");
    let mut messages = BufReader::new(child.stderr.take().expect("a pipe"));
    let mut stderr = String::new();
    // The second one comes when everything is under way.
    for _ in 0..2 {
        messages.read_line(&mut stderr).expect("a message");
    }
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(kill.expect("kill").success());
    messages.read_to_string(&mut stderr).expect("messages");
    let output = child.wait_with_output().expect("ends");
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(stderr.ends_with("pagemove: stopped; everything was right so far\n"), "{stderr}");
    let told = text(&output.stdout);
    // Once at least: the round ends where it is, or the signal comes after it.
    assert!(told.contains(" checks of all memory") && !told.contains(": 0 checks"), "{told}");
}

#[test]
fn bad_input_is_refused_in_a_sentence() {
    for (line, word) in [
        ("--minutes 0", "more than 0"),
        ("--minutes soon", "0.5"),
        ("--memory 1M", "64M"),
        ("--seed x", "--seed"),
        ("--tlb none", "soft, host"),
        ("--minutes 1 --memory 900G", "memory"),
        ("--layout sample", "--layout"),
    ] {
        let output = soak(line).output().expect("the command starts");
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{line}: {stderr}");
        assert!(stderr.contains(word) && output.stdout.is_empty(), "{word:?} is not in what `{line}` says: {stderr}");
    }
}
