//! Layout files: gzip of one JSON object.
//!
//! ```json
//! {"format": "pagemove-layout", "version": 3, "source": "live capture, Linux 6.12",
//!  "frame_bytes": 4096, "pageblock_order": 9,
//!  "zones": [{"name": "DMA32", "node": 0, "start_pfn": 4096, "spanned": 1044480, "present": 782336}],
//!  "runs": [["free", 512], ["anon", 3], ["slab", 1]],
//!  "owners": [{"name": "/dev/dri/card0, mapped by app", "source": "maps", "processes": 1, "ranges": [[4611, 1]]}]}
//! ```
//!
//! Takes a path, gives a consistent layout or a sentence that says what is wrong. Promises never to panic on bad
//! input, to unpack no more than [`MAX_UNPACKED`], and that a saved file is there whole or not at all.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Read, Write},
    ops::RangeInclusive,
    path::Path,
};

use flate2::{Compression, GzBuilder, bufread::GzDecoder};
use serde::{Deserialize, Serialize};

use super::{Layout, LayoutError, Owned, Run, Sizes, Zone, parts::USUAL_FRAME_BYTES};
use crate::whole_file::write_whole;

const FORMAT: &str = "pagemove-layout";
/// Version 1 has no size of frames, and no class `hugetlb`; version 2 has no owners.
const VERSIONS: RangeInclusive<u64> = 1..=3;
/// Most bytes that a file may unpack to: about 20 million runs.
const MAX_UNPACKED: u64 = 256 << 20;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// What says that it is a layout, and of which version.
#[derive(Deserialize)]
struct Head {
    format: String,
    version: u64,
}

#[derive(Deserialize)]
struct Body {
    source: String,
    #[serde(default = "usual")]
    frame_bytes: u64,
    pageblock_order: u8,
    zones: Vec<Zone>,
    runs: Vec<Run>,
    #[serde(default)]
    owners: Vec<Owned>,
}

#[derive(Serialize)]
struct Whole<'a> {
    format: &'static str,
    version: u64,
    source: &'a str,
    frame_bytes: u64,
    pageblock_order: u8,
    zones: &'a [Zone],
    runs: &'a [Run],
    owners: &'a [Owned],
}

fn usual() -> u64 {
    USUAL_FRAME_BYTES
}

impl Layout {
    /// Returns the layout that ships with the command.
    ///
    /// It is of a virtual machine with 2 CPUs and Linux 6.18, captured with `pagemove survey --settle --save FILE` in
    /// the midst of real work: this workspace had been built, 20,000 files read into the page cache, and five
    /// processes held half of the 1.2 GiB of anonymous memory that they had taken, the other half freed in random
    /// order. One process had AF_PACKET and io_uring rings mapped, made bit by bit meanwhile: these are the mapped
    /// driver pages.
    ///
    /// The kernel had left most of zone DMA32 untouched: its wholly free blocks were taken out. What remained was
    /// scaled to 1024 blocks (2 GiB) with `--blocks`. Nothing was added or changed.
    pub(crate) fn sample() -> Self {
        let file = include_bytes!("../../data/sample.layout");
        Self::read(&mut file.as_slice()).expect("the embedded file is part of the build, and a test reads it")
    }

    /// Reads a layout file.
    pub(crate) fn load(path: &Path) -> Result<Self, LayoutError> {
        let unreadable = |error| LayoutError::Unreadable { path: path.to_owned(), error };
        let mut file = BufReader::new(File::open(path).map_err(unreadable)?);
        // Reads ahead, so that an error of the disk isn't taken for damage in the file.
        file.fill_buf().map_err(unreadable)?;
        Self::read(&mut file)
    }

    /// Writes a layout file; it appears whole, or what was at `path` stays as it was. To a device or pipe it is just written; a link
    /// stays, and leads to it.
    pub(crate) fn save(&self, path: &Path) -> Result<(), LayoutError> {
        write_whole(path, |to| self.write(BufWriter::new(to)))
            .map_err(|error| LayoutError::Unwritable { path: path.to_owned(), error })
    }

    /// Writes the file's bytes; the same layout always gives the same bytes.
    pub(crate) fn write(&self, to: impl Write) -> io::Result<()> {
        let mut gzip = GzBuilder::new().mtime(0).write(to, Compression::best());
        let (source, Sizes { frame_bytes, pageblock_order }) = (self.source(), self.sizes());
        let whole = Whole {
            format: FORMAT,
            version: *VERSIONS.end(),
            source,
            frame_bytes,
            pageblock_order,
            zones: self.zones(),
            runs: self.runs(),
            owners: self.owners(),
        };
        serde_json::to_writer(BufWriter::new(&mut gzip), &whole)?;
        gzip.finish()?.flush()
    }

    /// Reads the file's bytes.
    pub(super) fn read(from: &mut impl BufRead) -> Result<Self, LayoutError> {
        Self::read_limited(from, MAX_UNPACKED)
    }

    /// Reads the file's bytes, and refuses them when they unpack to more than `limit`.
    pub(super) fn read_limited(from: &mut impl BufRead, limit: u64) -> Result<Self, LayoutError> {
        let text = unpack(from, limit)?;
        // Two passes: a file of another version may have other fields, and its version is what matters then.
        let head: Head = serde_json::from_slice(&text)
            .map_err(|error| if error.is_data() { LayoutError::NotLayout } else { LayoutError::NotJson(error) })?;
        if head.format != FORMAT {
            return Err(LayoutError::NotLayout);
        }
        if !VERSIONS.contains(&head.version) {
            return Err(LayoutError::Version(head.version));
        }
        // It is JSON, as the first pass found, though serde_json calls a tuple that is too long a fault of syntax.
        let body: Body = serde_json::from_slice(&text).map_err(LayoutError::Field)?;
        let sizes = Sizes { frame_bytes: body.frame_bytes, pageblock_order: body.pageblock_order };
        Self::new(body.source, sizes, body.zones, body.runs)?.with_owners(body.owners)
    }
}

fn unpack(from: &mut impl BufRead, limit: u64) -> Result<Vec<u8>, LayoutError> {
    if !from.fill_buf().map_err(LayoutError::Damaged)?.starts_with(&GZIP_MAGIC) {
        return Err(LayoutError::NotGzip);
    }
    let mut gzip = GzDecoder::new(from);
    let mut text = Vec::new();
    let length = gzip.by_ref().take(limit + 1).read_to_end(&mut text).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => LayoutError::Truncated,
        _ => LayoutError::Damaged(error),
    })?;
    if length as u64 > limit {
        return Err(LayoutError::Unpacked(limit));
    }
    match gzip.into_inner().fill_buf() {
        Ok([]) => Ok(text),
        Ok(_) => Err(LayoutError::Trailing),
        Err(error) => Err(LayoutError::Damaged(error)),
    }
}
