//! What loading does with files that are wrong, in every way we could think of, and that saving keeps everything.

use std::io::Write;

use flate2::{Compression, write::GzEncoder};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{FrameClass, Layout, LayoutError, Owned, Run, Sizes, Zone};

const GOOD: &str = r#"{"format":"pagemove-layout","version":1,"source":"test","pageblock_order":2,
    "zones":[{"name":"DMA","node":0,"start_pfn":1,"spanned":6,"present":5},
             {"name":"Normal","node":1,"start_pfn":8,"spanned":8,"present":8}],
    "runs":[["absent",1],["free",3],["anon",2],["slab",1],["absent",1],["kernel",8]]}"#;

fn gzip(text: &str) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(text.as_bytes()).and_then(|()| gzip.finish()).expect("writes to memory")
}

fn read(bytes: &[u8]) -> Result<Layout, LayoutError> {
    Layout::read(&mut &bytes[..])
}

fn sentence(bytes: &[u8]) -> String {
    read(bytes).expect_err("a bad file").to_string()
}

#[test]
fn the_good_file_loads() {
    let layout = read(&gzip(GOOD)).expect("good");
    assert_eq!((layout.source(), layout.frames(), layout.first_pfn()), ("test", 16, 0));
    assert_eq!(layout.blocks().count(), 4);
}

#[test]
fn neighbouring_runs_of_one_class_become_one() {
    let parts = GOOD.replace(r#"["free",3]"#, r#"["free",1],["free",2]"#);
    assert_eq!(read(&gzip(&parts)).expect("good"), read(&gzip(GOOD)).expect("good"));
}

/// Each row changes the good file in one place and names words of the sentence that must come of it.
#[test]
fn each_contradiction_has_its_sentence() {
    let rows = [
        (r#""format":"pagemove-layout""#, r#""format":"other""#, "not a layout file: it doesn't say"),
        (r#""format":"pagemove-layout","#, "", "not a layout file: it doesn't say"),
        (r#""format":"pagemove-layout""#, r#""format":7"#, "not a layout file: it doesn't say"),
        (r#""version":1"#, r#""version":4"#, "has version 4, this program reads versions 1 to 3"),
        (r#""version":1,"source":"test""#, r#""version":9"#, "has version 9"),
        (r#""version":1"#, r#""version":-1"#, "and a version"),
        (r#""source":"test","#, "", "missing field `source`"),
        (r#""source":"test""#, r#""source":"""#, "1 to 256 bytes"),
        (r#""source":"test""#, r#""source":"a\u001b[2J""#, "no control characters"),
        (r#""pageblock_order":2"#, r#""pageblock_order":0"#, "order of a pageblock is 0"),
        (r#""pageblock_order":2"#, r#""pageblock_order":14"#, "order of a pageblock is 14"),
        (r#""pageblock_order":2"#, r#""pageblock_order":2,"frame_bytes":12288"#, "a frame has 12288 bytes"),
        (r#""pageblock_order":2"#, r#""pageblock_order":300"#, "wrong field: invalid value: integer `300`"),
        (r#""pageblock_order":2"#, r#""pageblock_order":"2""#, "wrong field: invalid type: string"),
        (r#""name":"DMA""#, r#""name":"D\nA""#, "the name of a zone"),
        (r#""spanned":6,"present":5"#, r#""spanned":0,"present":0"#, "spans 0 frames"),
        (r#""spanned":6,"present":5"#, r#""spanned":6,"present":7"#, "has 7 of them"),
        (r#""start_pfn":8"#, r#""start_pfn":6"#, "zone Normal starts at PFN 6, before"),
        (r#""start_pfn":1,"#, r#""start_pfn":18446744073709551615,"#, "beyond any physical address"),
        (r#""spanned":8"#, r#""spanned":18446744073709551615"#, "beyond any physical address"),
        (r#""spanned":8"#, r#""spanned":1000000000000"#, "add up to 16 frames"),
        (r#""spanned":8,"present":8"#, r#""spanned":18446744073709551616,"present":8"#, "wrong field"),
        (r#"["slab",1]"#, r#"["slab",2]"#, "add up to 17 frames"),
        (r#"["slab",1]"#, r#"["slab",0]"#, "run 3 has no frame"),
        (r#"["slab",1],"#, "", "add up to 15 frames, but the zones' pageblocks cover 16"),
        (r#"["slab",1]"#, r#"["slab",18446744073709551615]"#, "add up to 18446744073709551615 frames"),
        (r#"["slab",1]"#, r#"["slab",-1]"#, "wrong field: invalid value: integer `-1`"),
        (r#"["slab",1]"#, r#"["slab"]"#, "wrong field: invalid length 1"),
        (r#"["slab",1]"#, r#"["slab",1,1]"#, "wrong field"),
        (r#"["slab",1]"#, r#"["slob",1]"#, "unknown class \"slob\""),
        (r#"["slab",1]"#, r#"[3,1]"#, "expected the code of a frame class"),
        (r#"["absent",1],["free",3]"#, r#"["free",4]"#, "PFN 0 is free, but belongs to no zone"),
        (r#"["slab",1],["absent",1]"#, r#"["slab",2]"#, "PFN 7 is slab, but belongs to no zone"),
        ("\n", "\n[", "not JSON"),
        ("]]}", "]]", "not JSON"),
        ("]]}", "]]}}", "not JSON"),
    ];
    for (from, to, words) in rows {
        assert!(GOOD.contains(from), "the row {from} changes nothing");
        let said = sentence(&gzip(&GOOD.replacen(from, to, 1)));
        assert!(said.contains(words), "{from} -> {to} says {said:?}");
    }
}

#[test]
fn what_is_no_layout_at_all_has_its_sentence() {
    let no_zone = r#"{"format":"pagemove-layout","version":1,"source":"x","pageblock_order":9,"zones":[],"runs":[]}"#;
    let absent = r#"{"format":"pagemove-layout","version":1,"source":"x","pageblock_order":1,
        "zones":[{"name":"n","node":0,"start_pfn":0,"spanned":2,"present":0}],"runs":[["absent",2]]}"#;
    let mut trailing = gzip(GOOD);
    trailing.push(0);
    let mut damaged = gzip(GOOD);
    let end = damaged.len();
    damaged[end - 6] ^= 1;
    let rows: [(&[u8], &str); 11] = [
        (b"", "it isn't gzip"),
        (b"\x1f", "it isn't gzip"),
        (GOOD.as_bytes(), "it isn't gzip"),
        (b"\x1f\x8b", "truncated"),
        (&trailing, "something follows"),
        (&damaged, "is damaged"),
        (&gzip(""), "not JSON"),
        (&gzip("[1, 2]"), "it doesn't say"),
        (&gzip("null"), "it doesn't say"),
        (&gzip(no_zone), "has no zone"),
        (&gzip(absent), "every frame of the layout is absent"),
    ];
    for (bytes, words) in rows {
        let said = sentence(bytes);
        assert!(said.contains(words), "{bytes:?} says {said:?}");
    }
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let whole = gzip(GOOD);
    for length in 2..whole.len() {
        let said = sentence(&whole[..length]);
        assert!(said.contains("truncated"), "cut to {length} it says {said:?}");
    }
}

/// Node 1 of an Ampere Altra begins at 64 TiB; frames of 64 KiB make pageblocks of 512 MiB.
#[test]
fn memory_may_lie_far_apart_and_have_large_frames() {
    let far = |frames: u64| {
        let start = 1_u64 << 34;
        let text = format!(
            r#"{{"format":"pagemove-layout","version":2,"source":"x","frame_bytes":65536,"pageblock_order":13,
            "zones":[{{"name":"Normal","node":0,"start_pfn":0,"spanned":8192,"present":8192}},
            {{"name":"Normal","node":1,"start_pfn":{start},"spanned":{frames},"present":8192}}],
            "runs":[["free",8192],["absent",{}],["anon",{frames}]]}}"#,
            start - 8192
        );
        read(&gzip(&text))
    };
    let layout = far(8192).expect("good");
    assert_eq!(layout.blocks().map(|block| block.pfn).collect::<Vec<_>>(), [0, 1 << 34]);
    assert_eq!((layout.block_bytes(), layout.sizes().frame_bytes), (512 << 20, 65536));
    let mut bytes = Vec::new();
    layout.write(&mut bytes).expect("writes");
    assert_eq!(read(&bytes).expect("reads"), layout);
    let said = far(1 << 34).expect_err("too many").to_string();
    assert!(said.contains("limit is 2^34"), "{said}");
}

#[test]
fn too_many_zones_and_runs_are_refused() {
    let zone = |n: u64| Zone { name: "z".into(), node: 0, start_pfn: n * 2, spanned: 2, present: 2 };
    let runs = vec![Run { class: FrameClass::Free, frames: 2 * 70_000 }];
    let zones = (0..70_000).map(zone).collect();
    assert!(matches!(Layout::new("x".into(), Sizes::usual(1), zones, runs), Err(LayoutError::TooManyZones(70_000))));
}

#[test]
fn what_unpacks_to_too_much_is_refused() {
    let bomb = gzip(&" ".repeat(1 << 20));
    assert!(bomb.len() < 1 << 13, "it must be small to be a bomb");
    let said = Layout::read_limited(&mut &bomb[..], (1 << 20) - 1);
    assert!(matches!(said, Err(LayoutError::Unpacked(_))));
    assert!(matches!(Layout::read_limited(&mut &bomb[..], 1 << 20), Err(LayoutError::NotJson(_))));
}

#[test]
fn flipped_bits_never_panic() {
    let mut random = ChaCha8Rng::seed_from_u64(2016);
    let (packed, mut loaded) = (gzip(GOOD), 0);
    for _ in 0..3_000 {
        let mut bytes = packed.clone();
        let place = random.random_range(0..bytes.len());
        bytes[place] ^= 1 << random.random_range(0..8);
        loaded += usize::from(read(&bytes).is_ok());
        // Inside the text the checksum doesn't shield the parser.
        let mut text = GOOD.as_bytes().to_vec();
        for _ in 0..random.random_range(1..4) {
            let place = random.random_range(0..text.len());
            text[place] = random.random_range(0x20..0x7f);
        }
        let text = String::from_utf8(text).expect("ASCII stays ASCII");
        if let Ok(layout) = read(&gzip(&text)) {
            loaded += 1;
            let blocks = layout.blocks().take(1 << 16).map(|block| block.classes.len() as u64);
            assert!(blocks.max() == Some(layout.frames_per_block()));
        }
    }
    assert!(loaded > 0, "no flip was harmless: the flips don't reach what they should");
}

#[test]
fn saving_keeps_everything_and_replaces_the_whole_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.layout");
    std::fs::write(&path, "something else").expect("writes");
    let layout = read(&gzip(GOOD)).expect("good");
    layout.save(&path).expect("saves");
    assert_eq!(Layout::load(&path).expect("loads"), layout);
    assert_eq!(std::fs::read_dir(folder.path()).expect("lists").count(), 1, "a temporary file stayed");

    // What isn't a regular file stays what it is.
    let (link, pipe) = (folder.path().join("link"), folder.path().join("pipe"));
    std::os::unix::fs::symlink(&path, &link).expect("links");
    std::fs::write(&path, "something else").expect("writes");
    layout.save(&link).expect("saves");
    assert!(link.is_symlink());
    assert_eq!(Layout::load(&path).expect("loads"), layout);
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("runs").success());
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| Layout::load(&pipe).expect("loads"));
        layout.save(&pipe).expect("saves");
        assert_eq!(reader.join().expect("reads"), layout);
    });
    assert!(std::os::unix::fs::FileTypeExt::is_fifo(&std::fs::metadata(&pipe).expect("is there").file_type()));

    let nowhere = folder.path().join("none").join("a.layout");
    let said = layout.save(&nowhere).expect_err("no such folder").to_string();
    assert!(said.ends_with("a.layout: No such file or directory (os error 2)"), "{said}");
    assert!(matches!(Layout::load(&nowhere), Err(LayoutError::Unreadable { .. })));
    assert!(matches!(Layout::load(folder.path()), Err(LayoutError::Unreadable { .. })));
    assert!(matches!(layout.save(folder.path()), Err(LayoutError::Unwritable { .. })));
}

#[test]
fn the_sample_is_small_and_has_what_the_command_is_about() {
    let sample = Layout::sample();
    let mut bytes = Vec::new();
    sample.write(&mut bytes).expect("writes to memory");
    assert!(bytes.len() < 200_000, "{} bytes", bytes.len());
    assert_eq!((sample.pageblock_order(), sample.blocks().count()), (9, 1024));
    use FrameClass::*;
    for class in [Free, Anon, File, Slab, PageTable, Reserved, DriverMapped, Kernel] {
        assert!(sample.runs().iter().any(|run| run.class == class), "no frame is {class}");
    }
}

#[test]
fn owners_are_kept_and_must_fit() {
    let owned = |name: &str, ranges| Owned { name: name.into(), source: "maps".into(), processes: 2, ranges };
    let sample = Layout::sample();
    let first = sample.first_pfn();
    let layout = sample.clone().with_owners(vec![owned("/dev/a, mapped by b", vec![(first, 3), (first + 9, 1)])]);
    let layout = layout.expect("within the layout");
    let mut bytes = Vec::new();
    layout.write(&mut bytes).expect("memory");
    assert_eq!(Layout::read(&mut bytes.as_slice()).expect("whole"), layout);
    assert_eq!(layout.with_source("other".into()).expect("a text").owners().len(), 1);

    let end = first + sample.frames();
    let ranges = [(first, 0), (end - 1, 2), (end, 1), (u64::MAX, 1), (5, u64::MAX)];
    for range in ranges.into_iter().chain(first.checked_sub(1).map(|before| (before, 1))) {
        let refused = sample.clone().with_owners(vec![owned("a", vec![range])]);
        assert!(matches!(refused, Err(LayoutError::OwnersFrames { .. })), "{range:?}");
    }
    for name in ["", "a\u{1b}[31m", "a\nb", "a\u{202e}b", &"x".repeat(9000)] {
        let refused = sample.clone().with_owners(vec![owned(name, vec![])]);
        assert!(matches!(refused, Err(LayoutError::OwnersName)), "{name:?}");
    }
}
