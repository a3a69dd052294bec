//! Finds which layer uses which.
//!
//! Takes a crate's [`Tree`]; gives how many uses between layers there are, and a violation for each that runs upward.
//! Sees all [`paths`] from `crate`, `$crate`, `self` and chains of `super`. A name that the crate's root re-exports
//! counts as the layer that it is from, so a detour through the root hides nothing. Promises to call a violation what it
//! can't attribute to a layer.

use std::collections::{BTreeSet, HashMap};

use proc_macro2::Span;
use syn::Item;
use syn::ext::IdentExt;

use super::modules::{Source, Tree};
use super::paths::{self, Found, Kind};
use super::violation::Violation;

/// What a name in the crate's root stands for.
/// Ordered so that the later layer is the greater one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Origin {
    /// Another crate.
    Outside,
    Layer(usize),
}

/// The names of the crate's root, and what the root itself is called.
struct Root<'a> {
    layers: &'a [String],
    names: HashMap<String, Origin>,
    /// `crate`, and what `extern crate self as` calls it.
    called: Vec<String>,
}

/// Counts the uses between layers, and finds those against the order.
pub(super) fn check(tree: &Tree) -> (usize, Vec<Violation>) {
    let root = Root::of(tree);
    let mut uses = 0;
    let mut violations = BTreeSet::new();
    for source in tree.sources.iter().filter(|source| !source.path.is_empty()) {
        for found in paths::find(source) {
            match root.judge(source, &found) {
                Judged::Apart => {}
                Judged::Downward => uses += 1,
                Judged::Against { line, what } => {
                    violations.insert(Violation { file: source.file.clone(), line, what });
                }
            }
        }
    }
    (uses, violations.into_iter().collect())
}

/// What one path comes to.
enum Judged {
    /// It stays in its layer, or leads to another crate.
    Apart,
    Downward,
    Against {
        line: usize,
        what: String,
    },
}

impl<'a> Root<'a> {
    fn of(tree: &'a Tree) -> Self {
        let layers = tree.layers.iter().enumerate().map(|(at, name)| (name.clone(), Origin::Layer(at)));
        let mut root = Root { layers: &tree.layers, names: layers.collect(), called: vec!["crate".to_owned()] };
        for item in tree.root() {
            let Item::ExternCrate(item) = item else {
                continue;
            };
            let name = item.rename.as_ref().map_or(&item.ident, |(_, name)| name).unraw().to_string();
            if item.ident == "self" {
                root.called.push(name);
            } else {
                root.names.insert(name, Origin::Outside);
            }
        }
        // Twice, since a `use` may name what a later one brings in.
        for _ in 0..2 {
            for item in tree.root() {
                let Item::Use(item) = item else { continue };
                for leaf in paths::leaves(&item.tree) {
                    let origin = root.origin_in_root(&leaf.path, item.leading_colon.is_some());
                    if let Some(name) = leaf.name {
                        root.bring_in(name, origin);
                    }
                }
            }
        }
        for source in tree.sources.iter().filter(|source| !source.path.is_empty()) {
            for name in source.exported_macros() {
                root.bring_in(name, Origin::Layer(tree.layer(source)));
            }
        }
        root
    }

    /// Notes that `name` in the root comes from `origin`. If it comes from two (each on its side of a `cfg`, or a
    /// function and a type of one name), the later layer counts. A module's own name stands for that module.
    fn bring_in(&mut self, name: String, origin: Origin) {
        if !self.layers.contains(&name) {
            let known = self.names.entry(name).or_insert(origin);
            *known = origin.max(*known);
        }
    }

    /// What a `use` in the root itself leads to.
    fn origin_in_root(&self, path: &[(String, Span)], leading_colon: bool) -> Origin {
        let mut names = path.iter().map(|(name, _)| name.as_str()).peekable();
        let from_here = names.next_if(|name| *name == "self" || self.called.iter().any(|own| own == name)).is_some();
        match names.next().and_then(|first| self.names.get(first)) {
            Some(origin) if from_here || !leading_colon => *origin,
            _ => Origin::Outside,
        }
    }

    fn judge(&self, source: &Source, found: &Found) -> Judged {
        let Some(after_root) = self.past_root(found) else {
            return Judged::Apart;
        };
        let Some((last, span)) = found.names.last() else {
            return Judged::Apart;
        };
        let as_written = found.as_written();
        // A layer's source always stands in a module that the root declares.
        let own = &source.path[0];
        let Some(layer) = self.layers.iter().position(|layer| layer == own) else {
            return Judged::Apart;
        };
        let (name, span) = match after_root.first() {
            // Only a whole `use` may name the root itself.
            None if matches!(found.kind, Kind::Use { .. }) => (last.as_str(), *span),
            None => return Judged::Apart,
            Some((name, span)) => (name.as_str(), *span),
        };
        let what = match self.names.get(name) {
            _ if after_root.is_empty() || name == "*" => {
                format!("{own} takes in the crate's whole root (`{as_written}`), so all layers; name what it uses")
            }
            Some(Origin::Outside) => return Judged::Apart,
            Some(Origin::Layer(used)) if *used == layer => return Judged::Apart,
            Some(Origin::Layer(used)) if *used < layer => return Judged::Downward,
            Some(Origin::Layer(used)) => {
                let used = &self.layers[*used];
                format!(
                    "{own} uses {used} (`{as_written}`), which lib.rs declares after it; \
                     move the code up to where both are known, or what it needs down"
                )
            }
            None => format!(
                "{own} uses `{as_written}` from the crate's root, which belongs to no layer as far as can be seen; \
                 put it into a module, or name its module"
            ),
        };
        Judged::Against { line: span.start().line, what }
    }

    /// What is left of a path after its way to the crate's root, or `None` if it doesn't go there.
    fn past_root<'p>(&self, found: &'p Found) -> Option<&'p [(String, Span)]> {
        let (first, rest) = found.names.split_first()?;
        if self.called.contains(&first.0) {
            return Some(rest);
        }
        let path = if first.0 == "self" { rest } else { &found.names };
        let up = path.iter().take_while(|(name, _)| name == "super").count();
        (up > 0 && up >= found.module.len()).then(|| &path[up..])
    }
}
