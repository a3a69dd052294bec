//! `docs/cases.md` names a test for each of others' cases: every test that it names exists in the file that it names, and
//! every test that is called after another suite's case is named there.

use std::{collections::BTreeSet, fs, path::Path};

/// What tests of others' cases begin with.
const ORIGINS: [&str; 6] = ["selftests_", "hmm_", "ltp_", "stress_ng_", "mmtests_", "past_bug_"];

/// All tests: file and name.
fn tests() -> BTreeSet<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut found = BTreeSet::new();
    for file in fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()).filter(|name| name.ends_with(".rs")) else {
            continue;
        };
        let text = fs::read_to_string(&path).unwrap();
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            if line == "#[test]"
                && let Some(test) = lines.next().and_then(|line| line.strip_prefix("fn ")?.split('(').next())
            {
                found.insert((name.to_owned(), test.to_owned()));
            }
        }
    }
    found
}

/// Those that the page names: cells of the form `file.rs`: `test`, `test`.
fn listed() -> BTreeSet<(String, String)> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cases.md");
    let text = fs::read_to_string(page).unwrap();
    let mut found = BTreeSet::new();
    for row in text.lines().filter(|line| line.starts_with('|')) {
        let mut file = None;
        for quoted in row.split('`').skip(1).step_by(2) {
            if quoted.ends_with(".rs") {
                file = Some(quoted.to_owned());
            } else if let Some(file) = &file {
                found.insert((file.clone(), quoted.to_owned()));
            }
        }
    }
    found
}

#[test]
fn every_test_that_the_page_names_exists() {
    let (tests, listed) = (tests(), listed());
    let missing: Vec<_> = listed.difference(&tests).collect();
    assert!(missing.is_empty(), "docs/cases.md names tests that are not there: {missing:?}");
}

#[test]
fn every_test_of_anothers_case_is_on_the_page() {
    let (tests, listed) = (tests(), listed());
    let of_others = |(_, test): &&(String, String)| ORIGINS.iter().any(|origin| test.starts_with(origin));
    let unlisted: Vec<_> = tests.difference(&listed).filter(of_others).collect();
    assert!(unlisted.is_empty(), "docs/cases.md does not name {unlisted:?}");
    assert!(tests.iter().filter(of_others).count() >= 60, "too few tests were found");
}
