//! Finds every path that code names.
//!
//! Takes the items of a source; gives each path in them with the module that it stands in. Sees `use` lines (braces,
//! renames), paths in code, in attributes and among the tokens of macros. Promises to pass over documentation, strings
//! and what `#[cfg(test)]` holds.

use proc_macro2::{Delimiter, Span, TokenStream, TokenTree};
use syn::ext::IdentExt;
use syn::visit::{self, Visit};
use syn::{Attribute, Ident, ImplItemFn, Item, ItemMod, ItemUse, Macro, Meta, UseTree, VisRestricted, Visibility};

use super::modules::{Source, is_test};

/// A path as written: its names, and where each stands.
pub(super) type Names = Vec<(String, Span)>;

/// One path.
pub(super) struct Found {
    /// The module that it stands in, from the crate's root.
    pub(super) module: Vec<String>,
    pub(super) names: Names,
    /// Whether it begins with `::`, so with another crate's name.
    pub(super) outside: bool,
    pub(super) kind: Kind,
}

impl Found {
    pub(super) fn as_written(&self) -> String {
        self.names.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join("::")
    }
}

/// Where a path stands.
pub(super) enum Kind {
    Code,
    /// In a `use`, which calls it so; `None` for `*`.
    Use {
        name: Option<String>,
        /// Whether others can name it from here.
        visible: bool,
    },
}

/// Finds all paths in `source`.
pub(super) fn find(source: &Source) -> Vec<Found> {
    let mut finder = Finder { module: source.path.clone(), found: Vec::new() };
    source.items.iter().for_each(|item| finder.visit_item(item));
    finder.found
}

/// One name that a `use` brings in.
pub(super) struct Leaf {
    pub(super) path: Names,
    /// What it is called here; `None` for `*`.
    pub(super) name: Option<String>,
}

/// All names that a `use` brings in, braces resolved.
pub(super) fn leaves(tree: &UseTree) -> Vec<Leaf> {
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
struct Finder {
    /// Where the walk is now.
    module: Vec<String>,
    found: Vec<Found>,
}

impl Finder {
    fn path(&mut self, names: Names, outside: bool, kind: Kind) {
        self.found.push(Found { module: self.module.clone(), names, outside, kind });
    }

    /// Finds the paths among the tokens of a macro, which syn leaves unread.
    fn tokens(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            match &tokens[at] {
                TokenTree::Group(group) => self.tokens(group.stream()),
                TokenTree::Ident(ident) => {
                    let outside = at >= 2 && is_path_separator(&tokens[at - 2..]);
                    let dot_at = |at: Option<usize>| {
                        at.is_some_and(|at| matches!(&tokens[at], TokenTree::Punct(dot) if dot.as_char() == '.'))
                    };
                    // A field or a method; after two dots it's the end of a range.
                    let member = dot_at(at.checked_sub(1)) && !dot_at(at.checked_sub(2));
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
                    if !member {
                        self.path(path, outside, Kind::Code);
                    }
                }
                _ => {}
            }
            at += 1;
        }
    }

    /// Finds the paths in `path::{first, second::…, …}` among tokens: the first name of each.
    fn braces(&mut self, path: &[(String, Span)], tokens: TokenStream) {
        let mut starts = true;
        for token in tokens {
            match &token {
                TokenTree::Ident(ident) if starts => {
                    let names = [path, &[(ident.unraw().to_string(), ident.span())]].concat();
                    self.path(names, false, Kind::Code);
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

impl<'ast> Visit<'ast> for Finder {
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
        self.module.push(module.ident.unraw().to_string());
        visit::visit_item_mod(self, module);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        let visible = !matches!(item.vis, Visibility::Inherited);
        for Leaf { path, name } in leaves(&item.tree) {
            self.path(path, item.leading_colon.is_some(), Kind::Use { name, visible });
        }
        item.attrs.iter().for_each(|attribute| self.visit_attribute(attribute));
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names = path.segments.iter().map(|part| (part.ident.unraw().to_string(), part.ident.span())).collect();
        self.path(names, path.leading_colon.is_some(), Kind::Code);
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
pub(super) fn attributes(item: &Item) -> &[Attribute] {
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
