//! Finds circles of files.
//!
//! Takes a crate's [`Tree`]; gives a violation for each set of files that use each other in a circle, with the shortest
//! way round. **A file uses the file that defines what it names; a `mod` line and a re-export use nothing.** So a
//! parent that only declares and re-exports is in no circle, and a name counts for the file that defines it, by
//! whatever re-exports it was reached. A parent is a file like any other: what it shares with its children belongs
//! into one of them. Calls of methods name no file, so they don't count.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::path::Path;

use syn::Item;
use syn::ext::IdentExt;

use super::modules::{Source, Tree, is_test};
use super::paths::{self, Found, Kind, attributes};
use super::violation::Violation;

/// Counts the uses between files, and finds the circles. Files are told by their paths from `base`.
pub(super) fn check(tree: &Tree, base: &Path) -> (usize, Vec<Violation>) {
    let found: Vec<(&Source, Vec<Found>)> = tree.sources.iter().map(|source| (source, paths::find(source))).collect();
    let names = AllNames::of(&found);
    let mut uses = Uses::new();
    for (source, found) in &found {
        for found in found {
            let files = names.used_by(found);
            for file in files.into_iter().filter(|file| *file != source.file) {
                let line = found.names.first().map_or(1, |(_, span)| span.start().line);
                let place = (line, found.as_written());
                uses.entry(&source.file).or_default().entry(file).or_insert(place);
            }
        }
    }
    let count = uses.values().map(BTreeMap::len).sum();
    (count, circles(&uses, base))
}

/// Each file with those that it uses, and the line and the path that say so first.
type Uses<'a> = BTreeMap<&'a Path, BTreeMap<&'a Path, (usize, String)>>;

/// What a name in a module stands for.
enum Meaning<'a> {
    DefinedIn(&'a Path),
    /// What this path leads to from the module.
    Brought {
        path: Vec<String>,
        outside: bool,
    },
}

struct Module<'a> {
    file: &'a Path,
    /// More than one meaning where there's a `cfg`, and where a type and a function have the same name.
    names: HashMap<String, Vec<Meaning<'a>>>,
    /// What a `use` takes all names of.
    globs: Vec<Vec<String>>,
}

/// The names of all modules of a crate.
struct AllNames<'a> {
    modules: HashMap<Vec<String>, Module<'a>>,
    /// `crate`, and what `extern crate self as` calls it.
    called: HashSet<String>,
}

/// What a path leads to.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Reached<'a> {
    File(&'a Path),
    Module(Vec<String>),
}

/// Names that a search has looked up already: a `use` can lead back to itself.
type Seen = HashSet<(Vec<String>, String)>;

impl<'a> AllNames<'a> {
    fn of(found: &[(&'a Source, Vec<Found>)]) -> Self {
        let mut all = Self { modules: HashMap::new(), called: HashSet::from(["crate".to_owned()]) };
        for (source, _) in found {
            all.module(&source.file, &source.path, &source.items);
            for name in source.exported_macros() {
                all.define(&[], name, Meaning::DefinedIn(&source.file));
            }
        }
        for found in found.iter().flat_map(|(_, found)| found) {
            let Kind::Use { name, .. } = &found.kind else { continue };
            let mut path: Vec<String> = found.names.iter().map(|(name, _)| name.clone()).collect();
            match name {
                Some(name) => {
                    let meaning = Meaning::Brought { path, outside: found.outside };
                    all.define(&found.module, name.clone(), meaning);
                }
                None if found.outside => {}
                None => {
                    path.pop(); // the `*`
                    if let Some(module) = all.modules.get_mut(&found.module) {
                        module.globs.push(path);
                    }
                }
            }
        }
        all
    }

    /// Takes in what a module defines, and the modules inside it.
    fn module(&mut self, file: &'a Path, path: &[String], items: &'a [Item]) {
        let new = || Module { file, names: HashMap::new(), globs: Vec::new() };
        self.modules.entry(path.to_vec()).or_insert_with(new);
        for item in items.iter().filter(|item| !is_test(attributes(item))) {
            let ident = match item {
                Item::Const(item) => &item.ident,
                Item::Enum(item) => &item.ident,
                Item::Fn(item) => &item.sig.ident,
                Item::Static(item) => &item.ident,
                Item::Struct(item) => &item.ident,
                Item::Trait(item) => &item.ident,
                Item::TraitAlias(item) => &item.ident,
                Item::Type(item) => &item.ident,
                Item::Union(item) => &item.ident,
                Item::Macro(item) => match &item.ident {
                    Some(ident) => ident,
                    None => continue,
                },
                Item::ExternCrate(item) => {
                    let name = item.rename.as_ref().map_or(&item.ident, |(_, name)| name).unraw().to_string();
                    if item.ident == "self" {
                        self.called.insert(name);
                    } else {
                        self.define(path, name.clone(), Meaning::Brought { path: vec![name], outside: true });
                    }
                    continue;
                }
                Item::Mod(module) => {
                    if let Some((_, items)) = &module.content {
                        let child = [path, &[module.ident.unraw().to_string()]].concat();
                        self.module(file, &child, items);
                    }
                    continue;
                }
                _ => continue,
            };
            self.define(path, ident.unraw().to_string(), Meaning::DefinedIn(file));
        }
    }

    fn define(&mut self, module: &[String], name: String, meaning: Meaning<'a>) {
        if let Some(module) = self.modules.get_mut(module) {
            module.names.entry(name).or_default().push(meaning);
        }
    }

    /// The files that define what a path names. A path that ends at a module names nothing in it yet.
    fn used_by(&self, found: &Found) -> Vec<&'a Path> {
        if found.outside || matches!(found.kind, Kind::Use { visible: true, .. }) {
            return Vec::new();
        }
        let names: Vec<String> = found.names.iter().map(|(name, _)| name.clone()).collect();
        let reached = self.follow(&found.module, &names, &mut Seen::new());
        reached.into_iter().filter_map(|one| if let Reached::File(file) = one { Some(file) } else { None }).collect()
    }

    /// Follows a path that is written in `module`.
    fn follow(&self, module: &[String], path: &[String], seen: &mut Seen) -> BTreeSet<Reached<'a>> {
        let Some((first, mut rest)) = path.split_first() else {
            return BTreeSet::new();
        };
        let mut at = module.to_vec();
        if self.called.contains(first) {
            at.clear();
        } else if first == "super" {
            at.pop();
        } else if first != "self" {
            return self.look_up(&at, path, seen);
        }
        while let Some((_, after)) = rest.split_first().filter(|(name, _)| *name == "super") {
            at.pop();
            rest = after;
        }
        self.inside(at, rest, seen)
    }

    /// Follows what is left of a path, once it has come to module `at`.
    fn inside(&self, at: Vec<String>, rest: &[String], seen: &mut Seen) -> BTreeSet<Reached<'a>> {
        let Some(module) = self.modules.get(&at) else {
            return BTreeSet::new(); // a module for tests
        };
        match rest.first() {
            None => BTreeSet::from([Reached::Module(at)]),
            Some(name) if name == "*" => BTreeSet::from([Reached::File(module.file)]),
            Some(name) => {
                let is_known = module.names.contains_key(name)
                    || self.modules.contains_key(&[&at[..], std::slice::from_ref(name)].concat());
                let reached = self.look_up(&at, rest, seen);
                // Nothing defines it to be seen, so a macro does.
                if reached.is_empty() && !is_known {
                    return BTreeSet::from([Reached::File(module.file)]);
                }
                reached
            }
        }
    }

    /// Looks up the first name of `path` in module `at`, and follows the rest from there.
    fn look_up(&self, at: &[String], path: &[String], seen: &mut Seen) -> BTreeSet<Reached<'a>> {
        let (Some(module), Some((name, rest))) = (self.modules.get(at), path.split_first()) else {
            return BTreeSet::new();
        };
        if !seen.insert((at.to_vec(), name.clone())) {
            return BTreeSet::new();
        }
        let child = [at, std::slice::from_ref(name)].concat();
        let meanings = module.names.get(name).map_or(&[][..], Vec::as_slice);
        // Of a module and a function of the same name, only the module has names inside.
        if self.modules.contains_key(&child) && (!rest.is_empty() || meanings.is_empty()) {
            return self.inside(child, rest, seen);
        }
        let mut reached = BTreeSet::new();
        for meaning in meanings {
            match meaning {
                Meaning::DefinedIn(file) => drop(reached.insert(Reached::File(file))),
                Meaning::Brought { outside: true, .. } => {}
                Meaning::Brought { path, .. } => reached.extend(self.follow(at, &[path, rest].concat(), seen)),
            }
        }
        if meanings.is_empty() {
            for glob in &module.globs {
                for one in self.follow(at, glob, &mut seen.clone()) {
                    if let Reached::Module(module) = one {
                        reached.extend(self.look_up(&module, path, seen));
                    }
                }
            }
        }
        reached
    }
}

/// One violation for each set of files that all lead to each other.
fn circles(uses: &Uses<'_>, base: &Path) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut told = BTreeSet::new();
    for (&file, used) in uses {
        if told.contains(file) {
            continue;
        }
        let Some(way) = way_round(uses, file) else { continue };
        let leads_to = reached_from(uses, file);
        let members: Vec<&Path> =
            leads_to.into_iter().filter(|other| reached_from(uses, other).contains(file)).collect();
        let short = |file: &Path| file.strip_prefix(base).unwrap_or(file).display().to_string();
        let mut steps = Vec::new();
        for pair in way.windows(2) {
            let (line, path) = &uses[pair[0]][pair[1]];
            steps.push(format!("{} uses {} (`{path}`, line {line})", short(pair[0]), short(pair[1])));
        }
        violations.push(Violation {
            file: file.to_owned(),
            line: used[way[1]].0,
            what: format!(
                "in a circle of {} files: {}; move what they share into a file below them",
                members.len(),
                steps.join(", ")
            ),
        });
        told.extend(members);
    }
    violations
}

/// All files that a chain of uses leads to from `start`.
fn reached_from<'a>(uses: &Uses<'a>, start: &Path) -> BTreeSet<&'a Path> {
    let mut reached = BTreeSet::new();
    let mut next: Vec<&Path> = vec![start];
    while let Some(file) = next.pop() {
        for &used in uses.get(file).into_iter().flat_map(BTreeMap::keys) {
            if reached.insert(used) {
                next.push(used);
            }
        }
    }
    reached
}

/// The shortest chain of uses from `start` back to it, if there's one.
fn way_round<'a>(uses: &Uses<'a>, start: &'a Path) -> Option<Vec<&'a Path>> {
    let mut from: BTreeMap<&Path, &Path> = BTreeMap::new();
    let mut next = VecDeque::from([start]);
    while let Some(file) = next.pop_front() {
        for &used in uses.get(file).into_iter().flat_map(BTreeMap::keys) {
            if used == start {
                let mut way = vec![start, file];
                while way.last() != Some(&start) {
                    way.push(from[way[way.len() - 1]]);
                }
                way.reverse();
                return Some(way);
            }
            if !from.contains_key(used) {
                from.insert(used, file);
                next.push_back(used);
            }
        }
    }
    None
}
