//! Shows which circles of files are found, and what is none.

use super::tree;
use crate::layers::{files, modules};

/// What the check says of a crate with these files, after `in a circle of `.
fn circles(crate_files: &[(&str, &str)]) -> Vec<String> {
    let folder = tree(crate_files);
    let read = modules::read(&folder.path().join("lib.rs")).expect("the tree is whole");
    let (_, violations) = files::check(&read, folder.path());
    let told = |what: &str| {
        let ways = what.strip_prefix("in a circle of ").expect("says so");
        ways.split(';').next().expect("has a start").to_owned()
    };
    violations.iter().map(|violation| told(&violation.what)).collect()
}

/// A crate whose root declares `a`, `b` and `c`, which are these.
fn circles_of([a, b, c]: [&str; 3]) -> Vec<String> {
    circles(&[("lib.rs", "mod a;\nmod b;\nmod c;\npub use a::A;"), ("a.rs", a), ("b.rs", b), ("c.rs", c)])
}

const NONE: &[&str] = &[];

#[test]
fn two_files_that_use_each_other_are_refused() {
    let expected = ["2 files: a.rs uses b.rs (`crate::b::B`, line 2), b.rs uses a.rs (`super::a::A`, line 1)"];
    assert_eq!(circles_of(["pub struct A;\nuse crate::b::B;", "pub struct B(super::a::A);", ""]), expected);
    assert_eq!(circles_of(["pub struct A;", "pub struct B(super::a::A);", "use crate::b::B;"]), NONE);
}

#[test]
fn a_longer_circle_is_told_once_with_its_shortest_way_round() {
    let found = circles_of([
        "pub struct A;\nuse crate::b::B;",
        "pub struct B;\nfn f() { crate::c::f() }",
        "pub fn f() -> crate::a::A { crate::b::B }",
    ]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("3 files: a.rs uses b.rs (`crate::b::B`, line 2), b.rs uses c.rs"), "{found:?}");
    assert!(found[0].ends_with("c.rs uses a.rs (`crate::a::A`, line 1)"), "{found:?}");
}

#[test]
fn a_parent_that_declares_and_re_exports_uses_nothing() {
    let parent = "mod one;\npub(crate) mod two;\npub(crate) use one::One;\npub(super) use two::*;";
    let files = [
        ("lib.rs", "mod parent;\npub use parent::One;"),
        ("parent/mod.rs", parent),
        ("parent/one.rs", "pub struct One;"),
        ("parent/two.rs", "use super::One;\npub struct Two(crate::One, crate::parent::One);"),
    ];
    assert_eq!(circles(&files), NONE);
}

#[test]
fn a_re_export_hides_no_circle() {
    let files = [
        ("lib.rs", "mod parent;"),
        ("parent.rs", "mod one;\nmod two;\npub(crate) use one::One as Other;\npub(crate) use two::*;"),
        ("parent/one.rs", "pub struct One(super::Two);"),
        ("parent/two.rs", "use super::Other;\npub struct Two(Other);"),
    ];
    let expected = "2 files: parent/one.rs uses parent/two.rs (`super::Two`, line 1), \
                    parent/two.rs uses parent/one.rs (`super::Other`, line 1)";
    assert_eq!(circles(&files), [expected]);
}

#[test]
fn a_parent_that_uses_its_child_shares_nothing_of_its_own_with_it() {
    let with = |parent: &str| {
        circles(&[
            ("lib.rs", "mod parent;"),
            ("parent.rs", parent),
            ("parent/child.rs", "pub struct C(super::Shared);"),
        ])
    };
    assert_eq!(with("mod child;\npub struct Shared;"), NONE, "the child alone uses the other");
    for parent in [
        "mod child;\nuse child::C;\npub struct Shared;",
        "mod child;\npub struct Shared;\nfn f() { child::C::new() }",
        "mod child;\npub use child::C;\npub struct Shared;\nfn f(c: C) {}",
        "mod child;\npub use child::*;\npub struct Shared;\nfn f(c: C) {}",
    ] {
        assert_eq!(with(parent).len(), 1, "{parent}");
    }
}

#[test]
fn the_root_is_a_file_like_any_other() {
    let root = |text| circles(&[("lib.rs", text), ("a.rs", "fn f() { crate::tell() }\npub fn g() {}")]);
    assert_eq!(root("mod a;\nfn tell() {}"), NONE);
    assert_eq!(root("mod a;\nfn tell() {}\nfn main() { a::g() }").len(), 1);
}

#[test]
fn stars_macros_and_modules_inside_files_are_seen() {
    assert_eq!(circles_of(["pub struct A;\nuse crate::b::*;", "pub struct B(crate::A);", ""]).len(), 1);
    assert_eq!(circles_of(["pub struct A;\nfn f() { vec![crate::b::B] }", "pub struct B(crate::A);", ""]).len(), 1);
    assert_eq!(circles_of(["pub struct A;\nmod x { use super::super::b::B; }", "struct B(crate::A);", ""]).len(), 1);
    assert_eq!(circles_of(["bits! { pub struct Made; }\nuse crate::b::B;", "struct B(crate::a::Made);", ""]).len(), 1);
    let exported = "#[macro_export]\nmacro_rules! m { () => {} }\nfn f() { crate::b::g() }";
    assert_eq!(circles_of([exported, "pub fn g() { crate::m!() }", ""]).len(), 1);
}

#[test]
fn names_that_only_look_alike_are_told_apart() {
    // A function beside a module of its name; a field in a macro; another crate's name, brought in by a module.
    let files = [
        ("lib.rs", "mod parent;"),
        ("parent.rs", "mod check;\nmod low;\npub use check::check;\npub use libc::X;\npub struct Shared;"),
        ("parent/check.rs", "pub fn check(s: super::Shared) {}"),
        ("parent/low.rs", "fn f(r: R) { assert!(r.check, \"{}\", 0..crate::parent::X); }\nfn g() { super::check(1) }"),
    ];
    assert_eq!(circles(&files), NONE);
}

#[test]
fn tests_and_documentation_are_exempt() {
    let a = "//! See [`crate::b::B`].\npub struct A;\n#[cfg(test)]\nmod tests { use crate::b::B; }";
    assert_eq!(circles_of([a, "pub struct B(crate::A);", ""]), NONE);
}
