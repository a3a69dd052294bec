//! The examples run, and check themselves.
#![allow(missing_docs)]

#[path = "../examples/cache.rs"]
mod cache;

#[test]
fn a_cache_in_zsmalloc() {
    cache::main().unwrap();
}
