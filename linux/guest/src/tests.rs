//! The tests, by name.
//!
//! Takes the driver freshly loaded; gives a fact worth reading, or what is wrong. Each promises to fail if the rule in its
//! name is broken. What storms (many things at once) is in `storm`.

use std::error::Error;
use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use pagemove_sample::uapi::{self, FIRST_PAGES, Policy};

use crate::device::Device;
use crate::machine::{Random, compact, frames, free_pages};
use crate::movement;
use crate::storm;
use crate::sys::{self, End, Map, PRIVATE, Pipe, READ_ONLY, SHARED, WORDS, errno};

pub(crate) type Outcome = Result<String, Box<dyn Error>>;

/// A test.
pub(crate) struct Test {
    pub(crate) name: &'static str,
    /// Loads the module without `migrate_folio`.
    pub(crate) unmovable: bool,
    pub(crate) body: fn() -> Outcome,
}

const fn test(name: &'static str, body: fn() -> Outcome) -> Test {
    Test { name, unmovable: false, body }
}

/// All of them, in the order that they run in.
pub(crate) const ALL: &[Test] = &[
    test("bad-input", bad_input),
    test("past-the-end", past_the_end),
    test("cleared-and-apart", cleared_and_apart),
    test("read-and-write", read_and_write),
    test("private-mapping", private_mapping),
    test("clear-refs", clear_refs),
    test("drop-caches", drop_caches),
    test("unload-in-use", unload_in_use),
    test("movement", movement),
    Test { name: "control", unmovable: true, body: control },
    test("pins", pins),
    test("policy", policy),
    test("move-pages", move_pages),
    test("soft-offline", soft_offline),
    test("storm-of-mappings", storm::mappings),
    test("storm-of-truncations", storm::truncations),
];

/// Fails with words unless `is_so`.
pub(crate) fn check(is_so: bool, words: impl FnOnce() -> String) -> Result<(), Box<dyn Error>> {
    if is_so { Ok(()) } else { Err(words().into()) }
}

fn expect(what: &str, result: std::io::Result<i64>, number: i32) -> Result<(), Box<dyn Error>> {
    let got = errno(&result);
    check(got == number, || format!("{what}: error {got}, not {number}"))
}

fn bad_input() -> Outcome {
    let device = Device::open(FIRST_PAGES)?;
    for command in [uapi::RESIZE, uapi::FREE, uapi::FILL, uapi::COUNT, uapi::PIN, uapi::LIST, uapi::POLICY, uapi::LOOK] {
        for address in [0, 8, usize::MAX & !7, 0xffff_ffff_8100_0000] {
            expect("an ioctl with a bad pointer", sys::ioctl_at(device.fd(), command, address), libc::EFAULT)?;
        }
    }
    for command in [0, u32::MAX, uapi::RESIZE + 1000, uapi::RESIZE ^ 0xff, 0x5401] {
        let result = sys::ioctl(device.fd(), command & !(0x3fff << 16), &mut []);
        expect("an unknown ioctl", result, libc::ENOTTY)?;
    }
    expect("an ioctl of absurd length", sys::ioctl_at(device.fd(), uapi::RESIZE | 0x3fff << 16, 8), libc::ENOTTY)?;
    for (first, pages) in [(0, FIRST_PAGES + 1), (u64::MAX, 1), (1, u64::MAX), (u64::MAX, u64::MAX)] {
        expect("freeing an absurd range", device.free(first, pages), libc::EINVAL)?;
        expect("filling an absurd range", device.fill(first, pages), libc::EINVAL)?;
    }
    expect("an absurd size", device.resize(u64::MAX), libc::EINVAL)?;
    expect("freeing what isn't there", device.free(0, FIRST_PAGES), 0)?;
    expect("and again", device.free(0, FIRST_PAGES), 0)?;
    expect("pinning past the end", device.pin(FIRST_PAGES, "x"), libc::ENXIO)?;
    expect("a pin without a name", device.pin(0, ""), libc::EINVAL)?;
    expect("letting go of no pin", device.unpin(0, "x"), libc::ENOENT)?;
    expect("reading to nowhere", sys::read_to_nowhere(device.fd(), false), libc::EFAULT)?;
    expect("writing from nowhere", sys::read_to_nowhere(device.fd(), true), libc::EFAULT)?;
    expect("mapping at no page's border", sys::try_map(device.fd(), 1, 4096), libc::EINVAL)?;
    expect("mapping nothing", sys::try_map(device.fd(), 0, 0), libc::EINVAL)?;
    expect("mapping past what an offset can tell", sys::try_map(device.fd(), i64::MIN, 1 << 30), libc::EOVERFLOW)?;
    Ok("each absurd call has its errno".to_owned())
}

fn past_the_end() -> Outcome {
    let device = Device::open(4)?;
    // Some kernels' own rules let a file be mapped past its end; touching it there is the error.
    let map = device.map(0, 8, SHARED)?;
    map.store(3, 0, 1);
    for (what, page) in [("past the end", 4), ("far past it", 7)] {
        let end = sys::fork(|| map.load(page, 0) as i32)?.wait();
        check(end == End::Signal(libc::SIGBUS), || format!("a touch {what} ended by {end:?}"))?;
    }
    device.resize(2)?;
    let end = sys::fork(|| map.load(3, 0) as i32)?.wait();
    check(end == End::Signal(libc::SIGBUS), || format!("a touch of what was cut off ended by {end:?}"))?;
    device.resize(8)?;
    check(map.load(3, 0) == 0, || "what was cut off came back".to_owned())?;
    Ok("SIGBUS past the end, before and after a cut".to_owned())
}

fn cleared_and_apart() -> Outcome {
    // Fill what is free with a mark first, so that uninitialised memory would show.
    let some = (free_pages()? / 2) as usize;
    {
        let marked = Map::new(None, 0, some, PRIVATE)?;
        (0..some).for_each(|page| (0..WORDS).step_by(64).for_each(|word| marked.store(page, word, u64::MAX)));
    }
    let pages = some / 2;
    let (one, other) = (Device::open(pages as u64)?, Device::open(pages as u64)?);
    let (one_map, other_map) = (one.map(0, pages, SHARED)?, other.map(0, pages, SHARED)?);
    other.fill(0, pages as u64 / 2)?;
    for page in 0..pages {
        for word in (0..WORDS).step_by(64) {
            check(one_map.load(page, word) == 0, || format!("page {page} was not clear"))?;
            one_map.store(page, word, 7);
            check(other_map.load(page, word) == 0, || format!("page {page} of another open was not clear"))?;
        }
    }
    one.free(0, pages as u64)?;
    check((0..pages).all(|page| one_map.load(page, 64) == 0), || "a freed page came back with its contents".to_owned())?;
    Ok(format!("{pages} pages in each of two opens"))
}

fn read_and_write() -> Outcome {
    let mut device = Device::open(FIRST_PAGES)?;
    let map = device.map(0, FIRST_PAGES as usize, SHARED)?;
    let text: Vec<u8> = (0..10_000u32).map(|at| (at * 7) as u8).collect();
    device.file.seek(SeekFrom::Start(1000))?;
    device.file.write_all(&text)?;
    compact()?;
    check(map.load(1, 0) == u64::from_ne_bytes(text[3096..3104].try_into()?), || "a mapping shows other bytes".to_owned())?;
    let mut back = vec![0; text.len()];
    device.file.seek(SeekFrom::Start(1000))?;
    device.file.read_exact(&mut back)?;
    check(back == text, || "other bytes came back".to_owned())?;
    device.file.seek(SeekFrom::End(-4))?;
    check(device.file.read(&mut back)? == 4 && device.file.read(&mut back)? == 0, || "reads go past the end".to_owned())?;
    let full = device.file.write(&text).err().and_then(|error| error.raw_os_error());
    check(full == Some(libc::ENOSPC), || format!("a write at the end gives {full:?}"))?;
    // A buffer that is the device's own mapping: the kernel copies from a page to itself.
    let counts = device.counts()?;
    check(counts.pages == 3 + 1 - 1, || format!("{} pages for {} bytes", counts.pages, text.len()))?;
    Ok("as files do".to_owned())
}

fn private_mapping() -> Outcome {
    let device = Device::open(FIRST_PAGES)?;
    let (shared, private) = (device.map(0, 16, SHARED)?, device.map(0, 16, PRIVATE)?);
    (0..16).for_each(|page| shared.store(page, 0, 1));
    (0..8).for_each(|page| private.store(page, 0, 2));
    compact()?;
    let seen: Vec<u64> = (0..16).map(|page| private.load(page, 0)).collect();
    check(seen[..8] == [2; 8] && seen[8..] == [1; 8], || format!("a private mapping shows {seen:?}"))?;
    check((0..16).all(|page| shared.load(page, 0) == 1), || "a private write is seen by others".to_owned())?;
    Ok("copies on write are its own".to_owned())
}

/// What oopsed kernels 6.1 and 6.12 when a driver's pages were made movable in their other way.
fn clear_refs() -> Outcome {
    let device = Device::open(64)?;
    let map = device.map(0, 64, SHARED)?;
    for round in 1..=50 {
        (0..64).for_each(|page| map.store(page, 0, round));
        // 4: soft-dirty marks; 1: referenced marks.
        for what in ["4", "1"] {
            // Kernels without soft-dirty refuse it; that is no fault of the driver.
            let _ = fs::write("/proc/self/clear_refs", what);
        }
        if round % 10 == 0 {
            compact()?;
        }
        check((0..64).all(|page| map.load(page, 0) == round), || "a write is lost".to_owned())?;
    }
    Ok("50 rounds".to_owned())
}

fn drop_caches() -> Outcome {
    let device = Device::open(256)?;
    {
        let map = device.map(0, 256, SHARED)?;
        (0..256).for_each(|page| map.store(page, 5, page as u64 + 1));
    }
    // Nothing maps them now.
    fs::write("/proc/sys/vm/drop_caches", "3")?;
    let map = device.map(0, 256, READ_ONLY)?;
    check((0..256).all(|page| map.load(page, 5) == page as u64 + 1), || "contents are gone".to_owned())?;
    Ok("unmapped pages keep their contents".to_owned())
}

fn unload_in_use() -> Outcome {
    let device = Device::open(16)?;
    let map = device.map(0, 16, SHARED)?;
    let busy = |number| number == libc::EAGAIN || number == libc::EBUSY;
    let first = errno(&sys::unload_module(crate::MODULE));
    drop(device);
    map.store(3, 0, 4);
    let second = errno(&sys::unload_module(crate::MODULE));
    check(busy(first) && busy(second), || format!("unloading gives {first}, and {second} with a mapping only"))?;
    check(map.load(3, 0) == 4, || "a write is lost".to_owned())?;
    Ok("refused while open, and while mapped".to_owned())
}

fn sound(outcome: &movement::Outcome) -> Result<(), Box<dyn Error>> {
    let sound = outcome.pinned_moved + outcome.lost_writes + outcome.bad_words == 0 && outcome.writes > 0;
    check(sound, || outcome.to_json())
}

fn movement() -> Outcome {
    // Most of memory: where much is free, compaction fills up free blocks as fast as it empties worn ones.
    let pages = free_pages()? * 3 / 4;
    let outcome = movement::run(pages as usize, 1)?;
    sound(&outcome)?;
    check(outcome.moved * 4 > outcome.kept, || format!("too few have moved: {}", outcome.to_json()))?;
    check(outcome.free_after > outcome.free_before, || format!("nothing is gained: {}", outcome.to_json()))?;
    Ok(outcome.to_json())
}

fn control() -> Outcome {
    let outcome = movement::run(20_000, 1)?;
    sound(&outcome)?;
    check(outcome.moved == 0, || format!("unmovable pages moved: {}", outcome.to_json()))?;
    Ok(outcome.to_json())
}

/// Wears memory out around 2,000 pages of the device; gives the pages that are left.
pub(crate) fn worn(device: &Device, map: &Map, seed: u64) -> std::io::Result<Vec<usize>> {
    let mut random = Random::new(seed);
    (0..map.pages()).for_each(|page| map.store(page, 0, page as u64 + 1));
    let mut kept = Vec::new();
    for page in 0..map.pages() {
        if random.draw() >> 40 & 3 == 0 { kept.push(page) } else { device.free(page as u64, 1).map(drop)? }
    }
    Ok(kept)
}

fn pins() -> Outcome {
    let device = Device::open(20_000)?;
    let map = device.map(0, 20_000, SHARED)?;
    let kept = worn(&device, &map, 3)?;
    let pipe = Pipe::new(64)?;
    let (by_kit, by_pipe) = (&kept[100..100 + uapi::MOST_PINS], &kept[2000..2032]);
    for &page in by_kit {
        device.pin(page as u64, "ring")?;
    }
    expect("one pin too many", device.pin(kept[0] as u64, "ring"), libc::ENOSPC)?;
    by_pipe.iter().try_for_each(|&page| map.vmsplice(page, &pipe))?;
    let listed = device.list(uapi::MOST_PINS as u64 - 1)?.ok_or("no list")?;
    let own = u64::from(std::process::id());
    check(listed.pid == own && listed.name.starts_with(b"ring\0") && listed.since_ns > 0, || format!("{listed:?}"))?;
    expect("past the list's end", device.list(uapi::MOST_PINS as u64).map(|_| 0), libc::ENOENT)?;

    let before = frames(&map)?;
    compact()?;
    kept.iter().for_each(|&page| map.store(page, 1, 1));
    let middle = frames(&map)?;
    let moved = |pages: &[usize], from: &[u64], to: &[u64]| pages.iter().filter(|&&page| from[page] != to[page]).count();
    let (kit, spliced, all) = (moved(by_kit, &before, &middle), moved(by_pipe, &before, &middle), moved(&kept, &before, &middle));
    check(kit == 0 && spliced == 0, || format!("{kit} of the kit's pins moved, {spliced} of the pipe's"))?;
    check(all > kept.len() / 4, || format!("only {all} of {} moved", kept.len()))?;

    // A page freed while pinned stays with who pinned it, and is another page for everyone else.
    let freed = by_kit[0];
    device.free(freed as u64, 1)?;
    map.store(freed, 0, 99);
    check(frames(&map)?[freed] != middle[freed], || "a pinned frame was handed out again".to_owned())?;

    let still = move_across(&map, &by_kit[1..])? + move_across(&map, by_pipe)?;
    check(still == 0, || format!("{still} pinned pages moved to another node"))?;
    for &page in by_kit {
        device.unpin(page as u64, "ring")?;
    }
    drop(pipe);
    let pages: Vec<usize> = by_kit[1..].iter().chain(by_pipe).copied().collect();
    let released = move_across(&map, &pages)?;
    check(released == pages.len(), || format!("{released} of {} moved after their pins were let go", pages.len()))?;
    let wrong = kept.iter().filter(|&&page| page != freed && map.load(page, 0) != page as u64 + 1).count();
    check(wrong == 0, || format!("{wrong} words are wrong"))?;
    Ok(format!("{all} of {} moved, none of 64 pinned; {released} of 63 moved once let go", kept.len()))
}

/// Moves pages to the first node, then to the second; gives how many are in another frame than before.
fn move_across(map: &Map, pages: &[usize]) -> std::io::Result<usize> {
    let before = frames(map)?;
    sys::move_pages(map, pages, 0)?;
    let middle = frames(map)?;
    sys::move_pages(map, pages, 1)?;
    let after = frames(map)?;
    Ok(pages.iter().filter(|&&page| before[page] != middle[page] || middle[page] != after[page]).count())
}

/// The system call, while two threads write to what is moved.
fn move_pages() -> Outcome {
    const PAGES: usize = 4000;
    let device = Device::open(PAGES as u64)?;
    let map = device.map(0, PAGES, SHARED)?;
    (0..PAGES).for_each(|page| map.store(page, 0, page as u64 + 1));
    let all: Vec<usize> = (0..PAGES).collect();
    let done = AtomicBool::new(false);
    let outcome = std::thread::scope(|scope| {
        let writers: Vec<_> = (1..3)
            .map(|word| {
                let (map, done) = (&map, &done);
                scope.spawn(move || {
                    let (mut round, mut lost) = (0, 0);
                    while !done.load(Ordering::Relaxed) {
                        lost += (0..PAGES).filter(|&page| map.load(page, word) != round).count();
                        round += 1;
                        (0..PAGES).for_each(|page| map.store(page, word, round));
                    }
                    lost
                })
            })
            .collect();
        let (mut arrived, mut calls) = (Vec::new(), 0);
        for node in [0, 1, 0, 1] {
            // A page that somebody has a passing reference to is left, and the call ends there: its callers repeat it.
            let nodes = (0..200).map(|_| sys::move_pages(&map, &all, node));
            let count = |nodes: Vec<i32>| nodes.iter().filter(|&&at| at == node).count();
            let mut most = Ok(0);
            for nodes in nodes {
                calls += 1;
                most = nodes.map(count);
                if !matches!(most, Ok(some) if some < PAGES) {
                    break;
                }
            }
            arrived.push(most);
        }
        done.store(true, Ordering::Relaxed);
        let lost: usize = writers.into_iter().map(|writer| writer.join().unwrap_or(usize::MAX)).fold(0, usize::saturating_add);
        (arrived, lost, calls)
    });
    let (arrived, lost, calls) = outcome;
    let arrived: Vec<usize> = arrived.into_iter().collect::<Result<_, _>>()?;
    check(lost == 0, || format!("{lost} writes are lost"))?;
    check(arrived == [PAGES; 4], || format!("of {PAGES} pages arrived {arrived:?}"))?;
    check((0..PAGES).all(|page| map.load(page, 0) == page as u64 + 1), || "words are wrong".to_owned())?;
    let counts = device.counts()?;
    Ok(format!("{PAGES} of {PAGES}, four times, in {calls} calls: {} moves, {} put back", counts.moved, counts.failed))
}

fn policy() -> Outcome {
    let device = Device::open(20_000)?;
    let map = device.map(0, 20_000, SHARED)?;
    let kept = worn(&device, &map, 5)?;
    let watched: Vec<usize> = kept.iter().copied().filter(|&page| page < uapi::WATCHED).collect();
    for &page in &watched {
        device.watch(page as u64)?;
    }
    let moves = |policy| -> std::io::Result<(usize, u64)> {
        device.policy(policy)?;
        let (before, refused) = (frames(&map)?, device.counts()?.refused);
        compact()?;
        kept.iter().for_each(|&page| map.store(page, 1, 1));
        let after = frames(&map)?;
        let moved = kept.iter().filter(|&&page| before[page] != after[page]).count();
        Ok((moved, device.counts()?.refused - refused))
    };
    let (moved, refused) = moves(Policy::Refuse)?;
    check(moved == 0 && refused > 0, || format!("refusing: {moved} moved, {refused} refused"))?;
    let (moved, later) = moves(Policy::Retry)?;
    check(moved > 0 && later > 0, || format!("putting off: {moved} moved, {later} put off"))?;
    let (allowed, none) = moves(Policy::Allow)?;
    check(none == 0, || format!("allowing: {none} refused"))?;
    let now = frames(&map)?;
    for &page in &watched {
        let table = device.look(page as u64)?;
        check(table == now[page], || format!("the device's table has {table} for page {page}, which is in {}", now[page]))?;
    }
    let wrong = kept.iter().filter(|&&page| map.load(page, 0) != page as u64 + 1).count();
    check(wrong == 0, || format!("{wrong} words are wrong"))?;
    Ok(format!("{refused} refused; {later} put off and {moved} moved; then {allowed}; {} table entries right", watched.len()))
}

fn soft_offline() -> Outcome {
    let device = Device::open(256)?;
    let map = device.map(0, 256, SHARED)?;
    (0..256).for_each(|page| map.store(page, 0, page as u64 + 1));
    let before = frames(&map)?;
    for page in 0..50 {
        let result = map.advise(page, 1, libc::MADV_SOFT_OFFLINE);
        if page == 0 && errno(&result) == libc::EINVAL {
            return Ok("this kernel has none".to_owned());
        }
        expect("soft-offline", result, 0)?;
    }
    check((0..256).all(|page| map.load(page, 0) == page as u64 + 1), || "words are wrong".to_owned())?;
    let after = frames(&map)?;
    let moved = (0..50).filter(|&page| before[page] != after[page]).count();
    check(moved == 50, || format!("{moved} of 50 moved"))?;
    Ok("50 of 50".to_owned())
}
