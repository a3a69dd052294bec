//! Reads a crate's module tree from its source.
//!
//! Takes the path of `lib.rs`; gives its layers in the order of their `mod` lines, and every piece of source with the
//! layer it belongs to. Promises that each `.rs` file beside `lib.rs` was either read, or is exempt as a test, or is
//! named in [`Tree::unreached`]: a file that this reader can't find its way to must not pass for a checked one.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use syn::ext::IdentExt;
use syn::punctuated::Punctuated;
use syn::{Attribute, Expr, ExprLit, Item, ItemMod, Lit, Meta, Token};

/// A crate's source, by layers.
pub(super) struct Tree {
    /// The top-level modules in the order in which `lib.rs` declares them, tests left out.
    pub(super) layers: Vec<String>,
    /// The items of `lib.rs`: what the crate's root declares and re-exports.
    pub(super) root: Vec<Item>,
    /// All that belongs to a layer.
    pub(super) sources: Vec<Source>,
    /// Files that no `mod` line leads to as far as this reader understands them.
    pub(super) unreached: Vec<PathBuf>,
}

/// The items of one file, or of a top-level module that `lib.rs` holds inline.
pub(super) struct Source {
    pub(super) file: PathBuf,
    /// Index into [`Tree::layers`].
    pub(super) layer: usize,
    /// How many `super` lead from here to the crate's root.
    pub(super) depth: usize,
    pub(super) items: Vec<Item>,
}

/// Reads the crate whose root is `lib`.
///
/// # Errors
/// When a file is missing, can't be read or isn't Rust.
pub(super) fn read(lib: &Path) -> Result<Tree> {
    let folder = lib.parent().context("lib.rs stands in no folder")?;
    let mut reader = Reader { sources: Vec::new(), read: HashSet::from([(lib.canonicalize()?, None)]) };
    let mut layers: Vec<String> = Vec::new();
    let root = parse(lib)?.items;
    let at = Place { file: lib, beside: folder, children: folder.to_owned() };
    for item in &root {
        let Item::Mod(module) = item else { continue };
        let name = module.ident.unraw().to_string();
        if is_test(&module.attrs) {
            reader.module(module, &at, None)?;
            continue;
        }
        // The same name twice is one layer, declared once for each side of a `cfg`.
        let layer = layers.iter().position(|other| *other == name).unwrap_or_else(|| {
            layers.push(name);
            layers.len() - 1
        });
        reader.module(module, &at, Some((layer, 1)))?;
        if let Some((_, items)) = &module.content {
            reader.sources.push(Source { file: lib.to_owned(), layer, depth: 1, items: items.clone() });
        }
    }
    let mut unreached = Vec::new();
    rust_files(folder, &mut unreached)?;
    let read: HashSet<&PathBuf> = reader.read.iter().map(|(file, _)| file).collect();
    unreached.retain(|file| !file.canonicalize().is_ok_and(|file| read.contains(&file)));
    Ok(Tree { layers, root, sources: reader.sources, unreached })
}

/// Where a module's own modules are looked for.
struct Place<'a> {
    file: &'a Path,
    /// The folder of the file itself.
    beside: &'a Path,
    /// The folder for files of child modules.
    children: PathBuf,
}

struct Reader {
    sources: Vec<Source>,
    /// What was read, and for which layer and depth: a file may serve a test and a layer, or two layers.
    read: HashSet<(PathBuf, Option<(usize, usize)>)>,
}

impl Reader {
    /// Reads `module`, declared at `at`, and all below it. `place` is its layer and depth; tests have none.
    fn module(&mut self, module: &ItemMod, at: &Place<'_>, place: Option<(usize, usize)>) -> Result<()> {
        let name = module.ident.unraw().to_string();
        let place = place.filter(|_| !is_test(&module.attrs));
        let path_attribute = path_attribute(&module.attrs);

        if let Some((_, items)) = &module.content {
            let children = at.children.join(path_attribute.as_deref().unwrap_or(&name));
            return self.items(items, &Place { file: at.file, beside: &children.clone(), children }, place);
        }

        let line = module.ident.span().start().line;
        let (file, is_folder_file) = match path_attribute {
            // Rust looks for a file named by `#[path]` beside the file, and for its children beside it.
            Some(path) => (at.beside.join(path), true),
            None => {
                let flat = at.children.join(format!("{name}.rs"));
                let nested = at.children.join(&name).join("mod.rs");
                if flat.is_file() {
                    (flat, false)
                } else if nested.is_file() {
                    (nested, true)
                } else {
                    bail!(
                        "{}:{line}: no file for `mod {name}`: neither {} nor {}",
                        at.file.display(),
                        flat.display(),
                        nested.display()
                    );
                }
            }
        };
        let parsed = parse(&file)?;
        let place = place.filter(|_| !is_test(&parsed.attrs));
        if !self.read.insert((file.canonicalize()?, place)) {
            return Ok(()); // two sides of a `cfg` that share a file
        }
        let beside = file.parent().context("a module's file stands in no folder")?.to_owned();
        let children = if is_folder_file { beside.clone() } else { file.with_extension("") };
        self.items(&parsed.items, &Place { file: &file, beside: &beside, children }, place)?;
        if let Some((layer, depth)) = place {
            self.sources.push(Source { file, layer, depth, items: parsed.items });
        }
        Ok(())
    }

    /// Reads the modules among `items`, whose own module stands at `place`.
    fn items(&mut self, items: &[Item], at: &Place<'_>, place: Option<(usize, usize)>) -> Result<()> {
        for item in items {
            if let Item::Mod(module) = item {
                self.module(module, at, place.map(|(layer, depth)| (layer, depth + 1)))?;
            }
        }
        Ok(())
    }
}

fn parse(file: &Path) -> Result<syn::File> {
    let text = fs::read_to_string(file).with_context(|| format!("can't read {}", file.display()))?;
    syn::parse_file(&text)
        .map_err(|error| anyhow::anyhow!("{}:{}: not Rust: {error}", file.display(), error.span().start().line))
}

/// The file that `#[path = "..."]` names.
fn path_attribute(attributes: &[Attribute]) -> Option<String> {
    attributes.iter().find_map(|attribute| match &attribute.meta {
        Meta::NameValue(pair) if pair.path.is_ident("path") => match &pair.value {
            Expr::Lit(ExprLit { lit: Lit::Str(path), .. }) => Some(path.value()),
            _ => None,
        },
        _ => None,
    })
}

/// Whether what has these attributes is built for tests only.
pub(super) fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) if list.path.is_ident("cfg") => list.parse_args().is_ok_and(|meta| implies_test(&meta)),
        _ => false,
    })
}

/// `test`, `all` with one part that implies it, `any` of which each part does.
fn implies_test(condition: &Meta) -> bool {
    match condition {
        Meta::Path(path) => path.is_ident("test"),
        Meta::List(list) => {
            let parts = list.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated).unwrap_or_default();
            (list.path.is_ident("all") && parts.iter().any(implies_test))
                || (list.path.is_ident("any") && !parts.is_empty() && parts.iter().all(implies_test))
        }
        _ => false,
    }
}

/// Adds every `.rs` file in `folder` and below to `found`.
fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("can't read the folder {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            rust_files(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(())
}
