//! Which crate of the workspace may depend on which.
//!
//! Takes what `cargo metadata` says of the workspace; gives a violation for each dependency that isn't in [`ORDER`],
//! with its line in the manifest. Promises to pass no crate by: one that isn't in the list is a violation too.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use cargo_metadata::{Dependency, DependencyKind, Metadata};

use super::violation::Violation;

/// A crate, and those of the workspace that it may depend on.
struct Rule {
    name: &'static str,
    /// In what it builds.
    uses: &'static [&'static str],
    /// In its tests, benches and examples, beyond the former.
    tests_use: &'static [&'static str],
}

/// What a driver for Linux is tested with.
const ON_THE_ENGINE: &[&str] = &["pagemove", "pagemove-hosted", "pagemove-kit-hosted"];

/// The crates from the bottom up. A new one gets its line here first.
const ORDER: &[Rule] = &[
    Rule { name: "pagemove", uses: &[], tests_use: &[] },
    Rule { name: "pagemove-drivers", uses: &["pagemove"], tests_use: &[] },
    Rule { name: "pagemove-x86", uses: &["pagemove"], tests_use: &[] },
    Rule { name: "pagemove-hosted", uses: &["pagemove", "pagemove-drivers"], tests_use: &[] },
    Rule { name: "pagemove-cli", uses: &["pagemove", "pagemove-drivers", "pagemove-hosted"], tests_use: &[] },
    // A check of the whole stack, and no part of it.
    Rule { name: "pagemove-model", uses: &["pagemove", "pagemove-drivers", "pagemove-hosted"], tests_use: &[] },
    // The Linux side stands on a stock kernel instead of the core.
    Rule { name: "pagemove-kit", uses: &[], tests_use: &[] },
    // Joins the two: what is written for the kit, on the engine.
    Rule { name: "pagemove-kit-hosted", uses: &["pagemove", "pagemove-hosted", "pagemove-kit"], tests_use: &[] },
    Rule { name: "pagemove-sample", uses: &["pagemove-kit"], tests_use: ON_THE_ENGINE },
    Rule { name: "pagemove-tutorial", uses: &["pagemove-kit"], tests_use: ON_THE_ENGINE },
    // One program for two kernels.
    Rule { name: "pagemove-compare", uses: &[], tests_use: &[] },
    Rule {
        name: "pagemove-guest",
        uses: &["pagemove-compare", "pagemove-sample", "pagemove-tutorial"],
        tests_use: &[],
    },
    // Chores stand beside the product: they build it, and are no part of it.
    Rule { name: "xtask", uses: &[], tests_use: &[] },
];

/// Compares each crate's dependencies with the list.
///
/// # Errors
/// When a manifest can't be read.
pub(super) fn check(metadata: &Metadata) -> Result<Vec<Violation>> {
    let packages = metadata.workspace_packages();
    let mut violations = Vec::new();
    for package in &packages {
        let manifest = package.manifest_path.as_std_path();
        let Some(rule) = ORDER.iter().find(|rule| rule.name == package.name.as_str()) else {
            let what = format!("{} has no place in the order of the crates; give it one in {}", package.name, file!());
            violations.push(Violation { file: manifest.to_owned(), line: 1, what });
            continue;
        };
        for dependency in &package.dependencies {
            let name = dependency.name.as_str();
            let ours = dependency.path.is_some() || packages.iter().any(|other| other.name.as_str() == name);
            let in_tests = dependency.kind == DependencyKind::Development;
            let allowed = rule.uses.contains(&name) || (in_tests && rule.tests_use.contains(&name));
            if ours && !allowed {
                violations.push(Violation {
                    file: manifest.to_owned(),
                    line: line_of(manifest, dependency)?,
                    what: told(rule, name, in_tests),
                });
            }
        }
    }
    Ok(violations)
}

fn told(rule: &Rule, name: &str, in_tests: bool) -> String {
    let may = if rule.uses.is_empty() { "no crate of the workspace".to_owned() } else { rule.uses.join(", ") };
    let tests_may = if rule.tests_use.is_empty() {
        String::new()
    } else {
        format!(" (its tests: {} as well)", rule.tests_use.join(", "))
    };
    let kind = if in_tests { " in its tests" } else { "" };
    format!("{} uses {name}{kind}; it may use {may}{tests_may}", rule.name)
}

/// The line of the manifest that asks for `dependency`; the first line when it is written in a way unknown here.
fn line_of(manifest: &Path, dependency: &Dependency) -> Result<usize> {
    let text = fs::read_to_string(manifest).with_context(|| format!("can't read {}", manifest.display()))?;
    let section = match dependency.kind {
        DependencyKind::Development => "dev-dependencies",
        DependencyKind::Build => "build-dependencies",
        _ => "dependencies",
    };
    let key = dependency.rename.as_ref().unwrap_or(&dependency.name);
    let mut inside = false;
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(header) = line.strip_prefix('[') {
            // `[dependencies]`, `[target.'cfg(unix)'.dependencies]`, `[dependencies.name]`
            let header = header.split(']').next().unwrap_or(header);
            let ends_with =
                |tail: &str| header == tail || header.strip_suffix(tail).is_some_and(|before| before.ends_with('.'));
            if ends_with(&format!("{section}.{key}")) {
                return Ok(at + 1);
            }
            inside = ends_with(section);
        } else if inside && line.strip_prefix(key.as_str()).is_some_and(|rest| rest.starts_with(['.', '=', ' '])) {
            return Ok(at + 1);
        }
    }
    Ok(1)
}
