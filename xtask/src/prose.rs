//! Checks committed files for what doesn't belong in them.
//!
//! Takes the files that git knows of; gives a line for each finding. Promises that no text file names a path that
//! exists on one machine only, that no Rust file is longer than [`MOST_LINES`], and that no Rust file leaves work
//! open (unfinished bodies, notes to self, tests that don't run). Files that are not text are passed over.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// A longer file holds more than one thing.
const MOST_LINES: usize = 800;

// Put together from parts, so that this file does not find itself.

/// Folders of the machines that the project was written on.
const MACHINE_PATHS: &[&str] = &[
    concat!("/wo", "rk/"),
    concat!("/tm", "p/wt"),
    concat!("/ro", "ot/"),
    concat!("/fa", "rm/"),
    concat!(".lib", "rary"),
];

/// What ends in a bracket or starts with a sign is looked for as it stands.
const UNFINISHED: &[&str] = &[concat!("todo", "!("), concat!("unimple", "mented!("), concat!("#[ig", "nore")];

/// Words are looked for as words: the `XXXXXX` of `mkstemp` is none of them.
const NOTES: &[&str] = &[concat!("FIX", "ME"), concat!("X", "XX")];

/// One thing found.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    line: usize,
    what: String,
}

/// Checks every file that git tracks under `root`.
///
/// # Errors
/// When something is found, after all of it has been printed; when git can't list the files.
pub(crate) fn run(root: &Path) -> Result<()> {
    let files = tracked(root)?;
    let mut found = 0;
    let mut texts = 0;
    for file in &files {
        let Some(text) = text_of(&root.join(file))? else {
            continue;
        };
        texts += 1;
        for Finding { line, what } in check(file, &text) {
            println!("{}:{line}: {what}", file.display());
            found += 1;
        }
    }
    if texts == 0 {
        bail!("git tracks no text file in {}, so nothing was checked", root.display());
    }
    if found > 0 {
        bail!("{found} findings in committed files, listed above");
    }
    println!("prose: {texts} text files, nothing found");
    Ok(())
}

/// The files in git's index, relative to `root`.
fn tracked(root: &Path) -> Result<Vec<PathBuf>> {
    // A clone that belongs to another user (a container's volume) is fine to list.
    let safe = format!("safe.directory={}", root.display());
    let output = Command::new("git")
        .args(["-c", &safe, "ls-files", "-z"])
        .current_dir(root)
        .output()
        .context("can't start git, which lists the committed files; install it")?;
    if !output.status.success() {
        let told = String::from_utf8_lossy(&output.stderr);
        bail!("git can't list the files of {}; this check needs a clone: {}", root.display(), told.trim());
    }
    let names = String::from_utf8(output.stdout).context("a tracked file's name is not UTF-8; rename it")?;
    Ok(names.split('\0').filter(|name| !name.is_empty()).map(PathBuf::from).collect())
}

/// What a file says, or `None` when it isn't text or is gone from the folder. A link says where it points.
fn text_of(file: &Path) -> Result<Option<String>> {
    let Ok(metadata) = fs::symlink_metadata(file) else {
        return Ok(None);
    };
    if metadata.is_symlink() {
        let target = fs::read_link(file).with_context(|| format!("can't read the link {}", file.display()))?;
        return Ok(Some(target.to_string_lossy().into_owned()));
    }
    if metadata.is_dir() {
        return Ok(None); // a submodule
    }
    let bytes = fs::read(file).with_context(|| format!("can't read {}", file.display()))?;
    Ok(if bytes.contains(&0) { None } else { String::from_utf8(bytes).ok() })
}

/// Everything wrong with one file.
fn check(file: &Path, text: &str) -> Vec<Finding> {
    let rust = file.extension().is_some_and(|extension| extension == "rs");
    let mut findings = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let mut found = |what| findings.push(Finding { line: at + 1, what });
        for path in MACHINE_PATHS.iter().filter(|path| line.contains(**path)) {
            found(format!("names `{path}`, which exists on one machine only; say it without the path"));
        }
        if !rust {
            continue;
        }
        for sign in UNFINISHED.iter().filter(|sign| line.contains(**sign)) {
            found(format!("has `{sign}`: finish it, or take it out"));
        }
        for note in NOTES.iter().filter(|note| contains_word(line, note)) {
            found(format!("has `{note}`: do it, or say plainly what doesn't work and why"));
        }
    }
    let lines = text.lines().count();
    if rust && lines > MOST_LINES {
        findings.push(Finding { line: lines, what: format!("has {lines} lines, {MOST_LINES} at most: split it") });
    }
    findings
}

/// Whether `word` stands in `line` with no letter, digit or underscore beside it.
fn contains_word(line: &str, word: &str) -> bool {
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word)
        .any(|(at, _)| !line[..at].ends_with(part_of_word) && !line[at + word.len()..].starts_with(part_of_word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_found(file: &str, text: &str) -> Vec<usize> {
        check(Path::new(file), text).into_iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn every_machine_path_is_found_in_any_text() {
        for path in MACHINE_PATHS {
            assert_eq!(lines_found("README.md", &format!("one\nsee {path}thing\n")), [2], "{path}");
        }
    }

    #[test]
    fn every_sign_of_open_work_is_found_in_rust_only() {
        for sign in UNFINISHED.iter().chain(NOTES) {
            let text = format!("fn a() {{}}\n// {sign} later\n");
            assert_eq!(lines_found("a.rs", &text), [2], "{sign}");
            assert_eq!(lines_found("a.md", &text), [0usize; 0], "{sign}");
        }
    }

    #[test]
    fn a_note_inside_a_longer_word_is_none() {
        let word = NOTES[1];
        assert_eq!(lines_found("a.rs", &format!("let template = \"file-{word}{word}\";")), [0usize; 0]);
        assert_eq!(lines_found("a.rs", &format!("// {word}: later")), [1]);
    }

    #[test]
    fn a_rust_file_may_have_just_so_many_lines() {
        assert_eq!(lines_found("a.rs", &"//\n".repeat(MOST_LINES)), [0usize; 0]);
        assert_eq!(lines_found("a.rs", &"//\n".repeat(MOST_LINES + 1)), [MOST_LINES + 1]);
        assert_eq!(lines_found("a.md", &"-\n".repeat(MOST_LINES + 1)), [0usize; 0]);
    }

    #[test]
    fn this_checker_does_not_find_itself() {
        assert_eq!(check(Path::new("prose.rs"), include_str!("prose.rs")), []);
    }

    #[test]
    fn a_clone_with_a_finding_fails_and_a_clean_one_does_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let git = |arguments: &[&str]| {
            let output = Command::new("git").args(arguments).current_dir(folder.path()).output().expect("git starts");
            assert!(output.status.success(), "git {arguments:?}");
        };
        let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).expect("writes");
        git(&["init", "--quiet"]);
        run(folder.path()).expect_err("nothing to check must not pass for a check");

        write("clean.md", b"fine\n");
        let dirty = format!("see {}x\n", MACHINE_PATHS[0]);
        write("untracked.md", dirty.as_bytes());
        write("binary", &[dirty.as_bytes(), b"\0"].concat());
        git(&["add", "clean.md", "binary"]);
        run(folder.path()).expect("the tracked text is clean");

        git(&["add", "untracked.md"]);
        let error = run(folder.path()).expect_err("now it is tracked");
        assert!(error.to_string().starts_with("1 findings"), "{error}");

        git(&["rm", "--quiet", "--cached", "untracked.md"]);
        std::os::unix::fs::symlink(format!("{}x", MACHINE_PATHS[0]), folder.path().join("link")).expect("links");
        git(&["add", "link"]);
        run(folder.path()).expect_err("a link says where it points");
    }
}
