//! The folder that everything fetched and built for Linux is kept in.
//!
//! Takes a folder, or none for the user's cache folder; gives paths inside it. Promises that one xtask works in it at a
//! time, and that a name in it is either missing or whole: things are made under a name that starts with `.new-` and
//! renamed when done, so a break (Ctrl-C, a full disk) leaves only such a leftover, which the next run removes.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// What an unfinished thing's name starts with.
const UNFINISHED: &str = ".new-";

/// The cache, held by this process.
pub(super) struct Cache {
    root: PathBuf,
    _lock: File,
}

impl Cache {
    /// Opens the cache at `folder`, or in the user's cache folder.
    ///
    /// # Errors
    /// When it can't be made or written, or another xtask is at work in it.
    pub(super) fn open(folder: Option<PathBuf>) -> Result<Self> {
        let root = match folder {
            Some(folder) => folder,
            None => default_folder()?,
        };
        fs::create_dir_all(&root)
            .with_context(|| format!("can't make the cache folder {}; choose another with --cache", root.display()))?;
        let root = root.canonicalize()?;
        let lock = File::create(root.join("lock"))
            .with_context(|| format!("can't write in the cache folder {}", root.display()))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { root, _lock: lock }),
            Err(TryLockError::WouldBlock) => {
                bail!("another `cargo xtask linux` is at work in {}; wait for it, or use --cache", root.display())
            }
            Err(TryLockError::Error(error)) => Err(error).context("can't lock the cache folder"),
        }
    }

    /// A path in the cache; the folders above it are made.
    pub(super) fn path(&self, name: impl AsRef<Path>) -> Result<PathBuf> {
        let path = self.root.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).with_context(|| format!("can't make {}", parent.display()))?;
        }
        Ok(path)
    }

    /// A folder in the cache, made by `make` unless it's there. `make` is given an empty folder to fill.
    pub(super) fn folder(&self, name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let done = self.path(name)?;
        if done.is_dir() {
            return Ok(done);
        }
        let last = done.file_name().context("a name in the cache is empty")?.to_string_lossy();
        let unfinished = done.with_file_name(format!("{UNFINISHED}{last}"));
        remove(&unfinished)?;
        fs::create_dir(&unfinished).with_context(|| format!("can't make {}", unfinished.display()))?;
        if let Err(error) = make(&unfinished) {
            // A leftover of this run is of no use; that it can't be removed is the lesser news.
            let _ = remove(&unfinished);
            return Err(error);
        }
        fs::rename(&unfinished, &done).with_context(|| format!("can't rename to {}", done.display()))?;
        Ok(done)
    }
}

/// Removes a folder with all that's in it, if there.
pub(super) fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("can't remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

fn default_folder() -> Result<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let Some(caches) = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache"))) else {
        bail!("neither XDG_CACHE_HOME nor HOME is set; say where the cache is to be with --cache");
    };
    Ok(caches.join("pagemove-linux"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_half_made_is_not_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = Cache::open(Some(folder.path().join("cache"))).expect("opens");
        let failed = cache.folder("a/b", |new| {
            fs::write(new.join("half"), "")?;
            bail!("break")
        });
        failed.expect_err("the error is passed on");
        assert!(!cache.path("a/b").expect("a path").exists());

        // A break that ran no code leaves a leftover: it must not be taken for the thing, nor stay in it.
        fs::create_dir(cache.path("a/.new-b").expect("a path")).expect("made");
        fs::write(cache.path("a/.new-b/half").expect("a path"), "").expect("written");
        let made = cache.folder("a/b", |new| Ok(fs::write(new.join("whole"), "")?)).expect("made");
        assert!(made.join("whole").exists() && !made.join("half").exists());
        cache.folder("a/b", |_| bail!("is not made twice")).expect("there");
    }

    #[test]
    fn only_one_at_a_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = Cache::open(Some(folder.path().to_owned())).expect("opens");
        let error = Cache::open(Some(folder.path().to_owned())).err().expect("is refused").to_string();
        assert!(error.starts_with("another"), "{error}");
        drop(first);
        Cache::open(Some(folder.path().to_owned())).expect("opens again");
    }
}
