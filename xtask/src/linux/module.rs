//! The module: the shim compiled by a kernel's own build, and linked with the Rust object.
//!
//! Takes a kernel, the shim's source and the object; gives the module's file. Promises that compiler, objtool and modpost
//! had nothing to say: a warning is an error.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::cache::{Cache, Look, hash};
use super::kernels::Kernel;
use super::sabotage::Sabotage;
use super::tree::Tree;
use crate::command::{outcome, tail};

/// The name that the shim's `Kbuild` gives to the module: the sample's.
const SAMPLE: &str = "pagemove_sample";

/// What the shim consists of.
const SHIM: &[&str] = &["shim.c", "pages.c", "opens.c", "shim.h", "internal.h", "Kbuild"];

/// Builds the module for a kernel, unless it's there.
pub(super) fn build(
    cache: &Cache,
    root: &Path,
    kernel: &Kernel<'_>,
    name: &str,
    object: &Path,
    sabotage: Option<&Sabotage>,
) -> Result<PathBuf> {
    let mut parts = vec![fs::read(object).with_context(|| format!("can't read {}", object.display()))?];
    for part in SHIM {
        let file = root.join("linux/shim").join(part);
        let mut text = fs::read_to_string(&file).with_context(|| format!("can't read {}", file.display()))?;
        if *part == "Kbuild" {
            text = text.replace(SAMPLE, name);
        }
        if let Some(sabotage) = sabotage {
            sabotage.apply(part, &mut text)?;
        }
        parts.push(text.into_bytes());
    }
    let key = hash(&(&kernel.version, &parts));
    let folder = cache.folder(&format!("modules/{}-{key:x}", kernel.name()), Look::Contents, |new| {
        let tree = headers(cache, kernel)?;
        eprintln!("linux: building the module for {}", kernel.version);
        fs::write(new.join("driver.o_shipped"), &parts[0])?;
        // modpost asks how each object was made; this one was shipped.
        fs::write(new.join(".driver.o.cmd"), "")?;
        for (part, text) in SHIM.iter().zip(&parts[1..]) {
            fs::write(new.join(part), text)?;
        }
        make(&tree, new, name)
    })?;
    Ok(folder.join(format!("{name}.ko")))
}

/// The tree with a kernel's headers, and the compiler that they ask for.
fn headers(cache: &Cache, kernel: &Kernel<'_>) -> Result<Tree> {
    Tree::get(
        cache,
        kernel.apt,
        &format!("kernel-{}", kernel.name()),
        &kernel.header_packages()?,
        &["make", "binutils"],
    )
}

/// The folder of a kernel's headers, in their tree.
fn headers_folder(tree: &Tree) -> Result<String> {
    for entry in fs::read_dir(tree.path("/usr/src")).context("the headers' tree has no /usr/src")? {
        let folder = format!("/usr/src/{}", entry?.file_name().to_string_lossy());
        if folder.contains("/linux-headers-") && tree.path(&format!("{folder}/Module.symvers")).exists() {
            return Ok(folder);
        }
    }
    bail!("the headers' tree has no Module.symvers")
}

/// Gives the configuration that a kernel is built with.
pub(super) fn config(cache: &Cache, kernel: &Kernel<'_>) -> Result<Vec<u8>> {
    let tree = headers(cache, kernel)?;
    let file = tree.path(&format!("{}/.config", headers_folder(&tree)?));
    fs::read(&file).with_context(|| format!("can't read {}", file.display()))
}

fn make(tree: &Tree, folder: &Path, name: &str) -> Result<()> {
    let headers = headers_folder(tree)?;
    let mut make = tree.command(folder, "make")?;
    make.args(["-C", &headers, "M=/mnt", "KBUILD_BUILD_USER=pagemove", "modules"]);
    let output = outcome(&mut make)?;
    let words = [String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)].concat();
    if !output.status.success() {
        bail!("the kernel's build failed:\n{}\nthe command was {make:?}", tail(&words, 60));
    }
    if let Some(warning) = find_warning(&words) {
        bail!("the kernel's build warns: {warning}\n{}", tail(&words, 60));
    }
    if !folder.join(format!("{name}.ko")).exists() {
        bail!("the kernel's build made no module:\n{}", tail(&words, 60));
    }
    Ok(())
}

/// The first line that isn't good news.
fn find_warning(words: &str) -> Option<&str> {
    words.lines().find(|line| {
        let line = line.to_lowercase();
        // Without the kernel's own image, which nobody ships, the build leaves out type information.
        (line.contains("warning") || line.contains("error")) && !line.contains("skipping btf generation")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_seen() {
        assert_eq!(find_warning("  CC [M]  shim.o\n  LD [M]  a.ko\n"), None);
        assert!(find_warning("driver.o: warning: objtool: x() falls through").is_some());
        assert!(find_warning("WARNING: modpost: missing MODULE_DESCRIPTION()").is_some());
    }
}
