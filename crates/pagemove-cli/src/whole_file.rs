//! Files that appear whole or not at all.
//!
//! Takes a path and what writes the bytes. Promises that what was at the path stays as it was if anything fails, and that nothing but a
//! regular file is replaced.

use std::{
    fs::{self, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
};

/// Writes a file, which appears whole, or what was at `path` stays as it was. A device or pipe is just written to; a link stays, and leads to it.
pub(crate) fn write_whole(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let there = fs::metadata(path).ok();
    // Only a regular file is replaced; and `/dev/stdout` is what is open there.
    let is_special = there.as_ref().is_some_and(|there| !there.is_file());
    if is_special || ["/dev/stdout", "/dev/stderr", "/dev/fd", "/proc"].iter().any(|open| path.starts_with(open)) {
        return write(&mut OpenOptions::new().write(true).open(path)?);
    }
    let path = match &there {
        Some(_) => fs::canonicalize(path)?,
        None => end_of_links(path),
    };
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    // A temporary file is private otherwise; the umask still applies.
    let file = tempfile::Builder::new()
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder)
        .map_err(without_path)?;
    write(&mut file.as_file())?;
    if let Some(there) = there {
        // Who had it keeps it, if this user may give it away.
        let _ = chown(file.path(), Some(there.uid()), Some(there.gid()));
        file.as_file().set_permissions(there.permissions())?;
    }
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

/// Follows links that lead to nothing yet; they stay.
fn end_of_links(path: &Path) -> PathBuf {
    let mut path = path.to_owned();
    // Linux follows as many.
    for _ in 0..40 {
        match fs::read_link(&path) {
            Ok(target) => path = path.parent().unwrap_or(Path::new("")).join(target),
            Err(_) => break,
        }
    }
    path
}

/// Cuts off the name of the temporary file, of which the user knows nothing; the error has it in its text only.
fn without_path(error: io::Error) -> io::Error {
    match error.to_string().split_once(" at path ") {
        Some((bare, _)) => io::Error::new(error.kind(), bare.to_owned()),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn put(path: &Path, text: &str) -> io::Result<()> {
        write_whole(path, |file| file.write_all(text.as_bytes()))
    }

    #[test]
    fn links_that_lead_to_nothing_yet_stay() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name| folder.path().join(name);
        symlink("second", path("first")).expect("links");
        symlink(path("file"), path("second")).expect("links");
        put(&path("first"), "text").expect("writes");
        assert!(path("first").is_symlink() && path("second").is_symlink() && !path("file").is_symlink());
        assert_eq!(fs::read_to_string(path("file")).expect("reads"), "text");
        symlink("round", path("round")).expect("links");
        put(&path("round"), "text").expect("a link to itself is replaced, since nothing is behind it");
    }

    /// Shared memory is in a folder of devices, and its files are files.
    #[test]
    fn files_beside_devices_are_replaced() {
        let Ok(folder) = tempfile::tempdir_in("/dev/shm") else { return };
        let path = folder.path().join("file");
        put(&path, "a long text").expect("a new one");
        put(&path, "short").expect("replaces");
        assert_eq!(fs::read_to_string(&path).expect("reads"), "short");
        put(Path::new("/dev/null"), "text").expect("a device is written to");
        assert!(!fs::metadata("/dev/null").expect("is there").is_file());
    }
}
