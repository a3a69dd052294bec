//! Tests of pinned pages: by the kit with a name, and by the kernel for transfers.
//!
//! No pinned page moves, and each moves after it is unpinned.

use std::fs::{self, File, OpenOptions};
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;

use pagemove_sample::uapi;

use crate::device::opens_of;
use crate::machine::{compact, frames, wait_until};
use crate::sys::{self, Map, Pipe, Ring, SHARED};
use crate::triggers::move_across;
use crate::verdict::{Outcome, Skip, check, expect, needs};
use crate::work::{Scene, mark, wrong_words};

pub(crate) fn by_name_and_by_pipe() -> Outcome {
    let Scene { device, map, kept } = Scene::worn(20_000, 4, 3)?;
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

    // A page freed while pinned stays with its pin; other users get a new page.
    let freed = by_kit[0];
    device.free(freed as u64, 1)?;
    mark(&map, freed);
    check(frames(&map)?[freed] != middle[freed], || "a pinned frame was handed out again".to_owned())?;

    let still = move_across(&map, &by_kit[1..])? + move_across(&map, by_pipe)?;
    check(still == 0, || format!("{still} pinned pages moved to another node"))?;
    for &page in by_kit {
        device.unpin(page as u64, "ring")?;
    }
    drop(pipe);
    let pages: Vec<usize> = by_kit[1..].iter().chain(by_pipe).copied().collect();
    let released = move_across(&map, &pages)?;
    check(released == pages.len(), || format!("{released} of {} moved after their pins were released", pages.len()))?;
    let wrong: u64 = kept.iter().map(|&page| wrong_words(&map, page)).sum();
    check(wrong == 0, || format!("{wrong} words are wrong"))?;
    Ok(format!("{all} of {} moved, none of 64 pinned; {released} of 63 moved once unpinned", kept.len()))
}

/// Fails unless these pages stay and are listed, and all others move.
fn must_stay(scene: &Scene, pinned: Range<usize>) -> Result<(), Box<dyn std::error::Error>> {
    let before = frames(&scene.map)?;
    let others: Vec<usize> = scene.kept.iter().copied().filter(|page| !pinned.contains(page)).collect();
    let moved = move_across(&scene.map, &pinned.clone().collect::<Vec<_>>())?;
    compact()?;
    let now = frames(&scene.map)?;
    let still = pinned.clone().filter(|&page| before[page] == now[page]).count();
    check(moved == 0 && still == pinned.len(), || format!("only {still} of {} pinned pages stayed", pinned.len()))?;
    let moved = move_across(&scene.map, &others)?;
    check(moved == others.len(), || format!("{moved} of the other {} moved", others.len()))?;
    let (pages, first) = (pinned.len(), pinned.start);
    // Older kernels take plain references for direct I/O, not FOLL_PIN.
    let told = [0, pages].map(|some| format!("  others pages={pages} for_transfers={some} first={first}"));
    let mut lines = Vec::new();
    // A passing reference to another page is counted too.
    let found = wait_until("debugfs to list the pinned pages", || {
        lines = opens_of(std::process::id())?;
        Ok(lines.iter().any(|line| told.contains(line)))
    });
    found.map(drop).map_err(|error| format!("{error}: it lists {lines:?}, none of {told:?}").into())
}

/// Fails unless these pages move.
fn must_move(scene: &Scene, pages: Range<usize>) -> Result<(), Box<dyn std::error::Error>> {
    let pages: Vec<usize> = pages.collect();
    // References may be dropped a moment after the call ends.
    wait_until("unpinned pages to move", || Ok(move_across(&scene.map, &pages)? == pages.len()))?;
    Ok(())
}

/// A disk that takes two seconds for each request, so that a test can run during one.
const SLOW_DISK: &str = "nvme0n1";

/// The number of requests at the disk.
fn in_flight() -> std::io::Result<usize> {
    let text = fs::read_to_string(format!("/sys/block/{SLOW_DISK}/inflight"))?;
    Ok(text.split_whitespace().filter_map(|number| number.parse::<usize>().ok()).sum())
}

/// Pages under direct I/O.
pub(crate) fn direct_io() -> Outcome {
    const PINNED: Range<usize> = 100..116;
    needs("CONFIG_BLK_DEV_NVME")?;
    let path = format!("/dev/{SLOW_DISK}");
    // Disks are probed asynchronously, and scanned for partitions.
    wait_until("the disk", || fs::exists(&path))?;
    // The open also waits for the scan.
    let disk = OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(path)?;
    let scene = Scene::whole(400)?;
    let mut facts = Vec::new();
    for (what, write) in [("written from", true), ("read into", false)] {
        let tries = (1..=5).find_map(|tries| match try_transfer(&disk, &scene, PINNED, write) {
            Ok(true) => Some(Ok(tries)),
            // The disk finished before the checks: try again.
            Ok(false) => None,
            Err(error) => Some(Err(error)),
        });
        let tries = tries.ok_or("the disk finished each of five transfers before the checks")??;
        must_move(&scene, PINNED)?;
        facts.push(format!("{} pages stay while a disk has {what} them, and move afterwards ({tries})", PINNED.len()));
        let wrong: u64 = scene
            .kept
            .iter()
            .filter(|page| write || !PINNED.contains(page))
            .map(|&page| wrong_words(&scene.map, page))
            .sum();
        check(wrong == 0, || format!("{wrong} words are wrong"))?;
    }
    let is_zero = |page| (0..sys::WORDS).all(|word| scene.map.load(page, word) == 0);
    check(PINNED.clone().all(is_zero), || "the disk's data isn't there".to_owned())?;
    Ok(facts.join("; "))
}

/// Tells whether the transfer was still under way after the checks.
fn try_transfer(
    disk: &File,
    scene: &Scene,
    pinned: Range<usize>,
    write: bool,
) -> Result<bool, Box<dyn std::error::Error>> {
    pinned.clone().for_each(|page| mark(&scene.map, page));
    std::thread::scope(|scope| {
        let transfer = scope.spawn(|| sys::transfer(disk.as_fd(), &scene.map, pinned.start, pinned.len(), write));
        wait_until("the disk's request", || Ok(in_flight()? > 0 || transfer.is_finished()))?;
        let stayed = must_stay(scene, pinned.clone());
        let in_time = in_flight()? > 0;
        let done = transfer.join().map_err(|_| "the transfer panicked")??;
        check(done == pinned.len() * sys::PAGE, || format!("{done} bytes were transferred"))?;
        if in_time { stayed.map(|()| true) } else { Ok(false) }
    })
}

/// Buffers registered with io_uring, without a time limit.
pub(crate) fn registered_buffers() -> Outcome {
    const PINNED: Range<usize> = 30..62;
    needs("CONFIG_IO_URING")?;
    let scene = Scene::whole(400)?;
    let ring = Ring::new()?;
    for closed in [false, true] {
        if !ring.register(&scene.map, PINNED.start, PINNED.len())? {
            // A file on ramfs, to compare with. (tmpfs differs from other file systems here.)
            sys::mount("ramfs", "/ordinary")?;
            let file = File::options().read(true).write(true).create(true).truncate(true).open("/ordinary/file")?;
            file.set_len(sys::PAGE as u64)?;
            let ordinary = ring.register(&Map::new(Some(file.as_fd()), 0, 1, SHARED)?, 0, 1)?;
            check(!ordinary, || "this kernel registers a file's memory, but not the driver's".to_owned())?;
            return Err(Skip("this kernel registers no memory of files".to_owned()).into());
        }
        must_stay(&scene, PINNED)?;
        if closed {
            break;
        } else {
            ring.unregister()?
        }
        must_move(&scene, PINNED)?;
    }
    drop(ring);
    must_move(&scene, PINNED)?;
    let wrong = scene.wrong_words();
    check(wrong == 0, || format!("{wrong} words are wrong"))?;
    Ok(format!("{} pages stay while registered, and move once unregistered or once their ring is closed", PINNED.len()))
}
