//! Pages of HTML that need nothing else: no network, no fonts, no libraries; their own policy forbids them to load any.
//!
//! Takes a page's body, style and script, gives the whole page, and writes it to a folder. Promises that the file appears whole or not at all.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::whole_file::write_whole;

/// What a page is made of.
pub(crate) struct Page<'p> {
    /// What a tab of the browser says after the program's name.
    pub(crate) title: &'p str,
    /// Its own rules, after those of all pages.
    pub(crate) style: &'p str,
    /// Runs once the body is there.
    pub(crate) script: &'p str,
    /// All that is seen.
    pub(crate) body: Markup,
}

impl Page<'_> {
    /// Gives the whole page.
    pub(crate) fn whole(self) -> Markup {
        html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta http-equiv="Content-Security-Policy"
                        content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'";
                    title { "pagemove: " (self.title) }
                    style { (PreEscaped(include_str!("base.css"))) (PreEscaped(self.style)) }
                }
                body {
                    (self.body)
                    script { (PreEscaped(self.script)) }
                }
            }
        }
    }
}

/// Why a page was not written; the folder then holds what it held before.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PageError {
    /// The folder is none, can't be made, or can't be written.
    #[error("can't write a report in {}: {source}; name another folder with --report", dir.display())]
    Folder {
        /// The folder, or the one above it that exists.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The page can't be written in the folder.
    #[error("can't write the report {}: {source}", path.display())]
    Write {
        /// The page.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Finds out now whether a page can be written to a folder, and not after all the work; leaves nothing behind.
pub(crate) fn writable(dir: &Path) -> Result<(), PageError> {
    let exists = dir.ancestors().find(|folder| folder.exists());
    let folder = exists.filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    tempfile::tempfile_in(folder).map(drop).map_err(|source| PageError::Folder { dir: folder.into(), source })
}

/// Writes a page to a folder, which it makes if need be, and gives the file's path.
pub(crate) fn write(page: &Markup, dir: &Path, name: &str) -> Result<PathBuf, PageError> {
    fs::create_dir_all(dir).map_err(|source| PageError::Folder { dir: dir.into(), source })?;
    let path = dir.join(name);
    write_whole(&path, |file| file.write_all(page.0.as_bytes()))
        .map_err(|source| PageError::Write { path: path.clone(), source })?;
    Ok(path)
}
