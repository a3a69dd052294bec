//! `pagemove assets DIR`: what a package of the command holds beside it: man pages and shell completions.
//!
//! Takes the command's own arguments as clap knows them, writes `DIR/man/*.1` and `DIR/completions/*`. Promises that hidden commands are
//! in none of them, that the same version always gives the same bytes, and that each file is there whole or not at all.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use clap::Command;
use clap_complete::{Shell, generate};
use clap_mangen::Man;

use crate::whole_file::write_whole;

const NAME: &str = "pagemove";
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The shells whose completions Debian has a folder for.
const SHELLS: [(Shell, &str); 3] =
    [(Shell::Bash, "pagemove.bash"), (Shell::Zsh, "_pagemove"), (Shell::Fish, "pagemove.fish")];
/// Ends each man page: scripts go by it, and clap knows nothing of it.
const EXIT_STATUS: &str = ".SH \"EXIT STATUS\"\n0: done. 1: a check failed. 2: bad usage or input. 130: interrupted.\n";

/// Writes man pages and shell completions, for packages.
#[derive(Debug, clap::Args)]
#[command(hide = true)]
pub(crate) struct AssetsArgs {
    /// Where to: gets the folders `man` and `completions`.
    #[arg(value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    folder: PathBuf,
    /// The date that the man pages bear.
    #[arg(long, value_name = "YYYY-MM-DD")]
    date: Option<String>,
}

/// Why a file isn't written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AssetsError {
    /// The folder can't be made.
    #[error("can't make the folder {path}: {error}", path = path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The file can't be written.
    #[error("can't write {path}: {error}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// Runs the command; `command` is the whole program's.
pub(crate) fn run(args: &AssetsArgs, command: &Command) -> Result<(), AssetsError> {
    let command = shown(command);
    write(&args.folder.join("man"), man_pages(&command, args.date.as_deref()))?;
    write(&args.folder.join("completions"), completions(&command))
}

/// Gives the command without what is hidden: the completions of clap_complete would offer it.
fn shown(command: &Command) -> Command {
    let about = command.get_about().cloned().unwrap_or_default();
    let mut shown = Command::new(NAME)
        .about(about)
        .version(VERSION)
        .args(command.get_arguments())
        .subcommands(command.get_subcommands().filter(|inner| !inner.is_hide_set()))
        .disable_help_subcommand(true);
    shown.build();
    shown
}

/// Gives the page of the command, and those of its subcommands.
fn man_pages(command: &Command, date: Option<&str>) -> Vec<(String, Vec<u8>)> {
    let page = |of: &Command| {
        // An empty date would be no argument at all, and those after it would move up.
        let man =
            Man::new(of.clone()).date(date.unwrap_or(" ")).source(format!("{NAME} {VERSION}")).manual("User Commands");
        let mut text = Vec::new();
        // A `Vec` takes all, and clap's texts are UTF-8.
        let _ = man.render(&mut text);
        // Breaks about an empty line do nothing, and mandoc complains of them.
        let text = String::from_utf8_lossy(&text).replace(".br\n\n.br\n", "\n") + EXIT_STATUS;
        (man.get_filename(), text.into_bytes())
    };
    [command].into_iter().chain(command.get_subcommands()).map(page).collect()
}

fn completions(command: &Command) -> Vec<(String, Vec<u8>)> {
    let completion = |(shell, file): (Shell, &str)| {
        let mut text = Vec::new();
        generate(shell, &mut command.clone(), NAME, &mut text);
        (file.to_owned(), text)
    };
    SHELLS.into_iter().map(completion).collect()
}

fn write(folder: &Path, files: Vec<(String, Vec<u8>)>) -> Result<(), AssetsError> {
    fs::create_dir_all(folder).map_err(|error| AssetsError::Folder { path: folder.to_owned(), error })?;
    for (name, text) in files {
        let path = folder.join(name);
        write_whole(&path, |file| file.write_all(&text)).map_err(|error| AssetsError::File { path, error })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, process::Stdio};

    use clap::CommandFactory as _;

    use super::*;

    /// The requests that clap_mangen makes, and ours; another one may be a line of text that begins with a dot.
    const REQUESTS: [&str; 10] = [".TH", ".SH", ".TP", ".RS", ".RE", ".IP", ".PP", ".br", ".ie", ".el"];

    fn made() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        let args = AssetsArgs { folder: folder.path().to_owned(), date: Some("2025-06-01".into()) };
        run(&args, &crate::Cli::command()).expect("writes");
        folder
    }

    fn read(folder: &Path, name: &str) -> String {
        fs::read_to_string(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// What clap itself would take, whatever was written.
    fn long_options(command: &Command) -> BTreeSet<String> {
        let shown = command.get_arguments().filter(|argument| !argument.is_hide_set());
        shown.filter_map(|argument| argument.get_long().map(str::to_owned)).collect()
    }

    /// Runs a tool on a file; `None` if it isn't there, else whether it was pleased and what it said.
    fn judged(tool: &str, arguments: &[&str], file: &Path) -> Option<(bool, String)> {
        let output = std::process::Command::new(tool).args(arguments).arg(file).stdin(Stdio::null()).output().ok()?;
        let said = [output.stdout, output.stderr].concat();
        Some((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
    }

    #[test]
    fn each_page_and_completion_names_all_that_the_command_takes() {
        let folder = made();
        let names = |part: &str| -> BTreeSet<String> {
            let entries = fs::read_dir(folder.path().join(part)).expect("lists");
            entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
        };
        let pages = names("man");
        assert!(["pagemove.1", "pagemove-survey.1"].iter().all(|page| pages.contains(*page)), "{pages:?}");
        assert!(!pages.contains("pagemove-assets.1"), "a hidden command has a page");
        assert_eq!(names("completions"), ["_pagemove", "pagemove.bash", "pagemove.fish"].map(str::to_owned).into());

        let mut command = crate::Cli::command().disable_help_subcommand(true);
        command.build();
        let completions = SHELLS.map(|(_, file)| read(folder.path(), &format!("completions/{file}")));
        let (mut options, mut described) = (0, 0);
        for of in [&command].into_iter().chain(command.get_subcommands().filter(|inner| !inner.is_hide_set())) {
            let page = of.get_display_name().unwrap_or(NAME);
            let text = read(folder.path(), &format!("man/{page}.1"));
            described += 1;
            // As whole words: `--try` isn't named by `--tryst`. In roff a hyphen is `\-`.
            let words: BTreeSet<String> = text
                .replace("\\-", "-")
                .split(|letter: char| !(letter.is_alphanumeric() || letter == '-'))
                .filter_map(|word| {
                    word.trim_start_matches("fB").trim_end_matches("fR").strip_prefix("--").map(str::to_owned)
                })
                .collect();
            for option in long_options(of) {
                assert!(words.contains(&option), "--{option} isn't in {page}.1:\n{text}");
                assert!(completions.iter().all(|text| text.contains(&option)), "--{option} isn't in all completions");
                options += 1;
            }
        }
        assert!(options > 30 && described == pages.len(), "only {options}; {described} of {pages:?}");
        let all: String = pages.iter().map(|page| read(folder.path(), &format!("man/{page}"))).collect();
        let all = all + &completions.concat();
        assert!(!all.contains("assets"), "what is hidden is named");
    }

    #[test]
    fn shells_take_the_completions() {
        let folder = made();
        for (shell, (_, file)) in ["bash", "zsh", "fish"].into_iter().zip(SHELLS) {
            let file = folder.path().join("completions").join(file);
            let Some((is_fine, said)) = judged(shell, &["-n"], &file) else { continue };
            assert!(is_fine && said.is_empty(), "{shell}: {said}");
            let text = fs::read_to_string(&file).expect("reads");
            fs::write(&file, text + "\nif (\n").expect("writes");
            assert!(judged(shell, &["-n"], &file).is_some_and(|(is_fine, _)| !is_fine), "{shell} takes anything");
        }
    }

    #[test]
    fn man_pages_are_well_formed() {
        let folder = made();
        for entry in fs::read_dir(folder.path().join("man")).expect("lists") {
            let path = entry.expect("an entry").path();
            let text = fs::read_to_string(&path).expect("reads");
            let title = text.lines().find(|line| line.starts_with(".TH")).expect("a title");
            let end = format!(" 1 2025-06-01 \"pagemove {VERSION}\" \"User Commands\"");
            assert!(title.ends_with(&end), "{title}");
            for line in text.lines().filter(|line| line.starts_with(['.', '\''])) {
                assert!(REQUESTS.iter().any(|known| line.split(' ').next() == Some(known)), "{line:?}");
            }
            assert!(text.is_ascii(), "{}: man may run in any locale", path.display());
            for (tool, arguments) in [("mandoc", &["-T", "lint", "-W", "warning"][..]), ("man", &["--warnings", "-l"])]
            {
                if let Some((is_fine, said)) = judged(tool, arguments, &path) {
                    assert!(
                        is_fine && !said.contains("warning") && !said.contains("WARNING"),
                        "{}: {said}",
                        path.display()
                    );
                }
            }
        }
        let undated = man_pages(&shown(&crate::Cli::command()), None);
        assert!(undated.iter().all(|(_, text)| String::from_utf8_lossy(text).contains("1 \" \" \"pagemove ")));
    }

    #[test]
    fn what_cant_be_written_is_a_sentence() {
        let folder = made();
        let failed = |folder: PathBuf| {
            run(&AssetsArgs { folder, date: None }, &crate::Cli::command()).expect_err("can't be written").to_string()
        };
        let said = failed(folder.path().join("man/pagemove.1"));
        assert!(said.starts_with("can't make the folder ") && said.contains("pagemove.1/man: "), "{said}");
        fs::remove_file(folder.path().join("man/pagemove.1")).expect("removes");
        fs::create_dir(folder.path().join("man/pagemove.1")).expect("makes");
        assert!(failed(folder.path().to_owned()).starts_with("can't write "));
    }
}
