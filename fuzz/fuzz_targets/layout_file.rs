//! Layout files, packed and unpacked.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| pagemove_cli::fuzz::layout_file(bytes));
