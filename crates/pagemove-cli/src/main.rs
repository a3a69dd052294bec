//! The command `pagemove`.
mod layout;
#[allow(dead_code, reason = "the commands that use it come later")]
mod report;
#[allow(dead_code, reason = "the commands that use it come later")]
mod results;
mod survey;
#[allow(dead_code, reason = "the commands that use it come later")]
mod table;

use std::process::ExitCode;

use clap::Parser;

/// A physical memory manager whose pages can all be moved while in use.
#[derive(Debug, Parser)]
#[command(version)]
enum Command {
    Survey(survey::SurveyArgs),
}

fn main() -> ExitCode {
    let Command::Survey(args) = Command::parse();
    match survey::run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pagemove: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
