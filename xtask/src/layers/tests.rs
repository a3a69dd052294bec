//! Shows each kind of violation being found, and what is exempt, on small crates in a temporary folder.

use std::fs;

use tempfile::TempDir;

use super::*;

mod files;

/// A folder with these files, by path and text.
fn tree(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in files {
        let file = folder.path().join(name);
        fs::create_dir_all(file.parent().expect("a parent")).expect("makes folders");
        fs::write(file, text).expect("writes");
    }
    folder
}

/// What the check says of a crate with these files: `file:line: what`, cut after `what uses what`.
fn found(files: &[(&str, &str)]) -> Vec<String> {
    let folder = tree(files);
    let read = modules::read(&folder.path().join("lib.rs")).expect("the tree is whole");
    let (_, mut violations) = uses::check(&read);
    violations.extend(modules::unreached(folder.path(), &[&read]).expect("the folder can be read"));
    let short = |violation: &Violation| {
        let file = violation.file.strip_prefix(folder.path()).expect("inside");
        let words: Vec<&str> = violation.what.split([' ', ',']).take(3).collect();
        format!("{}:{}: {}", file.display(), violation.line, words.join(" "))
    };
    violations.iter().map(short).collect()
}

/// A crate of the layers `low`, `mid` and `high`, in which `mid` is `text`.
fn found_in_mid(text: &str) -> Vec<String> {
    let lib = "extern crate alloc;\nextern crate self as own;\npub mod low;\nmod mid;\npub mod high;\n\
        pub use high::{Crane, inner::Deep as Shallow};\npub use self::low::Base;\nuse core::fmt;\npub use high::roof::*;\n";
    found(&[
        ("lib.rs", lib),
        ("low.rs", ""),
        ("mid.rs", text),
        ("high.rs", "#[macro_export]\nmacro_rules! lift { () => {} }"),
    ])
}

const UP: &[&str] = &["mid.rs:2: mid uses high"];
const NONE: &[&str] = &[];

#[test]
fn uses_downward_and_outward_are_fine() {
    let text = "use crate::low::{self, A, b::{C, D as E}};\nuse super::low as under;\nuse alloc::vec::Vec;\n\
        use crate::mid::Own;\nuse crate::{Base, fmt, alloc::boxed::Box};\nuse self::part::*;\n\
        mod part { use super::*; use super::super::low; pub(in crate::mid) fn f() { crate::low::g(super::h) } }\n\
        fn f(high: u8) -> u8 { high::<u8>(high) }";
    assert_eq!(found_in_mid(text), NONE);
}

#[test]
fn a_use_upward_is_found() {
    assert_eq!(found_in_mid("\nuse crate::high;"), UP);
    assert_eq!(found_in_mid("\nuse crate::high::Thing;"), UP);
    assert_eq!(found_in_mid("\npub use crate::high::*;"), UP);
    assert_eq!(found_in_mid("\nuse crate::high as low;"), UP);
    assert_eq!(found_in_mid("\nfn f() { use crate::high::g; g() }"), UP);
}

#[test]
fn braces_are_looked_into() {
    assert_eq!(found_in_mid("use crate::{low::{A, B},\n  high::{C}};"), UP);
    assert_eq!(found_in_mid("use crate::{\nhigh};"), UP);
    assert_eq!(found_in_mid("use {core::mem,\ncrate::{high::x}};"), UP);
}

#[test]
fn paths_in_code_are_found() {
    assert_eq!(found_in_mid("fn f() {\n crate::high::g() }"), UP);
    assert_eq!(found_in_mid("struct S {\n field: Option<crate::high::T> }"), UP);
    assert_eq!(found_in_mid("\nimpl crate::high::T for () {}"), UP);
    assert_eq!(found_in_mid("fn f() {\n let _ = <() as crate::high::T>::X; }"), UP);
    assert_eq!(found_in_mid("\nfn f(x: u8) { if let crate::high::K = x {} }"), UP);
    assert_eq!(found_in_mid("\nfn f() { own::high::g() }"), UP);
}

#[test]
fn chains_of_super_are_followed_to_the_root() {
    assert_eq!(found_in_mid("\nuse super::high::T;"), UP);
    assert_eq!(found_in_mid("\nfn f() { self::super::high::g() }"), UP);
    assert_eq!(found_in_mid("mod part {\n use super::super::{high::T}; }"), UP);
    assert_eq!(found_in_mid("mod part {\n use super::high::T; }\nmod high {}"), NONE, "a part of mid named high");
}

#[test]
fn the_whole_root_is_too_much() {
    let whole = &["mid.rs:2: mid takes in"];
    assert_eq!(found_in_mid("\nuse crate::*;"), whole);
    assert_eq!(found_in_mid("\nuse super::*;"), whole);
    assert_eq!(found_in_mid("\nuse crate as all;"), whole);
    assert_eq!(found_in_mid("\nuse crate::{self as all};"), whole);
}

#[test]
fn a_detour_through_a_re_export_in_the_root_is_found() {
    assert_eq!(found_in_mid("\nuse crate::Crane;"), UP);
    assert_eq!(found_in_mid("\nuse crate::Shallow;"), UP, "renamed on the way");
    assert_eq!(found_in_mid("\nfn f(c: super::Crane) {}"), UP);
    assert_eq!(found_in_mid("\nuse crate::Base;"), NONE, "it is from low");
    assert_eq!(found_in_mid("\nuse crate::Ridge;"), ["mid.rs:2: mid uses `crate::Ridge`"], "from a `*`, so who knows");
}

#[test]
fn a_layer_that_re_exports_a_higher_one_is_found_where_it_does() {
    let files =
        [("lib.rs", "mod low;\nmod mid;"), ("low.rs", "\npub use crate::mid::T;"), ("mid.rs", "use crate::low::T;")];
    assert_eq!(found(&files), ["low.rs:2: low uses mid"]);
}

#[test]
fn a_name_re_exported_from_two_layers_counts_as_the_later() {
    let lib = "mod low;\nmod mid;\nmod high;\n#[cfg(a)]\npub use high::T;\n#[cfg(not(a))]\npub use low::T;";
    let files = [("lib.rs", lib), ("low.rs", ""), ("mid.rs", "use crate::T;"), ("high.rs", "")];
    assert_eq!(found(&files), ["mid.rs:1: mid uses high"]);
}

#[test]
fn macros_and_attributes_are_looked_into() {
    assert_eq!(found_in_mid("fn f() { assert!(x,\n \"{}\", crate::high::g(1)); }"), UP);
    assert_eq!(found_in_mid("fn f() { vec![(\n super::high::G)]; }"), UP);
    assert_eq!(found_in_mid("macro_rules! m { () => {\n $crate::high::g() } }"), UP);
    assert_eq!(found_in_mid("macro_rules! m { () => { use $crate::{low::{high},\n high::x}; } }"), UP);
    assert_eq!(found_in_mid("\nuse crate::lift;"), UP, "an exported macro stands in the root");
    assert_eq!(found_in_mid("fn f() {\n crate::lift!() }"), UP);
    assert_eq!(found_in_mid("\n#[derive(crate::high::Make)] struct S;"), UP);
}

#[test]
fn documentation_and_strings_are_exempt() {
    let text = "//! See [`crate::high::T`].\n/// Used by [`super::high`].\n#[doc = \"crate::high\"]\nfn f() { g(\"crate::high::x\") } // crate::high";
    assert_eq!(found_in_mid(text), NONE);
}

#[test]
fn tests_are_exempt() {
    assert_eq!(found_in_mid("#[cfg(test)]\nmod tests { use crate::high::T; use crate::*; }"), NONE);
    assert_eq!(found_in_mid("#[cfg(all(loom, test))]\nmod tests { use crate::high::T; }"), NONE);
    assert_eq!(found_in_mid("#[cfg(test)]\nuse crate::high::T;"), NONE);
    assert_eq!(found_in_mid("impl S { #[cfg(test)]\nfn f() { crate::high::g() } }"), NONE);
    assert_eq!(found_in_mid("#[cfg(not(test))]\nuse crate::high::T;"), UP);
    assert_eq!(found_in_mid("#[cfg(any(test, loom))]\nuse crate::high::T;"), UP);
    let lib = "mod low;\n#[cfg(test)]\nmod tests;\nmod high;";
    let files = [
        ("lib.rs", lib),
        ("low.rs", "#[cfg(test)]\nmod tests;"),
        ("high.rs", ""),
        ("low/tests.rs", "use crate::high::T;\nmod more;"),
        ("low/tests/more.rs", "use crate::high::T;"),
        ("tests.rs", "use crate::high::T;"),
    ];
    assert_eq!(found(&files), NONE, "test modules in files of their own");
}

#[test]
fn files_deep_in_a_layer_are_read() {
    let lib = "mod low;\nmod inline { fn f() { crate::high::g() } pub mod leaf; }\nmod high;";
    let files = [
        ("lib.rs", lib),
        ("low/mod.rs", "mod a;\n#[path = \"odd/place.rs\"]\nmod b;"),
        ("low/a.rs", "mod deep { pub mod leaf; }"),
        ("low/a/deep/leaf.rs", "use super::super::super::super::high::T;"),
        ("low/odd/place.rs", "\nuse super::super::high::T;"),
        ("inline/leaf.rs", "use crate::high::T;"),
        ("high.rs", ""),
    ];
    let expected = [
        "inline/leaf.rs:1: inline uses high",
        "lib.rs:2: inline uses high",
        "low/a/deep/leaf.rs:1: low uses high",
        "low/odd/place.rs:2: low uses high",
    ];
    assert_eq!(found(&files), expected);
}

#[test]
fn one_file_for_a_test_and_a_layer_is_checked_as_the_layer() {
    let low = "#[cfg(test)]\n#[path = \"shared.rs\"]\nmod a;\n#[cfg(not(test))]\n#[path = \"shared.rs\"]\nmod b;";
    let files =
        [("lib.rs", "mod low;\nmod high;"), ("low.rs", low), ("high.rs", ""), ("shared.rs", "use crate::high::T;")];
    assert_eq!(found(&files), ["shared.rs:1: low uses high"]);
}

#[test]
fn a_file_that_the_check_cannot_find_its_way_to_is_told() {
    let files = [("lib.rs", "mod low;"), ("low.rs", "with! { mod hidden; }"), ("low/hidden.rs", "use crate::x;")];
    assert_eq!(found(&files), ["low/hidden.rs:1: no `mod` line"]);
}

#[test]
fn broken_trees_are_errors_with_their_place() {
    let error = |files: &[(&str, &str)]| {
        let folder = tree(files);
        modules::read(&folder.path().join("lib.rs")).err().expect("broken").to_string()
    };
    assert!(error(&[("lib.rs", "\nmod gone;")]).contains("lib.rs:2: no file for `mod gone`"));
    assert!(error(&[("lib.rs", "mod low;"), ("low.rs", "fn f( {")]).contains("low.rs:1: not Rust"));
}

/// What the check says of a workspace with these crates: a name, and what its manifest asks for.
fn found_in_crates(crates: &[(&str, &str)]) -> Vec<String> {
    let mut files =
        vec![("Cargo.toml".to_owned(), "[workspace]\nresolver = \"3\"\nmembers = [\"crates/*\"]\n".to_owned())];
    for (name, asks) in crates {
        let manifest = format!("[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n{asks}\n");
        files.push((format!("crates/{name}/Cargo.toml"), manifest));
        files.push((format!("crates/{name}/src/lib.rs"), String::new()));
    }
    let borrowed: Vec<(&str, &str)> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let folder = tree(&borrowed);
    let metadata = MetadataCommand::new()
        .manifest_path(folder.path().join("Cargo.toml"))
        .no_deps()
        .exec()
        .expect("cargo reads the workspace");
    let root = metadata.workspace_root.as_std_path();
    let mut violations = crates::check(&metadata).expect("the manifests can be read");
    violations.sort();
    let short = |violation: &Violation| {
        let file = violation.file.strip_prefix(root).expect("inside");
        let what = violation.what.split(';').next().expect("has a start");
        format!("{}:{}: {what}", file.display(), violation.line)
    };
    violations.iter().map(short).collect()
}

const CORE_PATH: &str = "pagemove = { path = \"../pagemove\" }";
const DRIVERS_PATH: &str = "pagemove-drivers = { path = \"../pagemove-drivers\" }";
const HOSTED_PATH: &str = "pagemove-hosted = { path = \"../pagemove-hosted\" }";

#[test]
fn crates_in_order_are_fine() {
    let crates = [
        ("pagemove", String::new()),
        ("pagemove-drivers", format!("[dependencies]\n{CORE_PATH}")),
        ("pagemove-hosted", format!("[dependencies]\n{CORE_PATH}\n[dev-dependencies]\n{DRIVERS_PATH}")),
        ("pagemove-cli", format!("[dependencies]\n{CORE_PATH}\n{DRIVERS_PATH}\n{HOSTED_PATH}")),
    ];
    let crates: Vec<(&str, &str)> = crates.iter().map(|(name, asks)| (*name, asks.as_str())).collect();
    assert_eq!(found_in_crates(&crates), NONE);
}

#[test]
fn each_crate_against_the_order_is_found_with_its_line() {
    let crates = [
        ("pagemove", format!("[dev-dependencies]\n{HOSTED_PATH}")),
        ("pagemove-drivers", format!("[dependencies]\n{CORE_PATH}\n[target.'cfg(unix)'.dependencies]\n{HOSTED_PATH}")),
        (
            "pagemove-hosted",
            format!("[dependencies]\n{CORE_PATH}\nd = {{ path = \"../pagemove-new\", package = \"pagemove-new\" }}"),
        ),
        ("pagemove-new", format!("[dependencies]\n{CORE_PATH}")),
        ("xtask", "[build-dependencies.pagemove]\npath = \"../pagemove\"".to_owned()),
    ];
    let crates: Vec<(&str, &str)> = crates.iter().map(|(name, asks)| (*name, asks.as_str())).collect();
    let expected = [
        "crates/pagemove/Cargo.toml:6: pagemove uses pagemove-hosted in its tests",
        "crates/pagemove-drivers/Cargo.toml:8: pagemove-drivers uses pagemove-hosted",
        "crates/pagemove-hosted/Cargo.toml:7: pagemove-hosted uses pagemove-new",
        "crates/pagemove-new/Cargo.toml:1: pagemove-new has no place in the order of the crates",
        "crates/xtask/Cargo.toml:5: xtask uses pagemove",
    ];
    assert_eq!(found_in_crates(&crates), expected);
}
