//! The tests, by name.
//!
//! Takes the driver freshly loaded; gives a fact worth reading, or what is wrong. Each promises to fail if the rule in its
//! name is broken. What a process may rely on is in `contract`; many things at once are in `storm`.

use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};

use pagemove_sample::uapi::{self, Policy};

use crate::contract;
use crate::device::Device;
use crate::machine::{Random, compact, frames, free_pages};
use crate::movement;
use crate::storm;
use crate::sys::{self, Map, Pipe, SHARED, errno};

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
    test("bad-input", contract::bad_input),
    test("past-the-end", contract::past_the_end),
    test("cleared-and-apart", contract::cleared_and_apart),
    test("read-and-write", contract::read_and_write),
    test("private-mapping", contract::private_mapping),
    test("clear-refs", contract::clear_refs),
    test("drop-caches", contract::drop_caches),
    test("unload-in-use", contract::unload_in_use),
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

pub(crate) fn expect(what: &str, result: std::io::Result<i64>, number: i32) -> Result<(), Box<dyn Error>> {
    let got = errno(&result);
    check(got == number, || format!("{what}: error {got}, not {number}"))
}

fn sound(outcome: &movement::Outcome) -> Result<(), Box<dyn Error>> {
    let sound = outcome.pinned_moved + outcome.lost_writes + outcome.bad_words == 0 && outcome.writes > 0;
    check(sound, || outcome.to_json())
}

fn movement() -> Outcome {
    // Most of memory: where much is free, compaction fills up free blocks as fast as it empties worn ones.
    let pages = free_pages()? * 3 / 4;
    let outcome = movement::run(pages as usize, 1, 3)?;
    sound(&outcome)?;
    check(outcome.moved * 4 > outcome.kept, || format!("too few have moved: {}", outcome.to_json()))?;
    check(outcome.free_after > outcome.free_before, || format!("nothing is gained: {}", outcome.to_json()))?;
    Ok(outcome.to_json())
}

fn control() -> Outcome {
    let outcome = movement::run(20_000, 1, 1)?;
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
    let moved =
        |pages: &[usize], from: &[u64], to: &[u64]| pages.iter().filter(|&&page| from[page] != to[page]).count();
    let (kit, spliced, all) =
        (moved(by_kit, &before, &middle), moved(by_pipe, &before, &middle), moved(&kept, &before, &middle));
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
        let lost: usize =
            writers.into_iter().map(|writer| writer.join().unwrap_or(usize::MAX)).fold(0, usize::saturating_add);
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
    // Compaction may have passed these by.
    let across = move_across(&map, &watched)?;
    check(across == watched.len(), || format!("{across} of {} watched pages moved", watched.len()))?;
    let now = frames(&map)?;
    for &page in &watched {
        let table = device.look(page as u64)?;
        check(table == now[page], || {
            format!("the device's table has {table} for page {page}, which is in {}", now[page])
        })?;
    }
    let wrong = kept.iter().filter(|&&page| map.load(page, 0) != page as u64 + 1).count();
    check(wrong == 0, || format!("{wrong} words are wrong"))?;
    Ok(format!(
        "{refused} refused; {later} put off and {moved} moved; then {allowed}; {} table entries right",
        watched.len()
    ))
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
