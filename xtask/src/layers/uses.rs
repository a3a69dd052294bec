//! Finds which layer uses which.
//!
//! Takes a crate's [`Tree`]; gives how many uses between layers there are, and a violation for each that runs upward.
//! Sees `use` lines (braces, renames), paths in code, in attributes and among the tokens of macros, from `crate`,
//! `$crate`, `self` and chains of `super`. A name that the crate's root re-exports counts as the layer that it is from,
//! so a detour through the root hides nothing. Promises to call a violation what it can't attribute to a layer.

use std::collections::{BTreeSet, HashMap};

use proc_macro2::{Delimiter, Span, TokenStream, TokenTree};
use syn::ext::IdentExt;
use syn::visit::{self, Visit};
use syn::{Attribute, Ident, ImplItemFn, Item, ItemMod, ItemUse, Macro, Meta, Path, UseTree, VisRestricted};

use super::Violation;
use super::modules::{Source, Tree, is_test};

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
    for source in &tree.sources {
        let mut finder = Finder { root: &root, source, depth: source.depth, uses: 0, violations: BTreeSet::new() };
        source.items.iter().for_each(|item| finder.visit_item(item));
        uses += finder.uses;
        violations.extend(finder.violations);
    }
    let unreached = tree.unreached.iter().map(|file| Violation {
        file: file.clone(),
        line: 1,
        what: "no `mod` line leads here, so this file can't be checked; declare it plainly, or remove it".to_owned(),
    });
    violations.extend(unreached);
    (uses, violations.into_iter().collect())
}

impl<'a> Root<'a> {
    fn of(tree: &'a Tree) -> Self {
        let layers = tree.layers.iter().enumerate().map(|(at, name)| (name.clone(), Origin::Layer(at)));
        let mut root = Root { layers: &tree.layers, names: layers.collect(), called: vec!["crate".to_owned()] };
        for item in &tree.root {
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
            for item in &tree.root {
                let Item::Use(item) = item else { continue };
                for leaf in leaves(&item.tree) {
                    let origin = root.origin_in_root(&leaf.path, item.leading_colon.is_some());
                    if let Some(name) = leaf.name {
                        root.bring_in(name, origin);
                    }
                }
            }
        }
        for source in &tree.sources {
            let mut macros = ExportedMacros(Vec::new());
            source.items.iter().for_each(|item| macros.visit_item(item));
            for name in macros.0 {
                root.bring_in(name, Origin::Layer(source.layer));
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
}

/// The macros that `#[macro_export]` puts into the crate's root.
struct ExportedMacros(Vec<String>);

impl<'ast> Visit<'ast> for ExportedMacros {
    fn visit_item_macro(&mut self, item: &'ast syn::ItemMacro) {
        if let Some(name) = &item.ident
            && item.attrs.iter().any(|attribute| attribute.path().is_ident("macro_export"))
        {
            self.0.push(name.unraw().to_string());
        }
    }
}

/// One name that a `use` brings in.
struct Leaf {
    path: Vec<(String, Span)>,
    /// What it is called here; `None` for `*`.
    name: Option<String>,
}

/// All names that a `use` brings in, braces resolved.
fn leaves(tree: &UseTree) -> Vec<Leaf> {
    fn walk(tree: &UseTree, before: &[(String, Span)], found: &mut Vec<Leaf>) {
        let with = |ident: &Ident| [before, &[(ident.unraw().to_string(), ident.span())]].concat();
        match tree {
            UseTree::Path(path) => walk(&path.tree, &with(&path.ident), found),
            UseTree::Name(name) if name.ident == "self" && !before.is_empty() => {
                let name = before.last().map(|(name, _)| name.clone());
                found.push(Leaf { path: before.to_vec(), name });
            }
            UseTree::Name(name) => {
                found.push(Leaf { path: with(&name.ident), name: Some(name.ident.unraw().to_string()) });
            }
            UseTree::Rename(rename) => {
                let path = if rename.ident == "self" { before.to_vec() } else { with(&rename.ident) };
                found.push(Leaf { path, name: Some(rename.rename.unraw().to_string()) });
            }
            UseTree::Glob(glob) => {
                let star = ("*".to_owned(), glob.star_token.spans[0]);
                found.push(Leaf { path: [before, &[star]].concat(), name: None });
            }
            UseTree::Group(group) => group.items.iter().for_each(|tree| walk(tree, before, found)),
        }
    }
    let mut found = Vec::new();
    walk(tree, &[], &mut found);
    found
}

/// Walks the items of one source.
struct Finder<'a> {
    root: &'a Root<'a>,
    source: &'a Source,
    /// How many `super` lead to the root from where the walk is now.
    depth: usize,
    uses: usize,
    violations: BTreeSet<Violation>,
}

impl Finder<'_> {
    /// Judges one path. `in_use` says that it is a whole `use`, which may name the root itself.
    fn path(&mut self, path: &[(String, Span)], in_use: bool) {
        let Some(after_root) = self.past_root(path) else {
            return;
        };
        let Some((last, span)) = path.last() else {
            return;
        };
        let as_written = path.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join("::");
        let own = &self.root.layers[self.source.layer];
        let (name, span) = match after_root.first() {
            None if in_use => (last.as_str(), *span),
            None => return,
            Some((name, span)) => (name.as_str(), *span),
        };
        let what = match self.root.names.get(name) {
            _ if after_root.is_empty() || name == "*" => {
                format!("{own} takes in the crate's whole root (`{as_written}`), so all layers; name what it uses")
            }
            Some(Origin::Outside) => return,
            Some(Origin::Layer(layer)) if *layer <= self.source.layer => {
                self.uses += usize::from(*layer < self.source.layer);
                return;
            }
            Some(Origin::Layer(layer)) => {
                let used = &self.root.layers[*layer];
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
        self.violations.insert(Violation { file: self.source.file.clone(), line: span.start().line, what });
    }

    /// What is left of `path` after its way to the crate's root, or `None` if it doesn't go there.
    fn past_root<'p>(&self, path: &'p [(String, Span)]) -> Option<&'p [(String, Span)]> {
        let (first, rest) = path.split_first()?;
        if self.root.called.contains(&first.0) {
            return Some(rest);
        }
        let path = if first.0 == "self" { rest } else { path };
        let up = path.iter().take_while(|(name, _)| name == "super").count();
        (up > 0 && up >= self.depth).then(|| &path[up..])
    }

    /// Judges the paths among the tokens of a macro, which syn leaves unread.
    fn tokens(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            match &tokens[at] {
                TokenTree::Group(group) => self.tokens(group.stream()),
                TokenTree::Ident(ident) => {
                    let mut path = vec![(ident.unraw().to_string(), ident.span())];
                    while is_path_separator(&tokens[at + 1..]) {
                        match tokens.get(at + 3) {
                            Some(TokenTree::Ident(ident)) => path.push((ident.unraw().to_string(), ident.span())),
                            Some(TokenTree::Punct(star)) if star.as_char() == '*' => {
                                path.push(("*".to_owned(), star.span()));
                            }
                            Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                                self.braces(&path, group.stream());
                                break;
                            }
                            _ => break,
                        }
                        at += 3;
                    }
                    self.path(&path, false);
                }
                _ => {}
            }
            at += 1;
        }
    }

    /// Judges `path::{first, second::…, …}` among tokens: the first name of each decides.
    fn braces(&mut self, path: &[(String, Span)], tokens: TokenStream) {
        let mut starts = true;
        for token in tokens {
            match &token {
                TokenTree::Ident(ident) if starts => {
                    self.path(&[path, &[(ident.unraw().to_string(), ident.span())]].concat(), false);
                    starts = false;
                }
                TokenTree::Punct(punct) if punct.as_char() == ',' => starts = true,
                _ => {}
            }
        }
    }
}

/// Whether the tokens begin with `::`.
fn is_path_separator(tokens: &[TokenTree]) -> bool {
    matches!(tokens, [TokenTree::Punct(one), TokenTree::Punct(two), ..] if one.as_char() == ':' && two.as_char() == ':')
}

impl<'ast> Visit<'ast> for Finder<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        if !is_test(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast ImplItemFn) {
        if !is_test(&item.attrs) {
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        self.depth += 1;
        visit::visit_item_mod(self, module);
        self.depth -= 1;
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        for leaf in leaves(&item.tree) {
            self.path(&leaf.path, true);
        }
        item.attrs.iter().for_each(|attribute| self.visit_attribute(attribute));
    }

    fn visit_path(&mut self, path: &'ast Path) {
        let names: Vec<_> =
            path.segments.iter().map(|part| (part.ident.unraw().to_string(), part.ident.span())).collect();
        self.path(&names, false);
        visit::visit_path(self, path); // generic arguments hold paths of their own
    }

    /// `pub(in path)` can name nothing but modules around itself.
    fn visit_vis_restricted(&mut self, _: &'ast VisRestricted) {}

    fn visit_macro(&mut self, call: &'ast Macro) {
        visit::visit_macro(self, call);
        self.tokens(call.tokens.clone());
    }

    /// Derives and the like take paths. Documentation comes as `#[doc = "…"]`, a string, and is passed over.
    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        visit::visit_attribute(self, attribute);
        if let Meta::List(list) = &attribute.meta {
            self.tokens(list.tokens.clone());
        }
    }
}

/// The attributes of an item, of whatever kind it is.
fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::ExternCrate(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::ForeignMod(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::TraitAlias(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}
