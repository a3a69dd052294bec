//! The examples run, and check themselves.
#[path = "../examples/cache.rs"]
mod cache;

#[test]
fn a_cache_in_zsmalloc() {
    cache::main().unwrap();
}
