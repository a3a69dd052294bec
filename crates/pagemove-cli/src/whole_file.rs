//! Files that appear whole or not at all.
//!
//! Takes a path and what writes the bytes. Promises that what was at the path stays as it was if anything fails, and that nothing but a
//! regular file is replaced.

use std::{
    fs::{self, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::Path,
};

/// Writes a file, which appears whole, or what was at `path` stays as it was. A device or pipe is just written to; a link stays, and leads to it.
pub(crate) fn write_whole(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let there = fs::metadata(path).ok();
    // Only a regular file is replaced; and `/dev/stdout` is what is open there.
    let is_special = there.as_ref().is_some_and(|there| !there.is_file());
    if is_special || ["/dev", "/proc"].iter().any(|folder| path.starts_with(folder)) {
        return write(&mut OpenOptions::new().write(true).open(path)?);
    }
    let path = match (&there, fs::read_link(path)) {
        (Some(_), _) => fs::canonicalize(path)?,
        // A link that leads to nothing yet.
        (None, Ok(target)) => path.parent().unwrap_or(Path::new("")).join(target),
        (None, Err(_)) => path.to_owned(),
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

/// Cuts off the name of the temporary file, of which the user knows nothing; the error has it in its text only.
fn without_path(error: io::Error) -> io::Error {
    match error.to_string().split_once(" at path ") {
        Some((bare, _)) => io::Error::new(error.kind(), bare.to_owned()),
        None => error,
    }
}
