//! Texts in place of `/proc/zoneinfo`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| pagemove_cli::fuzz::zoneinfo(bytes));
