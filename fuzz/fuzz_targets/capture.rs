//! Made-up kernels' `/proc/kpageflags`, `/proc/kpagecount` and zones.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| pagemove_cli::fuzz::capture(bytes));
