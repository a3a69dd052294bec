//! Reads a crate's module tree from its source.
//!
//! Takes the path of the crate's root (`lib.rs`, `main.rs`, a test's file); gives its layers in the order of their `mod`
//! lines, and every piece of source with the module that it is. Names the files that no `mod` line leads to as far as
//! this reader understands them: a file that it can't find its way to must not pass for a checked one.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use syn::ext::IdentExt;
use syn::punctuated::Punctuated;
use syn::visit::Visit;
use syn::{Attribute, Expr, ExprLit, Item, ItemMod, Lit, Meta, Token};

use super::violation::Violation;

/// A crate's source.
pub(super) struct Tree {
    /// The top-level modules in the order in which the root declares them, tests left out.
    pub(super) layers: Vec<String>,
    /// All that is built for more than tests, the root's own items first.
    pub(super) sources: Vec<Source>,
    /// All files that were read, tests as well.
    pub(super) files: HashSet<PathBuf>,
}

/// The items of one file, or of a top-level module that the root holds inline.
pub(super) struct Source {
    pub(super) file: PathBuf,
    /// The module that it is, from the crate's root; none for the root itself.
    pub(super) path: Vec<String>,
    pub(super) items: Vec<Item>,
}

impl Tree {
    /// What the crate's root declares and re-exports.
    pub(super) fn root(&self) -> &[Item] {
        self.sources.first().map_or(&[], |root| &root.items)
    }

    /// Whether `file` was read.
    pub(super) fn has(&self, file: &Path) -> bool {
        file.canonicalize().is_ok_and(|file| self.files.contains(&file))
    }

    /// The index into [`Tree::layers`] of the layer that a source belongs to; the root counts to the last.
    pub(super) fn layer(&self, source: &Source) -> usize {
        let last = self.layers.len();
        source.path.first().and_then(|name| self.layers.iter().position(|layer| layer == name)).unwrap_or(last)
    }
}

impl Source {
    /// The macros that `#[macro_export]` puts into the crate's root.
    pub(super) fn exported_macros(&self) -> Vec<String> {
        let mut macros = ExportedMacros(Vec::new());
        self.items.iter().for_each(|item| macros.visit_item(item));
        macros.0
    }
}

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

/// Reads the crate whose root is `root`.
///
/// # Errors
/// When a file is missing, can't be read or isn't Rust.
pub(super) fn read(root: &Path) -> Result<Tree> {
    let folder = root.parent().context("the crate's root stands in no folder")?;
    let mut layers: Vec<String> = Vec::new();
    let items = parse(root)?.items;
    let mut reader = Reader {
        sources: vec![Source { file: root.to_owned(), path: Vec::new(), items: items.clone() }],
        read: HashSet::from([(root.canonicalize()?, None)]),
    };
    let at = Place { file: root, beside: folder, children: folder.to_owned() };
    for item in &items {
        let Item::Mod(module) = item else { continue };
        let name = module.ident.unraw().to_string();
        if is_test(&module.attrs) {
            reader.module(module, &at, None)?;
            continue;
        }
        // The same name twice is one layer, declared once for each side of a `cfg`.
        if !layers.contains(&name) {
            layers.push(name.clone());
        }
        reader.module(module, &at, Some(&[]))?;
        if let Some((_, items)) = &module.content {
            reader.sources.push(Source { file: root.to_owned(), path: vec![name], items: items.clone() });
        }
    }
    let files = reader.read.into_iter().map(|(file, _)| file).collect();
    Ok(Tree { layers, sources: reader.sources, files })
}

/// The `.rs` files in `folder` and below that none of the crates `trees` has read.
///
/// # Errors
/// When a folder can't be read.
pub(super) fn unreached(folder: &Path, trees: &[&Tree]) -> Result<Vec<Violation>> {
    let mut files = Vec::new();
    rust_files(folder, &mut files)?;
    files.retain(|file| !trees.iter().any(|tree| tree.has(file)));
    let what = "no `mod` line leads here, so this file can't be checked; declare it plainly, or remove it";
    Ok(files.into_iter().map(|file| Violation { file, line: 1, what: what.to_owned() }).collect())
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
    /// What was read, and as which module: a file may serve a test and a module, or two modules.
    read: HashSet<(PathBuf, Option<Vec<String>>)>,
}

impl Reader {
    /// Reads `module`, declared at `at`, and all below it. `parent` is the module around it; tests have none.
    fn module(&mut self, module: &ItemMod, at: &Place<'_>, parent: Option<&[String]>) -> Result<()> {
        let name = module.ident.unraw().to_string();
        let path =
            parent.filter(|_| !is_test(&module.attrs)).map(|parent| [parent, std::slice::from_ref(&name)].concat());
        let path_attribute = path_attribute(&module.attrs);

        if let Some((_, items)) = &module.content {
            let children = at.children.join(path_attribute.as_deref().unwrap_or(&name));
            return self.items(items, &Place { file: at.file, beside: &children.clone(), children }, path.as_deref());
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
        let path = path.filter(|_| !is_test(&parsed.attrs));
        if !self.read.insert((file.canonicalize()?, path.clone())) {
            return Ok(()); // two sides of a `cfg` that share a file
        }
        let beside = file.parent().context("a module's file stands in no folder")?.to_owned();
        let children = if is_folder_file { beside.clone() } else { file.with_extension("") };
        self.items(&parsed.items, &Place { file: &file, beside: &beside, children }, path.as_deref())?;
        if let Some(path) = path {
            self.sources.push(Source { file, path, items: parsed.items });
        }
        Ok(())
    }

    /// Reads the modules among `items`, whose own module is `path`.
    fn items(&mut self, items: &[Item], at: &Place<'_>, path: Option<&[String]>) -> Result<()> {
        for item in items {
            if let Item::Mod(module) = item {
                self.module(module, at, path)?;
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
