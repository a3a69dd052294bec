//! The folder of a recording: for each capture a layout file, and beside it what it came to with the owners' names (`.json`).
//!
//! Takes captures, gives them back; removes the oldest where there are too many. Promises that files appear whole or not at
//! all, the layout last; that nothing is replaced; and that only what `record` made is removed: by its name, its format,
//! and the layout's length and checksum in the file beside it.

use std::{
    collections::BTreeMap,
    fs::{self, File, Permissions, TryLockError},
    io::{self, BufReader, Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use flate2::Crc;
use serde::{Deserialize, Serialize};

use super::name::Name;
use crate::{layout::Layout, owners::names::Names, terminal::plain, watch::snapshot::Snapshot};

const FORMAT: &str = "pagemove-recording";
const VERSION: u64 = 1;
/// Most bytes of what is beside a layout.
const MAX_BESIDE: u64 = 16 << 20;
/// Files that are written begin and end so until they are whole.
const PART: (&str, &str) = (".pagemove-record-", ".part");
/// What no machine has: a file that says more is damaged.
const MAX_FRAME_BYTES: u64 = 64 << 10;
const MAX_FRAMES: u64 = 1 << 44;
const MAX_ROWS: usize = 4096;
const MAX_ORDER: u8 = 30;

/// Why a folder can't be recorded into, or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// The folder.
    #[error("can't use the folder {path}: {error}", path = .0.display(), error = .1)]
    Folder(PathBuf, io::Error),
    /// Another program records into it.
    #[error("another pagemove records into {path}: wait until it has ended, or name another folder", path = .0.display())]
    Busy(PathBuf),
    /// A file can't be written.
    #[error("can't write {path}: {error}", path = .0.display(), error = .1)]
    Write(PathBuf, io::Error),
    /// An old one can't be removed.
    #[error("can't remove {path}, to make room: {error}", path = .0.display(), error = .1)]
    Remove(PathBuf, io::Error),
    /// One capture is larger than all may be.
    #[error("one capture takes {0} bytes, more than --most-bytes: {1}")]
    TooSmall(u64, u64),
}

/// What is beside a layout.
#[derive(Serialize, Deserialize)]
struct Beside {
    format: String,
    version: u64,
    /// Of the layout file, so that damage is seen without unpacking it.
    layout_bytes: u64,
    layout_crc32: u32,
    capture: Snapshot,
}

/// A capture of a recording.
#[derive(Debug)]
pub(super) struct Recorded {
    pub(super) layout: PathBuf,
    pub(super) snapshot: Snapshot,
}

/// A folder that this program records into.
pub(super) struct Store {
    dir: PathBuf,
    /// Locked: no other program does.
    _lock: File,
    /// What `record` made, and its bytes.
    kept: BTreeMap<Name, u64>,
    most_bytes: u64,
}

impl Store {
    /// Opens a folder, which it makes if need be; removes what a killed one left half done.
    pub(super) fn open(dir: &Path, most_bytes: u64) -> Result<Self, StoreError> {
        let folder = |error| StoreError::Folder(dir.to_owned(), error);
        fs::create_dir_all(dir).map_err(folder)?;
        let lock = File::open(dir).map_err(folder)?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => StoreError::Busy(dir.to_owned()),
            TryLockError::Error(error) => folder(error),
        })?;
        let mut kept = BTreeMap::new();
        for name in names(dir).map_err(folder)?.names {
            if let Some(bytes) = made_here(dir, name) {
                kept.insert(name, bytes);
            } else if !layout(dir, name).exists() && read_beside(&beside(dir, name)).is_ok() {
                // Killed between the two files.
                let _ = fs::remove_file(beside(dir, name));
            }
        }
        for entry in fs::read_dir(dir).map_err(folder)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(PART.0) && name.ends_with(PART.1) && is_regular(&entry.path()) {
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(Self { dir: dir.to_owned(), _lock: lock, kept, most_bytes })
    }

    /// Adds a capture, and removes the oldest if there are too many bytes.
    pub(super) fn add(&mut self, of: &Layout, snapshot: &Snapshot) -> Result<Name, StoreError> {
        let name = Name::free(snapshot.at, |name| layout(&self.dir, name).exists() || beside(&self.dir, name).exists());
        let (layout, beside) = (layout(&self.dir, name), beside(&self.dir, name));
        let mut bytes = Vec::new();
        of.write(&mut bytes).map_err(|error| StoreError::Write(layout.clone(), error))?;
        let told = Beside {
            format: FORMAT.to_owned(),
            version: VERSION,
            layout_bytes: bytes.len() as u64,
            layout_crc32: checksum(&mut &bytes[..]).unwrap_or_default(),
            capture: snapshot.clone(),
        };
        let told = serde_json::to_vec(&told).map_err(|error| StoreError::Write(beside.clone(), error.into()))?;
        let size = (bytes.len() + told.len()) as u64;
        if size > self.most_bytes {
            return Err(StoreError::TooSmall(size, self.most_bytes));
        }
        // Room is made before: the bound holds at any time.
        self.trim(self.most_bytes - size)?;
        write_new(&self.dir, &beside, &told).map_err(|error| StoreError::Write(beside.clone(), error))?;
        // The layout last: what has one is whole.
        if let Err(error) = write_new(&self.dir, &layout, &bytes) {
            let _ = fs::remove_file(beside);
            return Err(StoreError::Write(layout, error));
        }
        self.kept.insert(name, size);
        Ok(name)
    }

    /// Gives how many captures there are, and their bytes.
    pub(super) fn size(&self) -> (usize, u64) {
        (self.kept.len(), self.kept.values().sum())
    }

    fn trim(&mut self, most: u64) -> Result<(), StoreError> {
        let mut bytes = self.size().1;
        while bytes > most
            && let Some((name, size)) = self.kept.pop_first()
        {
            bytes -= size;
            // Somebody may have put another file there meanwhile.
            if made_here(&self.dir, name).is_some() {
                for file in [layout(&self.dir, name), beside(&self.dir, name)] {
                    fs::remove_file(&file).map_err(|error| StoreError::Remove(file, error))?;
                }
            }
        }
        Ok(())
    }
}

/// What a folder has.
pub(super) struct Found {
    names: Vec<Name>,
    /// Other files.
    others: Vec<String>,
}

fn names(dir: &Path) -> io::Result<Found> {
    let (mut names, mut others) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(dir)? {
        let file = entry?.file_name().to_string_lossy().into_owned();
        let stem = file.strip_suffix(".layout").or_else(|| file.strip_suffix(".json"));
        match stem.and_then(|stem| stem.parse().ok()) {
            Some(name) => names.push(name),
            // Being written just now.
            None if file.starts_with(PART.0) => {}
            None => others.push(file),
        }
    }
    names.sort();
    names.dedup();
    others.sort();
    Ok(Found { names, others })
}

/// Reads all captures whose names are of that time, the oldest first; says what it passes over.
pub(super) fn read(
    dir: &Path,
    is_wanted: impl Fn(Name) -> bool,
    say: &mut dyn FnMut(&str),
) -> Result<Vec<Recorded>, StoreError> {
    let found = names(dir).map_err(|error| StoreError::Folder(dir.to_owned(), error))?;
    for name in found.others {
        say(&format!("Passed over {}: it isn't a capture's.", plain(&name)));
    }
    let mut all = Vec::new();
    for name in found.names.into_iter().filter(|&name| is_wanted(name)) {
        match read_one(dir, name) {
            Ok(snapshot) => all.push(Recorded { layout: layout(dir, name), snapshot }),
            Err(why) => say(&format!("Passed over {name}: {}", plain(&why))),
        }
    }
    Ok(all)
}

/// Reads a capture; one that was saved by `survey` under such a name has nothing beside it.
fn read_one(dir: &Path, name: Name) -> Result<Snapshot, String> {
    let (layout, beside) = (layout(dir, name), beside(dir, name));
    if !beside.exists() {
        let layout = Layout::load(&layout).map_err(|error| error.to_string())?;
        return Ok(Snapshot { at: name.at(), ..Snapshot::of(&layout, &Names::of_file(&layout)) });
    }
    if !layout.exists() {
        return Err("there is no layout beside it".to_owned());
    }
    let told = read_beside(&beside)?;
    check_layout(&layout, &told)?;
    clean(told.capture)
}

/// Makes sure that numbers from a file can be reckoned with, and that its names don't steer the terminal.
fn clean(mut snapshot: Snapshot) -> Result<Snapshot, String> {
    let too_large = snapshot.frame_bytes > MAX_FRAME_BYTES
        || snapshot.pageblock_order > MAX_ORDER
        || snapshot
            .free_blocks
            .iter()
            .any(|zone| zone.free_frames > MAX_FRAMES || zone.blocks.len() > MAX_ORDER.into())
        || snapshot.free_blocks.len().max(snapshot.owners.len()).max(snapshot.counters.len()) > MAX_ROWS;
    if too_large {
        return Err("the file beside it tells of a machine that can't be".to_owned());
    }
    let zones = snapshot.free_blocks.iter_mut().map(|zone| &mut zone.zone);
    let owners = snapshot.owners.iter_mut().map(|owner| &mut owner.name);
    let counters = snapshot.counters.iter_mut().map(|(name, _)| name);
    for name in zones.chain(owners).chain(counters).chain(&mut snapshot.lacks).chain([&mut snapshot.source]) {
        *name = plain(name);
    }
    Ok(snapshot)
}

fn layout(dir: &Path, name: Name) -> PathBuf {
    dir.join(format!("{name}.layout"))
}

fn beside(dir: &Path, name: Name) -> PathBuf {
    dir.join(format!("{name}.json"))
}

fn is_regular(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|file| file.is_file())
}

/// Gives the bytes of a capture that `record` made and nobody changed; none if it isn't one.
fn made_here(dir: &Path, name: Name) -> Option<u64> {
    let (layout, beside) = (layout(dir, name), beside(dir, name));
    if !is_regular(&layout) || !is_regular(&beside) {
        return None;
    }
    let told = read_beside(&beside).ok()?;
    check_layout(&layout, &told).ok()?;
    Some(told.layout_bytes + fs::metadata(&beside).ok()?.len())
}

fn read_beside(path: &Path) -> Result<Beside, String> {
    let mut text = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_BESIDE + 1).read_to_end(&mut text));
    read.map_err(|error| format!("can't read the file beside it: {error}"))?;
    if text.len() as u64 > MAX_BESIDE {
        return Err("the file beside it is too long".to_owned());
    }
    let told: Beside =
        serde_json::from_slice(&text).map_err(|error| format!("the file beside it is damaged: {error}"))?;
    if told.format != FORMAT || told.version != VERSION {
        return Err(format!("the file beside it is not of a recording of version {VERSION}"));
    }
    Ok(told)
}

fn check_layout(path: &Path, told: &Beside) -> Result<(), String> {
    let found = File::open(path).and_then(|file| {
        let length = file.metadata()?.len();
        // Another length makes reading it needless.
        Ok((length, if length == told.layout_bytes { Some(checksum(&mut BufReader::new(file))?) } else { None }))
    });
    match found {
        Ok((_, Some(crc))) if crc == told.layout_crc32 => Ok(()),
        Ok(_) => Err("the layout is damaged: its checksum is another one".to_owned()),
        Err(error) => Err(format!("can't read the layout: {error}")),
    }
}

fn checksum(from: &mut dyn Read) -> io::Result<u32> {
    let (mut crc, mut bytes) = (Crc::new(), vec![0; 1 << 16]);
    loop {
        match from.read(&mut bytes)? {
            0 => return Ok(crc.sum()),
            length => crc.update(&bytes[..length]),
        }
    }
}

/// Writes a file that isn't there yet, which appears whole.
fn write_new(dir: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut builder = tempfile::Builder::new();
    // A temporary file is private otherwise; the umask still applies.
    let file = builder.prefix(PART.0).suffix(PART.1).permissions(Permissions::from_mode(0o666)).tempfile_in(dir)?;
    file.as_file().write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(store: &mut Store, second: i64) -> Name {
        let layout = Layout::sample();
        let mut snapshot = Snapshot::of(&layout, &Names::default());
        snapshot.at = jiff::Timestamp::from_second(1_795_814_000 + second).expect("in range");
        store.add(&layout, &snapshot).expect("adds")
    }

    fn all(dir: &Path) -> (Vec<Recorded>, String) {
        let mut said = String::new();
        let found = read(dir, |_| true, &mut |line| said += &format!("{line}\n")).expect("reads");
        (found, said)
    }

    fn files(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir)
            .expect("reads")
            .map(|entry| entry.expect("a file").file_name().to_string_lossy().into())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_added_is_read_again_in_order_and_no_name_is_taken_twice() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("new/one");
        let mut store = Store::open(&dir, 1 << 30).expect("opens");
        let names = [7, 3, 3, 3].map(|second| add(&mut store, second).to_string());
        assert_eq!(names, ["20261127T211327Z", "20261127T211323Z", "20261127T211323Z-2", "20261127T211323Z-3"]);
        let (found, said) = all(&dir);
        let order: Vec<_> =
            found.iter().map(|capture| capture.layout.file_stem().expect("a name").to_owned()).collect();
        assert_eq!(order, [&names[1], &names[2], &names[3], &names[0]].map(|name| name.as_str()));
        assert_eq!((said.as_str(), store.size().0), ("", 4));
        assert_eq!(Layout::load(&found[0].layout).expect("a layout"), Layout::sample());
        assert!(found[0].snapshot.owner("kernel").is_some_and(|owner| owner.alone > 0));
        // Only those asked for are looked at.
        let later = read(&dir, |name| name.to_string() == names[0], &mut |_| {}).expect("reads");
        assert_eq!(later.len(), 1);
    }

    #[test]
    fn the_oldest_goes_and_nothing_that_is_of_others() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path();
        let mut store = Store::open(dir, 1 << 30).expect("opens");
        for second in 0..5 {
            add(&mut store, second);
        }
        let one = store.size().1 / 5;
        drop(store);
        // The oldest is another's now; the next one has lost what was beside it; both have names as if record had made them.
        fs::write(dir.join("20261127T211320Z.layout"), "other").expect("writes");
        fs::remove_file(dir.join("20261127T211321Z.json")).expect("removes");
        for name in ["notes.txt", "20261127T211300Z.txt", "x.layout", "20261127T211300Z.json"] {
            fs::write(dir.join(name), "other").expect("writes");
        }
        std::os::unix::fs::symlink(dir.join("notes.txt"), dir.join("20261127T211301Z.layout")).expect("links");
        let before = files(dir);
        let mut store = Store::open(dir, 3 * one + one / 2).expect("opens");
        assert_eq!((store.size().0, files(dir)), (3, before.clone()));
        add(&mut store, 5);
        add(&mut store, 6);
        assert!(store.size().0 == 3 && store.size().1 <= 3 * one + one / 2);
        let gone: Vec<_> = before.into_iter().filter(|name| dir.join(name).symlink_metadata().is_err()).collect();
        let expected = ["2.json", "2.layout", "3.json", "3.layout"].map(|end| end.replacen('.', "Z.", 1));
        assert_eq!(gone, expected.map(|end| format!("20261127T21132{end}")));
        // One that is another's by now stays, though it was record's when the folder was opened.
        fs::write(dir.join("20261127T211324Z.layout"), "other").expect("writes");
        add(&mut store, 7);
        assert!(dir.join("20261127T211324Z.layout").exists() && dir.join("20261127T211324Z.json").exists());
        let error = Store { most_bytes: 100, ..store }.add(&Layout::sample(), &all(dir).0[0].snapshot);
        assert!(error.is_err_and(|error| error.to_string().contains("more than --most-bytes: 100")));
    }

    #[test]
    fn what_a_killed_one_left_goes_and_two_dont_share_a_folder() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path();
        let mut store = Store::open(dir, 1 << 30).expect("opens");
        for second in 0..2 {
            add(&mut store, second);
        }
        let busy = Store::open(dir, 1).map(drop).expect_err("one at a time");
        assert!(busy.to_string().starts_with("another pagemove records into"), "{busy}");
        drop(store);
        fs::remove_file(dir.join("20261127T211320Z.layout")).expect("removes");
        fs::write(dir.join(".pagemove-record-ab12.part"), "half").expect("writes");
        fs::write(dir.join(".other.part"), "other").expect("writes");
        let (found, said) = all(dir);
        assert!(found.len() == 1 && said.contains("20261127T211320Z: there is no layout beside it"), "{said}");
        drop(Store::open(dir, 1 << 30).expect("opens"));
        assert_eq!(files(dir), [".other.part", "20261127T211321Z.json", "20261127T211321Z.layout"]);
        assert!(Store::open(&dir.join(".other.part"), 1).is_err_and(|error| error.to_string().contains(".other.part")));
    }

    #[test]
    fn damage_is_named_and_passed_over() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path();
        let mut store = Store::open(dir, 1 << 30).expect("opens");
        let names = [0, 1, 2, 3, 4, 5].map(|second| dir.join(add(&mut store, second).to_string()));
        let path = |at: usize, end: &str| PathBuf::from(format!("{}.{end}", names[at].display()));
        let mut bytes = fs::read(path(0, "layout")).expect("reads");
        bytes[100] ^= 1;
        fs::write(path(0, "layout"), &bytes).expect("writes");
        fs::write(path(1, "layout"), &bytes[..50]).expect("writes");
        fs::write(path(2, "json"), "{").expect("writes");
        let text = fs::read_to_string(path(3, "json")).expect("reads");
        fs::write(path(3, "json"), text.replace("\"frame_bytes\":4096", "\"frame_bytes\":99999999999999"))
            .expect("writes");
        // A layout alone is shown without what was beside it; a name from outside is plain.
        fs::remove_file(path(4, "json")).expect("removes");
        fs::write(path(5, "json"), text_of(&path(5, "json")).replace("\"kernel\"", "\"a\\u001b[31mb\""))
            .expect("writes");
        fs::write(dir.join("a\x1b[31mb"), "").expect("writes");
        let (found, said) = all(dir);
        assert_eq!(found.len(), 2, "{said}");
        assert!(found[0].snapshot.counters.is_empty() && found[0].snapshot.blocks.is_some());
        assert!(found[1].snapshot.owner("a\u{fffd}[31mb").is_some());
        for words in [
            "20Z: the layout is damaged",
            "21Z: the layout is damaged",
            "22Z: the file beside it is damaged",
            "23Z: the file beside it tells of a machine that can't be",
            "Passed over a\u{fffd}[31mb: it isn't",
        ] {
            assert!(said.contains(words), "{words:?} isn't in\n{said}");
        }
        assert_eq!(said.lines().count(), 5, "{said}");
    }

    fn text_of(path: &Path) -> String {
        fs::read_to_string(path).expect("reads")
    }
}
