//! Histories of operations, on the engine and on its model.
#![no_main]

use pagemove_model::{History, run};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Err(failure) = run(&History::decode(bytes)) {
        panic!("{failure}");
    }
});
