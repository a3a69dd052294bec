//! The Rust half of a kernel module: one object for all kernels.
//!
//! Takes the driver's source, and Debian's compiler with the source of libcore that belongs to it; gives an object file
//! that needs nothing but the kernel and the shim. Promises code as kernels want it (no floating point, no red zone,
//! retpolines, IBT) by a target of our own, and to have looked: relocations a module can't have are an error, and so are
//! functions that take much of the kernel's stack.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::apt::{Apt, Version, newer};
use super::cache::{self, Cache, Look, hash};
use super::sabotage::Sabotage;
use super::stack;
use super::tree::Tree;
use crate::command::{outcome, run, tail};

/// The compiler for Debian's browsers, which follows Rust closely, and its library's source.
const COMPILER: &str = "rustc-web";
const SOURCE: &str = "rust-web-src";

/// What the kernel's own build does to Rust on x86-64, as a target.
///
/// Without SSE *by name*: with soft float alone, LLVM (seen: 22) takes 16-byte arrays for vectors, and then copies every
/// second byte only. The tests in guests saw pins with addresses of nowhere.
const TARGET: &str = r#"{
  "arch": "x86_64", "os": "none", "llvm-target": "x86_64-linux-gnu", "target-pointer-width": WIDTH,
  "data-layout": "e-m:e-p270:32:32-p271:32:32-p272:64:64-i64:64-i128:128-f80:128-n8:16:32:64-S128",
  "features": "-mmx,-sse,-sse2,-sse3,-ssse3,-sse4.1,-sse4.2,-avx,-avx2,+soft-float,+retpoline-external-thunk,+retpoline-indirect-branches,+retpoline-indirect-calls", ABI
  "code-model": "kernel", "relocation-model": "static", "disable-redzone": true, "panic-strategy": "abort",
  "stack-probes": {"kind": "none"}, "emit-debug-gdb-scripts": false, "frame-pointer": "may-omit",
  "function-sections": false, "linker": "true", "linker-flavor": "gnu", "max-atomic-width": 64, "singlethread": false,
  "supported-sanitizers": [], "position-independent-executables": false, "static-position-independent-executables": false,
  "crt-objects-fallback": "false", "default-uwtable": false, "requires-uwtable": false, "eh-frame-header": false
}"#;

/// What all crates are compiled with.
const FLAGS: &[&str] = &[
    "--target=target.json",
    "--sysroot=.",
    "-Copt-level=2",
    "-Cpanic=abort",
    "-Cembed-bitcode=yes",
    "-Clto=no",
    "-Ccodegen-units=1",
    "-Cforce-unwind-tables=no",
    "-Csymbol-mangling-version=v0",
    "-Zfunction-return=thunk-extern",
    "-Zcf-protection=branch",
    "-Zpatchable-function-entry=16,16",
    "-Cdebug-assertions=no",
    "-Zunstable-options",
];

/// Makes one object of what the compiler gives.
const JOIN: &[&str] =
    &["-m", "elf_x86_64", "-z", "noexecstack", "--relocatable", "--whole-archive", "-o", "driver.o", "driver.a"];

/// Takes out what no kernel has a use for: bitcode is for the compiler's own linking.
const STRIP: &[&str] = &["-R", ".llvmbc", "-R", ".llvmcmd", "-R", ".comment", "driver.o"];

/// The crates that libcore's users expect beside it. The kernel has what the compiler would call of it.
const BUILTINS: &str = "#![feature(compiler_builtins, no_core)]\n#![compiler_builtins]\n#![no_core]\n";

/// Where the compiler looks for libcore, from its system root.
const LIBRARIES: &str = "lib/rustlib/target/lib";

/// The relocations that the kernel's module loader knows and ours may have.
const RELOCATIONS: &[&str] = &["R_X86_64_64", "R_X86_64_PC32", "R_X86_64_PLT32", "R_X86_64_32S", "R_X86_64_32"];

/// A compiler with libcore built for the kernel.
pub(super) struct Compiler {
    tree: Tree,
    version: String,
    core: PathBuf,
}

impl Compiler {
    /// Gives the newest compiler of Debian's that has its source; builds libcore with it, once.
    pub(super) fn get(cache: &Cache, apts: &[Apt]) -> Result<Self> {
        let (apt, compiler, source) = find(apts)?;
        let version = compiler.version.clone();
        let name = format!("rust-{}", file_name(&version));
        let tree = Tree::get(cache, apt, &name, &[compiler, source], &["binutils"])?;
        let core = {
            let key = hash(&(TARGET, FLAGS, BUILTINS));
            cache.folder(&format!("core/{}-{key:x}", file_name(&version)), Look::Sizes, |new| {
                eprintln!("linux: building libcore with rustc {version} (once)");
                build_core(&tree, new)
            })?
        };
        Ok(Self { tree, version, core })
    }

    /// Compiles the driver in a folder, broken on purpose or not; gives the object.
    pub(super) fn object(
        &self,
        cache: &Cache,
        root: &Path,
        driver: &Path,
        sabotage: Option<&Sabotage>,
    ) -> Result<PathBuf> {
        let sources = [("kit", root.join("linux/kit/src")), ("driver", driver.join("src"))];
        let mut texts = Vec::new();
        for (name, folder) in &sources {
            for file in files(folder)? {
                let mut text = fs::read_to_string(&file).with_context(|| format!("can't read {}", file.display()))?;
                if let Some(sabotage) = sabotage {
                    sabotage.apply(&file.to_string_lossy(), &mut text)?;
                }
                texts.push((format!("{name}/{}", file.strip_prefix(folder)?.display()), text));
            }
        }
        let key = hash(&(&texts, &self.core, TARGET, FLAGS, JOIN, STRIP));
        let folder = cache.folder(&format!("objects/{key:x}"), Look::Contents, |new| {
            eprintln!("linux: compiling the driver with rustc {}", self.version);
            for (name, text) in &texts {
                let file = new.join(name);
                fs::create_dir_all(file.parent().context("a file without a folder")?)?;
                fs::write(file, text)?;
            }
            fs::copy(self.core.join("target.json"), new.join("target.json"))?;
            let libraries = new.join(LIBRARIES);
            fs::create_dir_all(&libraries)?;
            for library in ["libcore.rlib", "libcompiler_builtins.rlib"] {
                fs::copy(self.core.join(library), libraries.join(library))?;
            }
            self.compile(new)?;
            // Libraries are large, and there's an object for each state of the sources.
            cache::remove(&new.join("lib"))?;
            cache::remove(&new.join("driver.a"))
        })?;
        Ok(folder.join("driver.o"))
    }

    fn compile(&self, folder: &Path) -> Result<()> {
        let outer = ["--edition=2024", "-Dwarnings"];
        rustc(&self.tree, folder, &outer, &["--crate-name=pagemove_kit", "--crate-type=rlib", "kit/lib.rs"])?;
        rustc(
            &self.tree,
            folder,
            &["--edition=2024", "-Dwarnings", "--extern=pagemove_kit=libpagemove_kit.rlib"],
            &["--crate-name=driver", "--crate-type=staticlib", "-Clto=fat", "-odriver.a", "driver/module.rs"],
        )?;
        run(self.tree.command(folder, "ld")?.args(JOIN))?;
        run(self.tree.command(folder, "objcopy")?.args(STRIP))?;
        let list = run(self.tree.command(folder, "readelf")?.args(["--wide", "--relocs", "--symbols", "driver.o"]))?;
        check_object(&list)?;
        stack::check(&run(self.tree.command(folder, "objdump")?.args([
            "--disassemble",
            "--no-show-raw-insn",
            "driver.o",
        ]))?)
    }
}

/// The newest compiler whose source is there in the same version.
fn find(apts: &[Apt]) -> Result<(&Apt, Version, Version)> {
    let mut best: Option<(&Apt, Version, Version)> = None;
    for apt in apts {
        let sources = apt.versions(SOURCE)?;
        for compiler in apt.versions(COMPILER)? {
            // A rebuild of the compiler for one architecture (`+b1`) belongs to the same source.
            let plain = compiler.version.split("+b").next().unwrap_or_default().to_owned();
            let Some(source) = sources.iter().find(|source| source.version == plain) else { continue };
            if best.as_ref().map_or(Ok(true), |(_, best, _)| newer(&compiler.version, &best.version))? {
                best = Some((apt, compiler, source.clone()));
            }
        }
    }
    best.with_context(|| format!("Debian has no {COMPILER} with its {SOURCE} now"))
}

fn build_core(tree: &Tree, folder: &Path) -> Result<()> {
    // Small differences between versions of the compiler: what it refuses in one form it takes in another.
    let number = run(tree.command(folder, "rustc")?.arg("--version"))?;
    let minor: u32 = number.split('.').nth(1).and_then(|minor| minor.parse().ok()).unwrap_or(0);
    let (width, abi) = match minor {
        0..=85 => ("\"64\"", ""),
        86..=90 => ("\"64\"", "\"rustc-abi\": \"x86-softfloat\","),
        _ => ("64", "\"rustc-abi\": \"softfloat\","),
    };
    fs::write(folder.join("target.json"), TARGET.replace("WIDTH", width).replace("ABI", abi))?;
    fs::write(folder.join("builtins.rs"), BUILTINS)?;
    let mut source = None;
    for entry in fs::read_dir(tree.path("/usr/src")).context("the compiler's tree has no /usr/src")? {
        let name = entry?.file_name();
        let inside = format!("/usr/src/{}/library/core/src/lib.rs", name.to_string_lossy());
        if tree.path(&inside).exists() {
            source = Some(inside);
        }
    }
    let source = source.with_context(|| format!("{SOURCE} has no library/core"))?;
    rustc(
        tree,
        folder,
        &["--edition=2024", "--cap-lints=allow"],
        &["--crate-name=core", "--crate-type=rlib", &source],
    )?;
    rustc(
        tree,
        folder,
        &["--edition=2021", "--cap-lints=allow", "--extern=core=libcore.rlib"],
        &["--crate-name=compiler_builtins", "--crate-type=rlib", "builtins.rs"],
    )
}

fn rustc(tree: &Tree, folder: &Path, with: &[&str], what: &[&str]) -> Result<()> {
    let mut command = tree.command(folder, "rustc")?;
    // The unstable flags above are what the kernel's own build uses, too.
    command.env("RUSTC_BOOTSTRAP", "1").args(FLAGS).args(with).args(what);
    let output = outcome(&mut command)?;
    let words = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("rustc failed:\n{}\nthe command was {command:?}", tail(&words, 60));
    }
    if words.contains("warning") {
        bail!("rustc warns:\n{}", tail(&words, 60));
    }
    Ok(())
}

/// Looks at what `readelf` tells of an object: relocations, and symbols that it needs.
fn check_object(list: &str) -> Result<()> {
    for line in list.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let Some(kind) = words.iter().find(|word| word.starts_with("R_X86_64_"))
            && !RELOCATIONS.contains(kind)
        {
            bail!("the object has a relocation that modules can't have: {line}");
        }
        if let [.., "UND", name] = words[..]
            && !name.starts_with("pmk_")
            && !matches!(name, "memcpy" | "bcmp" | "memset" | "memmove" | "memcmp" | "__x86_return_thunk")
            && !name.starts_with("__x86_indirect_thunk_")
        {
            bail!("the object needs {name}, which neither the shim nor every kernel has");
        }
    }
    Ok(())
}

/// All files below a folder, in order.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("can't read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn file_name(version: &str) -> String {
    version.chars().map(|c| if c.is_ascii_alphanumeric() || ".-".contains(c) { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_that_a_kernel_cant_load_is_refused() {
        check_object("  1: 0 0 NOTYPE GLOBAL DEFAULT UND pmk_alloc\n0 0 R_X86_64_PLT32 0 x - 4\n").expect("is fine");
        check_object("0 0 R_X86_64_GOTPCREL 0 memcpy - 4").expect_err("no table of addresses in modules");
        check_object("  1: 0 0 NOTYPE GLOBAL DEFAULT UND __udivti3").expect_err("the kernel has none");
    }
}
