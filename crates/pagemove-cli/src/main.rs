//! The command `pagemove`: all of it is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    pagemove_cli::main()
}
