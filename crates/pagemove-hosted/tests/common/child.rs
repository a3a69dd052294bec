//! Runs a test of this file again in a process of its own, for cases that end or change the whole program.

use std::process::{Command, Output};

const CASE: &str = "PAGEMOVE_TEST_CASE";

/// The case that this process is to run; nothing in the test run itself.
pub fn case() -> Option<String> {
    std::env::var(CASE).ok()
}

/// Runs `case` of `test` (which looks at [`case`] first) in a child.
pub fn run_case(test: &str, case: &str) -> Output {
    let program = std::env::current_exe().unwrap();
    let args = [test, "--exact", "--nocapture", "--test-threads=1"];
    let output = Command::new(program).args(args).env(CASE, case).output().unwrap();
    // A name that fits no test would pass for a test that passes.
    assert!(String::from_utf8_lossy(&output.stdout).contains("running 1 test"), "there is no test {test}");
    output
}
