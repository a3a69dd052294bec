//! `pagemove assets` as a packager starts it.

use std::process::{Command, Output};

fn pagemove(arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pagemove"));
    let Output { status, stdout, stderr } = command.args(arguments).output().expect("starts");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn it_writes_files_or_says_why_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().to_str().expect("UTF-8");
    assert_eq!(pagemove(&["assets", path]), (Some(0), String::new(), String::new()));
    assert!(folder.path().join("man/pagemove-survey.1").is_file());
    let (code, _, stderr) = pagemove(&["assets", "/dev/null"]);
    assert_eq!((code, stderr.lines().count()), (Some(2), 1), "{stderr}");
    assert!(stderr.starts_with("pagemove: can't make the folder /dev/null/man: "), "{stderr}");
    assert_eq!(pagemove(&["assets"]).0, Some(2));
}

#[test]
fn help_doesnt_list_it_and_the_version_names_the_command() {
    let (_, help, _) = pagemove(&["--help"]);
    assert!(help.contains("survey") && !help.contains("assets"), "{help}");
    assert_eq!(pagemove(&["--version"]).1, concat!("pagemove ", env!("CARGO_PKG_VERSION"), "\n"));
}
