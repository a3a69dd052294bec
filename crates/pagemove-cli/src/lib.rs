//! The command `pagemove`, as a library: so that its tests and fuzz targets reach what reads files. Not for other programs,
//! which want the core.
mod assets;
mod bar;
mod cancel;
mod diff;
mod html;
mod kernel;
mod layout;
mod message;
mod numbers;
mod owners;
mod recording;
mod report;
mod results;
mod run;
mod soak;
mod survey;
mod table;
mod terminal;
mod watch;
mod whole_file;
mod why;

pub use layout::fuzz;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

/// A physical memory manager whose pages can all be moved while in use.
#[derive(Debug, Parser)]
#[command(name = "pagemove", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// Without a subcommand: those of `run`.
    #[command(flatten)]
    run: run::args::RunArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::args::RunArgs),
    Survey(survey::SurveyArgs),
    Diff(diff::DiffArgs),
    Soak(soak::SoakArgs),
    Assets(assets::AssetsArgs),
    Watch(watch::WatchArgs),
    Record(recording::RecordArgs),
    Replay(recording::ReplayArgs),
}

/// Runs the command with this program's arguments; gives its exit code.
pub fn main() -> ExitCode {
    let Cli { command, run } = Cli::parse();
    let (error, code): (String, u8) = match command.unwrap_or(Command::Run(run)) {
        Command::Run(args) => match run::run(&args) {
            Ok(true) => return ExitCode::SUCCESS,
            // What failed is in the results.
            Ok(false) => return ExitCode::from(1),
            Err(error) => (error.to_string(), error.exit_code()),
        },
        Command::Soak(args) => match soak::run(&args) {
            Ok(()) => return ExitCode::SUCCESS,
            Err(error) => (error.to_string(), error.exit_code()),
        },
        Command::Watch(args) => match watch::run(&args) {
            Ok(()) => return ExitCode::SUCCESS,
            Err(error) => (error.to_string(), error.exit_code()),
        },
        Command::Record(args) => match recording::record(&args) {
            Ok(()) => return ExitCode::SUCCESS,
            Err(error) => (error.to_string(), error.exit_code()),
        },
        Command::Replay(args) => match recording::replay(&args) {
            Ok(()) => return ExitCode::SUCCESS,
            Err(error) => (error.to_string(), error.exit_code()),
        },
        Command::Diff(args) => match diff::run(&args) {
            Ok(()) => return ExitCode::SUCCESS,
            Err(error) => (error.to_string(), error.exit_code()),
        },
        Command::Assets(args) => match assets::run(&args, &Cli::command()) {
            Ok(()) => return ExitCode::SUCCESS,
            Err(error) => (error.to_string(), 2),
        },
        Command::Survey(args) => match survey::run(&args) {
            Ok(true) => return ExitCode::SUCCESS,
            Ok(false) => ("fewer blocks are wholly free than --threshold asks for".to_owned(), 1),
            Err(error) => (error.to_string(), error.exit_code()),
        },
    };
    message::say(&format!("pagemove: {error}"));
    ExitCode::from(code)
}
