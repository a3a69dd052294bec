//! The folder that everything fetched and built for Linux is kept in.
//!
//! Takes a folder, or none for the user's cache folder; gives folders inside it, made when they're first asked for.
//! Promises that one xtask at a time makes something in it (others wait, and use what it made), and that a folder in it
//! is either missing or whole: it's made under a name that starts with `.new-` and renamed when done, so a break (Ctrl-C,
//! a full disk) leaves only such a leftover, which the next run removes; and one that has changed since is made anew.

use std::cell::Cell;
use std::fs::{self, File, TryLockError};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::bad_input::BadInput;

/// What an unfinished thing's name starts with.
const UNFINISHED: &str = ".new-";

/// The cache.
pub(super) struct Cache {
    root: PathBuf,
    lock: File,
    /// How many of the calls that are under way want the lock.
    holders: Cell<u32>,
}

/// How a folder is looked at before it's used, to see whether it is as it was when made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// Every byte: for what is small.
    Contents,
    /// Names and sizes: for what is large.
    Sizes,
}

impl Cache {
    /// Opens the cache at `folder`, or in the user's cache folder.
    ///
    /// # Errors
    /// When it can't be made or written.
    pub(super) fn open(folder: Option<PathBuf>) -> Result<Self> {
        let root = match folder {
            Some(folder) => folder,
            None => default_folder()?,
        };
        let unfit = |error| {
            let what =
                format!("can't write in the cache folder {}: {error}; choose another with --cache", root.display());
            BadInput(what)
        };
        fs::create_dir_all(&root).map_err(unfit)?;
        let lock = File::create(root.join("lock")).map_err(unfit)?;
        let root = root.canonicalize()?;
        let cache = Self { root, lock, holders: Cell::new(0) };
        // Whoever holds the lock may be making what looks like a leftover.
        if cache.lock.try_lock().is_ok() {
            let swept = cache.sweep();
            cache.lock.unlock().context("can't unlock the cache folder")?;
            swept?;
        }
        Ok(cache)
    }

    /// Removes what runs that were broken off have left.
    fn sweep(&self) -> Result<()> {
        for kind in entries(&self.root)?.iter().filter(|path| path.is_dir()) {
            for left in entries(kind)? {
                if left.file_name().is_some_and(|name| name.to_string_lossy().starts_with(UNFINISHED)) {
                    remove(&left)?;
                }
            }
        }
        Ok(())
    }

    /// Does what changes the cache, alone; waits while another xtask does. One may call another.
    pub(super) fn alone<T>(&self, change: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.holders.get() == 0 {
            match self.lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    eprintln!("linux: waiting for another run that is at work in {}", self.root.display());
                    self.lock.lock().context("can't lock the cache folder")?;
                }
                Err(TryLockError::Error(error)) => return Err(error).context("can't lock the cache folder"),
            }
        }
        self.holders.set(self.holders.get() + 1);
        let outcome = change();
        self.holders.set(self.holders.get() - 1);
        if self.holders.get() == 0 {
            self.lock.unlock().context("can't unlock the cache folder")?;
        }
        outcome
    }

    /// A path in the cache; the folders above it are made.
    pub(super) fn path(&self, name: impl AsRef<Path>) -> Result<PathBuf> {
        let path = self.root.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).with_context(|| format!("can't make {}", parent.display()))?;
        }
        Ok(path)
    }

    /// A folder in the cache, made by `make` unless it's there and whole. `make` is given an empty folder to fill.
    pub(super) fn folder(&self, name: &str, look: Look, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let done = self.path(name)?;
        if done.is_dir() && self.is_whole(name, look)? {
            return Ok(done);
        }
        self.alone(|| {
            // Somebody else may have made it meanwhile.
            if done.is_dir() {
                if self.is_whole(name, look)? {
                    return Ok(());
                }
                eprintln!("linux: {} isn't as it was made; making it anew", done.display());
                remove(&done)?;
            }
            self.make(name, &done, look, make)
        })?;
        Ok(done)
    }

    fn make(&self, name: &str, done: &Path, look: Look, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let last = done.file_name().context("a name in the cache is empty")?.to_string_lossy();
        let unfinished = done.with_file_name(format!("{UNFINISHED}{last}"));
        remove(&unfinished)?;
        fs::create_dir(&unfinished).with_context(|| format!("can't make {}", unfinished.display()))?;
        let made = make(&unfinished).and_then(|()| {
            // Before it gets its name: a folder without its sum would be taken as it is.
            let note = self.note(name)?;
            fs::write(&note, sum(&unfinished, look)?).with_context(|| format!("can't write {}", note.display()))?;
            fs::rename(&unfinished, done).with_context(|| format!("can't rename to {}", done.display()))
        });
        if made.is_err() {
            // A leftover of this run is of no use; that it can't be removed is the lesser news.
            let _ = remove(&unfinished);
        }
        made
    }

    /// Where the sum of a folder is noted.
    fn note(&self, name: &str) -> Result<PathBuf> {
        self.path(format!("sums/{name}"))
    }

    fn is_whole(&self, name: &str, look: Look) -> Result<bool> {
        match fs::read_to_string(self.note(name)?) {
            Ok(noted) => Ok(noted == sum(&self.path(name)?, look)?),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error).context("can't read what the cache notes of itself"),
        }
    }
}

/// A key for what is made of these, the same in each run.
pub(super) fn hash(of: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

/// A number for what a folder has in it.
fn sum(folder: &Path, look: Look) -> Result<String> {
    let mut hasher = DefaultHasher::new();
    let (mut folders, mut seen) = (vec![folder.to_owned()], 0);
    while let Some(at) = folders.pop() {
        for path in entries(&at)? {
            let about = fs::symlink_metadata(&path).with_context(|| format!("can't look at {}", path.display()))?;
            path.strip_prefix(folder)?.hash(&mut hasher);
            seen += 1;
            if about.is_dir() {
                folders.push(path);
            } else if about.is_file() {
                about.len().hash(&mut hasher);
                if look == Look::Contents {
                    fs::read(&path).with_context(|| format!("can't read {}", path.display()))?.hash(&mut hasher);
                }
            }
        }
    }
    Ok(format!("{seen} {:x}\n", hasher.finish()))
}

/// What is in a folder, in order.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let list = || fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>();
    let mut found = list().with_context(|| format!("can't read {}", folder.display()))?;
    found.sort();
    Ok(found)
}

/// Removes a folder or file with all that's in it, if there.
pub(super) fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("can't remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn default_folder() -> Result<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let Some(caches) = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache"))) else {
        bail!(BadInput("neither XDG_CACHE_HOME nor HOME is set; say where the cache is to be with --cache".to_owned()));
    };
    Ok(caches.join("pagemove-linux"))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    fn fill(new: &Path) -> Result<()> {
        fs::create_dir(new.join("inner"))?;
        Ok(fs::write(new.join("inner/file"), "whole")?)
    }

    #[test]
    fn what_is_half_made_is_not_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = Cache::open(Some(folder.path().join("cache"))).expect("opens");
        let failed = cache.folder("a/b", Look::Sizes, |new| {
            fs::write(new.join("half"), "")?;
            bail!("break")
        });
        failed.expect_err("the error is passed on");
        assert!(!cache.path("a/b").expect("a path").exists());

        // A break that ran no code leaves a leftover: it must not be taken for the thing, nor stay in it.
        fs::create_dir(cache.path("a/.new-b").expect("a path")).expect("made");
        fs::write(cache.path("a/.new-b/half").expect("a path"), "").expect("written");
        let made = cache.folder("a/b", Look::Sizes, fill).expect("made");
        assert!(made.join("inner/file").exists() && !made.join("half").exists());
        cache.folder("a/b", Look::Sizes, |_| bail!("is not made twice")).expect("there");
    }

    #[test]
    fn leftovers_are_swept_by_the_next_run_but_not_in_mid_work() {
        let folder = tempfile::tempdir().expect("a folder");
        let open = || Cache::open(Some(folder.path().to_owned())).expect("opens");
        let cache = open();
        let left = cache.path("a/.new-old").expect("a path");
        fs::create_dir(&left).expect("made");
        let kept = cache.alone(|| {
            open();
            Ok(left.exists())
        });
        assert!(kept.expect("done"), "it may be somebody's who is at work");
        open();
        assert!(!left.exists());
    }

    #[test]
    fn what_has_changed_is_made_anew() {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = Cache::open(Some(folder.path().to_owned())).expect("opens");
        type Damage = fn(&Path) -> std::io::Result<()>;
        let damages: [(Look, Damage); 4] = [
            (Look::Contents, |made| fs::write(made.join("inner/file"), "whOle")),
            (Look::Sizes, |made| fs::write(made.join("inner/file"), "")),
            (Look::Sizes, |made| fs::remove_dir_all(made.join("inner"))),
            (Look::Sizes, |made| fs::write(made.join("more"), "")),
        ];
        for (look, damage) in damages {
            let made = cache.folder("a/b", look, fill).expect("made");
            damage(&made).expect("damaged");
            let made = cache.folder("a/b", look, fill).expect("made anew");
            assert_eq!(fs::read_to_string(made.join("inner/file")).expect("there"), "whole");
            assert!(!made.join("more").exists());
        }
    }

    #[test]
    fn two_at_once_make_a_thing_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let open = || Cache::open(Some(folder.path().to_owned())).expect("opens");
        let (begun, has_begun) = mpsc::channel();
        let (wait, go_on) = mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                open().folder("a/b", Look::Sizes, |new| {
                    begun.send(()).context("nobody listens")?;
                    go_on.recv().context("nobody says when")?;
                    fill(new)
                })
            });
            has_begun.recv().expect("the first begins");
            let (made, has_made) = mpsc::channel();
            let second = scope.spawn(move || {
                open().folder("a/b", Look::Sizes, |_| {
                    made.send(()).context("nobody listens")?;
                    bail!("the first is making it")
                })
            });
            // What must not come can only be waited for in vain.
            let early = has_made.recv_timeout(Duration::from_millis(300));
            wait.send(()).expect("the first goes on");
            early.expect_err("the second waits");
            second.join().expect("no panic").expect("there");
        });
    }

    #[test]
    fn a_cache_that_cant_be_written_is_bad_input() {
        let error = Cache::open(Some("/proc/nowhere".into())).err().expect("is refused");
        assert!(error.is::<BadInput>() && error.to_string().contains("--cache"), "{error}");
    }
}
