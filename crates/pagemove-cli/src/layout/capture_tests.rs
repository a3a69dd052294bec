//! Captures from folders that look like `/proc` of kernels old and new.

use super::*;
use FrameClass::*;

const LRU: u64 = 1 << 5;
const BUDDY: u64 = 1 << 10;
const SLAB: u64 = 1 << 7;
const MMAP: u64 = 1 << 11;

/// A zone of a made-up kernel: name, first PFN, frames spanned, managed and free.
struct Made(&'static str, u64, u64, u64, u64);

fn folder(zones: &[Made], order: u8, flags: &[u64], counts: &[u64]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let words = |words: &[u64]| words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<_>>();
    let mut text = String::new();
    for Made(name, start, spanned, managed, free) in zones {
        text += &format!(
            "Node 0, zone {name}\n spanned {spanned}\n present {managed}\n managed {managed}\n nr_free_pages {free}\n \
             count: 3\n start_pfn: {start}\n"
        );
    }
    let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).expect("writes");
    write("zoneinfo", text.as_bytes());
    write("pagetypeinfo", format!("Page block order: {order}\nPages per block: 4\n").as_bytes());
    write("kpageflags", &words(flags));
    write("kpagecount", &words(counts));
    folder
}

fn capture(folder: &tempfile::TempDir) -> Capture {
    capture_from(folder.path(), folder.path(), 4096, &mut |_, _| Ok(())).expect("captures")
}

fn runs(layout: &Layout) -> Vec<(FrameClass, u64)> {
    layout.runs().iter().map(|&run| run.into()).collect()
}

#[test]
fn zones_holes_and_the_end_of_the_file() {
    let zones = [Made("DMA", 1, 4, 4, 2), Made("Normal", 8, 6, 6, 1)];
    // The file ends at PFN 12, ahead of the last zone's end; frame 0 and 5..8 belong to no zone.
    let flags = [SLAB, BUDDY, BUDDY, SLAB, LRU, SLAB, SLAB, SLAB, MMAP, 0, BUDDY, LRU];
    let folder = folder(&zones, 2, &flags, &[0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0]);
    let found = capture(&folder);
    let expected = [
        (Absent, 1),
        (Free, 2),
        (Slab, 1),
        (File, 1),
        (Absent, 3),
        (DriverMapped, 1),
        (Kernel, 1),
        (Free, 1),
        (File, 1),
        (Absent, 4),
    ];
    assert_eq!(runs(&found.layout), expected);
    assert_eq!(found.check, FreeCheck { captured: 3, zoneinfo: 3, per_cpu: 6 });
    assert_eq!(found.layout.zones()[1].start_pfn, 8);
}

#[test]
fn kernels_that_mark_only_the_head_of_a_free_block() {
    // Free blocks of order 2 at PFN 4 and of order 0 at PFN 9.
    let flags = [0, 0, 0, 0, BUDDY, 0, 0, 0, 0, BUDDY, 0, SLAB];
    let counts = [0; 12];
    let old = capture(&folder(&[Made("Normal", 4, 8, 8, 6)], 2, &flags, &counts));
    assert_eq!(runs(&old.layout), [(Free, 4), (Kernel, 1), (Free, 1), (Kernel, 1), (Slab, 1)]);
    assert_eq!(old.check.captured, 5);
    // The same frames on a kernel that says only two are free: then what follows a head is in use.
    let new = capture(&folder(&[Made("Normal", 4, 8, 8, 2)], 2, &flags, &counts));
    assert_eq!(runs(&new.layout), [(Free, 1), (Kernel, 4), (Free, 1), (Kernel, 1), (Slab, 1)]);
}

#[test]
fn blank_sections_are_absent_as_far_as_the_zone_lacks_frames() {
    let section = SECTION as usize;
    let mut flags = vec![0; 4 * section];
    flags[0] = SLAB;
    flags[4 * section - 1] = SLAB;
    let counts = vec![0; 4 * section];
    let spanned = 4 * SECTION;
    let lacks_one = capture(&folder(&[Made("Normal", 0, spanned, spanned - SECTION - 7, 0)], 9, &flags, &counts));
    let expected = [(Slab, 1), (Kernel, SECTION - 1), (Absent, SECTION), (Kernel, 2 * SECTION - 1), (Slab, 1)];
    assert_eq!(runs(&lacks_one.layout), expected);
    let lacks_none = capture(&folder(&[Made("Normal", 0, spanned, spanned, 0)], 9, &flags, &counts));
    assert_eq!(runs(&lacks_none.layout), [(Slab, 1), (Kernel, 4 * SECTION - 2), (Slab, 1)]);
}

#[test]
fn a_zone_within_another_is_cut_out_of_it() {
    let zones = [Made("Normal", 0, 12, 8, 2), Made("Movable", 4, 4, 4, 4)];
    let flags = [SLAB, SLAB, SLAB, BUDDY, BUDDY, BUDDY, BUDDY, BUDDY, BUDDY, SLAB, 1 << 20, SLAB];
    let found = capture(&folder(&zones, 2, &flags, &[0; 12]));
    let names: Vec<_> =
        found.layout.zones().iter().map(|z| (z.name.as_str(), z.start_pfn, z.spanned, z.present)).collect();
    assert_eq!(names, [("Normal", 0, 4, 4), ("Movable", 4, 4, 4), ("Normal", 8, 4, 3)]);
    assert_eq!(runs(&found.layout), [(Slab, 3), (Free, 6), (Slab, 1), (Absent, 1), (Slab, 1)]);
}

/// Two nodes whose memory takes turns, and a block that is offline.
#[test]
fn nodes_that_interleave_have_their_own_frames() {
    const BLOCK: u64 = 1 << 15;
    let text = format!(
        "Node 0, zone Normal\n spanned {}\n present {}\n managed {}\n start_pfn: 0\n\
         Node 1, zone Normal\n spanned {}\n present {}\n managed {}\n start_pfn: {BLOCK}\n",
        3 * BLOCK,
        2 * BLOCK,
        2 * BLOCK,
        4 * BLOCK,
        2 * BLOCK,
        2 * BLOCK,
    );
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: String, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("makes");
        fs::write(path, bytes).expect("writes");
    };
    write("zoneinfo".into(), text.as_bytes());
    write("pagetypeinfo".into(), b"Page block order: 9\n");
    let flags: Vec<u8> = (0..5 * BLOCK).flat_map(|_| SLAB.to_ne_bytes()).collect();
    write("kpageflags".into(), &flags);
    write("kpagecount".into(), &vec![0; flags.len()]);
    write("devices/system/memory/block_size_bytes".into(), b"8000000\n");
    for (node, block, state) in
        [(0, 0, "online"), (1, 1, "online"), (0, 2, "online"), (1, 3, "offline"), (1, 4, "online")]
    {
        write(format!("devices/system/memory/memory{block}/state"), state.as_bytes());
        fs::create_dir_all(folder.path().join(format!("devices/system/node/node{node}/memory{block}"))).expect("makes");
    }
    let found = capture(&folder).layout;
    let zones: Vec<_> =
        found.zones().iter().map(|zone| (zone.node, zone.start_pfn / BLOCK, zone.spanned / BLOCK)).collect();
    assert_eq!(zones, [(0, 0, 1), (1, 1, 1), (0, 2, 1), (1, 4, 1)]);
    assert_eq!(runs(&found), [(Slab, 3 * BLOCK), (Absent, BLOCK), (Slab, BLOCK)]);
    let census = crate::layout::census::Census::take(&found, |_, _, _| {});
    let of = |node: usize| census.zones[node].counts.frames.of(Slab);
    assert_eq!([of(0), of(1)], [2 * BLOCK, 2 * BLOCK]);
}

#[test]
fn what_cant_be_read_has_its_error() {
    let made = folder(&[Made("Normal", 0, 4, 4, 0)], 14, &[0; 4], &[0; 4]);
    let captured = || capture_from(made.path(), made.path(), 4096, &mut |_, _| Ok(()));
    assert!(matches!(captured(), Err(CaptureError::Layout(LayoutError::PageblockOrder(14)))));
    fs::write(made.path().join("pagetypeinfo"), "Page block order: 9\n").expect("writes");
    let nonsense = |start: u64, spanned: u64| {
        let text = format!("Node 0, zone N\n spanned {spanned}\n present 1\n start_pfn: {start}\n");
        fs::write(made.path().join("zoneinfo"), text).expect("writes");
    };
    // The last frame numbers of all, and more frames than anybody could look at.
    nonsense(u64::MAX - 1, 1);
    assert!(matches!(captured(), Err(CaptureError::Layout(LayoutError::ZoneEnd { .. }))));
    nonsense(0, 1 << 39);
    assert!(matches!(captured(), Err(CaptureError::Layout(LayoutError::TooManyFrames(_)))));
    fs::write(made.path().join("zoneinfo"), "nothing").expect("writes");
    assert!(matches!(captured(), Err(CaptureError::NoZones(_))));
    fs::remove_file(made.path().join("kpagecount")).expect("removes");
    assert!(matches!(captured(), Err(CaptureError::Missing(path)) if path.ends_with("kpagecount")));
    let denied = io::Error::from(io::ErrorKind::PermissionDenied);
    let said = refused("/proc/kpageflags".into(), denied).to_string();
    assert_eq!(said, "/proc/kpageflags can be read by root only");
}

/// Runs where the kernel lets it: on a machine without the right to look, the error must say just that.
#[test]
fn this_machine() {
    let (mut calls, mut last) = (0, (0, 0));
    let found = Layout::capture(&mut |done, total| {
        assert!(done > last.0 && done <= total);
        (calls, last) = (calls + 1, (done, total));
        Ok(())
    });
    match found {
        Ok(Capture { layout, check }) => {
            assert!(calls > 0 && last.0 == last.1);
            assert!(layout.blocks().any(|block| block.classes.contains(&Slab)), "a kernel without slab");
            // Memory changes meanwhile; a wrong notion of free blocks is off by far more than a quarter.
            let apart = check.captured.abs_diff(check.zoneinfo);
            assert!(apart <= check.zoneinfo / 4, "{check:?}");
        }
        Err(CaptureError::Permission(_) | CaptureError::Missing(_)) => {}
        Err(error) => panic!("{error}"),
    }
}

/// A machine of any size, and what it costs: `PAGEMOVE_CAPTURE_GIB=1024 cargo test --release -p pagemove-cli --lib of_any_size -- --nocapture`.
#[test]
fn a_machine_of_any_size() {
    use rand::{RngExt as _, SeedableRng as _};
    use std::{io::Write as _, time::Instant};
    let gib = std::env::var("PAGEMOVE_CAPTURE_GIB").map_or(2, |gib| gib.parse::<u64>().expect("a number of GiB"));
    let frames = gib << 18;
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
    let folder = folder(&[Made("Normal", 0, frames, frames, frames / 4)], 9, &[], &[]);
    // 1 GiB that repeats: random numbers take longer than all else.
    let mut part = Vec::new();
    while part.len() < 8 << 18 {
        let word = [LRU, LRU | 1 << 12, BUDDY, SLAB, 1 << 26][rng.random_range(0..5)];
        (0..rng.random_range(1..60)).for_each(|_| part.extend(word.to_ne_bytes()));
    }
    let mut flags = fs::File::create(folder.path().join("kpageflags")).expect("makes");
    part.truncate(8 << 18);
    (0..gib).for_each(|_| flags.write_all(&part).expect("there is room"));
    fs::File::create(folder.path().join("kpagecount")).expect("makes").set_len(frames * 8).expect("sparse");
    let status = || procfs::process::Process::myself().expect("this process").status().expect("its status");
    let (start, before) = (Instant::now(), status().vmrss.expect("a size"));
    let layout = capture(&folder).layout;
    let (captured, after) = (start.elapsed(), status());
    let start = Instant::now();
    let census = crate::layout::census::Census::take(&layout, |_, _, _| ());
    println!(
        "{} runs in {captured:.1?}, at most {} MiB (before: {before} KiB); counted in {:.1?}: {:?}",
        layout.runs().len(),
        after.vmhwm.expect("a size") >> 10,
        start.elapsed(),
        census.total.blocks
    );
    assert_eq!(layout.frames(), frames);
    assert_eq!(census.total.blocks.total, frames >> 9);
}
