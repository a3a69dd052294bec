//! Feeds any bytes to what reads files, for the fuzz targets and their corpus: bad input gives an error, never a panic; and
//! what is accepted keeps its promises.

use std::{collections::BTreeMap, fs, io::Write, num::NonZeroUsize, path::Path};

use flate2::{Compression, write::GzEncoder};

use super::{
    Layout,
    capture::capture_from,
    census::Census,
    zoneinfo::{self, ZoneInfo},
};

/// Frames of layouts that are looked at frame by frame; a file of a few bytes can describe 64 TiB.
const LOOKED_AT: u64 = 1 << 14;
/// What a layout file may unpack to here.
const UNPACKED: u64 = 1 << 20;
/// Frames that a zone of a made-up kernel spans at most.
const SPANNED: u64 = 256;

/// Reads a layout file. The first byte tells whether the others are the file, or what is packed in it.
///
/// # Panics
/// When a layout that was accepted isn't what it says, or can't be written and read again.
pub fn layout_file(bytes: &[u8]) {
    let Some((&first, bytes)) = bytes.split_first() else { return };
    let packed = |bytes: &[u8]| {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::none());
        gzip.write_all(bytes).and_then(|()| gzip.finish()).expect("writes to memory")
    };
    let file = if first.is_multiple_of(2) { bytes.to_vec() } else { packed(bytes) };
    match Layout::read_limited(&mut file.as_slice(), UNPACKED) {
        Ok(layout) => holds(&layout),
        Err(error) => assert!(!error.to_string().is_empty(), "an error that says nothing"),
    }
}

/// A layout is what it says: it's the same when written and read again, and all its frames and blocks are counted.
fn holds(layout: &Layout) {
    let mut file = Vec::new();
    layout.write(&mut file).expect("writes to memory");
    assert_eq!(Layout::read(&mut file.as_slice()).expect("reads what it wrote"), *layout);
    if layout.frames() > LOOKED_AT {
        return;
    }
    let mut blocks = 0;
    let census = Census::take(layout, |_, _, count| blocks += count);
    assert_eq!(census.total.blocks.total, blocks);
    assert_eq!(layout.blocks().count() as u64, blocks);
    for count in [1, 3, blocks as usize].into_iter().filter_map(NonZeroUsize::new) {
        let scaled = layout.scale(count).expect("a layout this small can be scaled");
        assert_eq!(scaled.blocks().count(), count.get(), "scaled to {count} blocks");
    }
}

/// Reads a text as `/proc/zoneinfo`.
///
/// # Panics
/// When ranges overlap, or a frame of a zone is in none.
pub fn zoneinfo(bytes: &[u8]) {
    let zones = zoneinfo::parse(&String::from_utf8_lossy(bytes));
    let pieces = zoneinfo::pieces(&zones, &[]);
    for pair in pieces.windows(2) {
        assert!(pair[0].end_pfn <= pair[1].start_pfn, "{pair:?} overlap");
    }
    for piece in &pieces {
        assert!(piece.start_pfn < piece.end_pfn, "{piece:?} is empty");
    }
    for ZoneInfo { start_pfn, spanned, .. } in &zones {
        // The last frame number names no frame: ranges end before it.
        for pfn in [*start_pfn, start_pfn.saturating_add(spanned - 1).min(u64::MAX - 1)] {
            let inside = pieces.iter().any(|piece| (piece.start_pfn..piece.end_pfn).contains(&pfn));
            assert!(inside || *start_pfn == u64::MAX, "frame {pfn} is in a zone, but in no range");
        }
    }
}

/// Captures a made-up kernel. The bytes say in turn: the order of a pageblock, how many zones there are, four bytes for each
/// (first frame, frames spanned, frames managed, frames free), then three for each frame (flags by number, map count).
///
/// # Panics
/// When a capture that succeeds isn't a layout; when the folder for the made-up kernel can't be had.
pub fn capture(bytes: &[u8]) {
    let mut bytes = bytes.iter().copied();
    let mut next = || bytes.next();
    let (Some(order), Some(zones)) = (next(), next()) else { return };
    let (mut text, mut start) = (String::new(), 0);
    for number in 0..zones % 4 {
        let [skip, spanned, managed, free] = std::array::from_fn(|_| next().map_or(0, u64::from));
        // Mostly one after the other; now and then inside the one before, or where no frame can be.
        start = match skip {
            255 => u64::MAX - spanned,
            251.. => start / 2,
            _ => start.saturating_add(skip),
        };
        let spanned = spanned % SPANNED;
        text += &format!("Node {}, zone Z{number}\n spanned {spanned}\n present {spanned}\n", number % 2);
        text += &format!(" managed {managed}\n nr_free_pages {free}\n count: 1\n start_pfn: {start}\n");
        start = start.saturating_add(spanned);
    }
    let (mut flags, mut counts) = (Vec::new(), Vec::new());
    while let (Some(one), Some(other), Some(count)) = (next(), next(), next()) {
        flags.push(1_u64 << (one % 34) | 1 << (other % 34));
        counts.push(u64::from(count % 3));
    }
    let files = BTreeMap::from([
        ("zoneinfo", text.into_bytes()),
        ("pagetypeinfo", format!("Page block order: {}\n", order % 12).into_bytes()),
        ("kpageflags", words(&flags)),
        ("kpagecount", words(&counts)),
    ]);
    // In memory, where there is such a folder: that is ten times as fast.
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.expect("a folder");
    files.iter().for_each(|(name, bytes)| fs::write(folder.path().join(name), bytes).expect("writes"));
    match capture_from(folder.path(), folder.path(), 4096, &mut |done, total| {
        assert!(done <= total);
        Ok(())
    }) {
        Ok(capture) => holds(&capture.layout),
        Err(error) => assert!(!error.to_string().is_empty(), "an error that says nothing"),
    }
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}
