//! The lines to break: those of the file, and every ordering in the core's source.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// The file, from the workspace's folder.
const FILE: &str = "checks/mutants.toml";
/// The table of orderings, from the workspace's folder.
const TABLE: &str = "docs/orderings.md";
/// Where orderings are looked for.
const CORE: &str = "crates/pagemove/src";
/// Folders and files of it that are no protocol: the checkers' own.
const NOT_CORE: &[&str] = &["models", "sync"];
/// The checks of the core, from the quickest on.
const ENGINE: &[&str] = &["models", "tests", "schedules"];
const ORDERINGS: &[&str] = &["Ordering::Acquire", "Ordering::Release", "Ordering::AcqRel", "Ordering::SeqCst"];

/// The function of the copy that gives an ordering, or `Relaxed` if its number is the one to be weakened.
const WEAKENED: &str = "weakened";
/// Where that number is.
pub(super) const WEAKENED_NUMBER: &str = "PAGEMOVE_WEAKENED";

/// Gives the file that has that function in the copy, and its text.
pub(super) fn weakening() -> (&'static str, String) {
    let text = format!(
        "
pub(crate) fn {WEAKENED}(number: usize, strong: Ordering) -> Ordering {{
    extern crate std;
    static CHOSEN: std::sync::OnceLock<Option<usize>> = std::sync::OnceLock::new();
    let chosen = CHOSEN.get_or_init(|| std::env::var(\"{WEAKENED_NUMBER}\").ok()?.parse().ok());
    if *chosen == Some(number) {{ Ordering::Relaxed }} else {{ strong }}
}}
"
    );
    ("crates/pagemove/src/sync/mod.rs", text)
}

/// The file's contents.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Mutants {
    /// Lines to break in other ways than by a weaker ordering.
    #[serde(default)]
    mutant: Vec<Listed>,
    /// Orderings that no check notices.
    #[serde(default)]
    survivor: Vec<Survivor>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    name: String,
    file: String,
    line: String,
    becomes: String,
    /// The checks that are to notice it, of `tree::CHECKS`; those of [`ENGINE`] otherwise.
    #[serde(default)]
    checks: Vec<String>,
    /// Why none can, if so.
    survives: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Survivor {
    file: String,
    line: String,
    why: String,
}

/// A line to break.
pub(super) struct Mutant {
    name: String,
    pub(super) file: PathBuf,
    /// From which byte to which.
    place: std::ops::Range<usize>,
    becomes: String,
    kind: Kind,
    pub(super) survives: Option<String>,
}

/// How a mutant is broken and noticed.
enum Kind {
    /// By its new text. Checks to run; none named means those of [`ENGINE`].
    Listed(Vec<String>),
    /// When it runs, by its number: its new text asks whether that is the one to be weakened. So all of them are built once.
    Ordering(usize),
}

impl Mutant {
    pub(super) fn name(&self) -> String {
        self.name.clone()
    }

    pub(super) fn contains(&self, word: &str) -> bool {
        self.name.contains(word) || self.file.to_string_lossy().contains(word)
    }

    /// Gives an ordering's number; `None` for one of the list.
    pub(super) fn ordering(&self) -> Option<usize> {
        match self.kind {
            Kind::Listed(_) => None,
            Kind::Ordering(number) => Some(number),
        }
    }

    /// Tells whether the check of this name is to notice it. Orderings are for the models alone: nothing else sees them.
    pub(super) fn is_for(&self, check: &str) -> bool {
        match &self.kind {
            Kind::Ordering(_) => check == "models",
            Kind::Listed(checks) if checks.is_empty() => ENGINE.contains(&check),
            Kind::Listed(checks) => checks.iter().any(|one| one == check),
        }
    }

    /// Tells whether it is listed with this check and no other.
    pub(super) fn is_only_for(&self, check: &str) -> bool {
        matches!(&self.kind, Kind::Listed(checks) if checks.len() == 1 && checks[0] == check)
    }

    /// Gives the file's text, broken. Of several mutants of a file the last in the text comes first.
    pub(super) fn apply(&self, text: &str) -> String {
        format!("{}{}{}", &text[..self.place.start], self.becomes, &text[self.place.end..])
    }
}

impl Mutants {
    pub(super) fn read(root: &Path) -> Result<Self> {
        let text = fs::read_to_string(root.join(FILE)).with_context(|| format!("can't read {FILE}"))?;
        toml::from_str(&text).with_context(|| format!("{FILE} is not as it should be"))
    }

    /// Lists all; what the file names must be there, once, and what is found must be in the table.
    pub(super) fn list(&self, root: &Path) -> Result<Vec<Mutant>> {
        let mut all = Vec::new();
        for listed in &self.mutant {
            let text =
                fs::read_to_string(root.join(&listed.file)).with_context(|| format!("{FILE}: {}", listed.file))?;
            let mut found = text.match_indices(&listed.line);
            let (Some((start, _)), None) = (found.next(), found.next()) else {
                bail!("{FILE}, {:?}: its line must be in {} just once", listed.name, listed.file);
            };
            all.push(Mutant {
                name: listed.name.clone(),
                file: listed.file.clone().into(),
                place: start..start + listed.line.len(),
                becomes: listed.becomes.clone(),
                kind: Kind::Listed(listed.checks.clone()),
                survives: listed.survives.clone(),
            });
        }
        let mut files = Vec::new();
        sources(&root.join(CORE), &mut files)?;
        files.sort();
        let table = fs::read_to_string(root.join(TABLE)).with_context(|| format!("can't read {TABLE}"))?;
        let mut used = vec![0; self.survivor.len()];
        for path in files {
            let text = fs::read_to_string(&path)?;
            let file = path.strip_prefix(root)?.to_path_buf();
            let found = orderings(&file, &text, all.len());
            for mutant in &found {
                let short = path.strip_prefix(root.join(CORE))?.display().to_string();
                let function = function_of(&text, mutant.place.start);
                if !has_row(&table, &short, function) {
                    bail!("{TABLE} has no row for `{short}` `{function}`, which has an ordering stronger than Relaxed");
                }
            }
            all.extend(found.into_iter().map(|mut mutant| {
                let line = line_of(&text, mutant.place.start);
                let known = self
                    .survivor
                    .iter()
                    .position(|survivor| Path::new(&survivor.file) == file && line.contains(&survivor.line));
                if let Some(at) = known {
                    used[at] += 1;
                    mutant.survives = Some(self.survivor[at].why.clone());
                }
                mutant
            }));
        }
        if let Some(at) = used.iter().position(|&used| used != 1) {
            let Survivor { file, line, .. } = &self.survivor[at];
            bail!("{FILE}: {} orderings in {file} stand in lines with {line:?}, not one", used[at]);
        }
        Ok(all)
    }
}

fn sources(folder: &Path, out: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("can't read {}", folder.display()))? {
        let path = entry?.path();
        if path.file_stem().is_some_and(|stem| NOT_CORE.iter().any(|not| stem == *not)) {
            continue;
        }
        if path.is_dir() {
            sources(&path, out)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            out.push(path);
        }
    }
    Ok(())
}

/// Lists the orderings of a file, but those in comments and in tests. Their numbers begin with `first`.
fn orderings(file: &Path, text: &str, first: usize) -> Vec<Mutant> {
    let code = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    let is_code = |start: usize| !line_of(text, start).trim_start().starts_with("//");
    let of = |ordering: &&'static str| text[..code].match_indices(*ordering).filter(|&(start, _)| is_code(start));
    let mut found: Vec<(usize, &str)> = ORDERINGS.iter().flat_map(of).collect();
    found.sort_unstable();
    let mutant = |((start, ordering), number): ((usize, &str), usize)| {
        let line = text[..start].matches('\n').count() + 1;
        let weak = &ordering["Ordering::".len()..];
        Mutant {
            name: format!("{}:{line} {weak}: {}", file.display(), line_of(text, start).trim()),
            file: file.into(),
            place: start..start + ordering.len(),
            becomes: format!("crate::sync::{WEAKENED}({number}, {ordering})"),
            kind: Kind::Ordering(number),
            survives: None,
        }
    };
    found.into_iter().zip(first..).map(mutant).collect()
}

/// Names the function that the byte at `at` is in.
fn function_of(text: &str, at: usize) -> &str {
    // A signature may end in a type such as `Pfn`.
    let is_word = |&(start, _): &(usize, &str)| !text[..start].ends_with(char::is_alphanumeric);
    let start = text[..at].rmatch_indices("fn ").find(is_word).map_or(at, |(start, found)| start + found.len());
    let name = &text[start..];
    &name[..name.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(name.len())]
}

/// Tells whether a row names the file and the function.
fn has_row(table: &str, file: &str, function: &str) -> bool {
    let (file, function) = (format!("| `{file}`"), format!("`{function}`"));
    let mut firsts = table.lines().filter(|row| row.starts_with(&file)).filter_map(|row| row.split('|').nth(1));
    firsts.any(|first| first.contains(&function))
}

fn line_of(text: &str, at: usize) -> &str {
    let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let end = text[at..].find('\n').map_or(text.len(), |newline| at + newline);
    &text[start..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordering_is_looked_for_in_the_table_by_its_function() {
        let text =
            "fn first() { a.load(Ordering::Acquire) }\nfn second(of: u32) -> Pfn { b.load(Ordering::Acquire) }\n";
        let found = orderings(Path::new("a.rs"), text, 7);
        let functions: Vec<_> = found.iter().map(|mutant| function_of(text, mutant.place.start)).collect();
        assert_eq!(functions, ["first", "second"]);
        let table = "| where |\n| `a.rs` `first`, success | Acquire | `second` |\n";
        assert!(has_row(table, "a.rs", "first"));
        assert!(!has_row(table, "a.rs", "second"));
        assert!(!has_row(table, "b.rs", "first"));
    }

    #[test]
    fn each_ordering_is_broken_by_itself() {
        let text = "// Ordering::Acquire in words\nword.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Acquire);\n\
                    word.load(Ordering::Relaxed);\n#[cfg(test)]\nmod tests {\n    word.load(Ordering::SeqCst);\n}\n";
        let found = orderings(Path::new("a.rs"), text, 7);
        assert_eq!(found.len(), 2);
        assert!(found[0].apply(text).contains("(0, 1, crate::sync::weakened(7, Ordering::AcqRel), Ordering::Acquire)"));
        assert!(found[1].apply(text).contains("Ordering::AcqRel, crate::sync::weakened(8, Ordering::Acquire))"));
        assert!(found[0].name().starts_with("a.rs:2 AcqRel"));
    }
}
