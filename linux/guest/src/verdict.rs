//! The result of a test, and its checks.

use std::error::Error;

use crate::machine::is_configured;
use crate::sys::errno;

pub(crate) type Outcome = Result<String, Box<dyn Error>>;

/// Why a test can't run on this kernel.
#[derive(Debug)]
pub(crate) struct Skip(pub(crate) String);

impl std::fmt::Display for Skip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Skip {}

/// Skips a test on a kernel built without an option. (If it is built in but doesn't work, the test fails.)
pub(crate) fn needs(option: &str) -> Result<(), Box<dyn Error>> {
    if is_configured(option)? { Ok(()) } else { Err(Skip(format!("this kernel is built without {option}")).into()) }
}

/// Fails with a message unless `is_so`.
pub(crate) fn check(is_so: bool, words: impl FnOnce() -> String) -> Result<(), Box<dyn Error>> {
    if is_so { Ok(()) } else { Err(words().into()) }
}

pub(crate) fn expect(what: &str, result: std::io::Result<i64>, number: i32) -> Result<(), Box<dyn Error>> {
    let got = errno(&result);
    check(got == number, || format!("{what}: error {got}, not {number}"))
}
