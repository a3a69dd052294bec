//! Everything that makes a stock kernel move pages, one test for each: between nodes, off failing or removed memory,
//! for huge pages.
//!
//! Gives how many pages moved. `work` runs meanwhile, and nothing may be lost. On a kernel built without a trigger the
//! test gives a [`Skip`](crate::verdict::Skip).

use std::error::Error;
use std::fs;
use std::io::Result;
use std::ops::Range;

use pagemove_sample::uapi::Policy;

use crate::device::Device;
use crate::machine::{compact, frames, free_order9, free_pages, kib, number_in, wait_until};
use crate::sys::{self, End, MOVE_ALL, MPOL_BIND, Map, PAGE, PRIVATE, errno};
use crate::verdict::{Outcome, check, needs};
use crate::work::{Report, Scene};

/// How often to repeat a request: a page with a passing reference doesn't move.
const MOST_TRIES: usize = 200;

/// Counts the pages that are on a node.
fn arrived(map: &Map, pages: &[usize], node: i32) -> Result<usize> {
    Ok(sys::nodes_of(map, pages)?.into_iter().filter(|&at| at == node).count())
}

/// Moves pages to the first node, then to the second; gives how many changed frames.
pub(crate) fn move_across(map: &Map, pages: &[usize]) -> Result<usize> {
    let before = frames(map)?;
    sys::move_pages(map, pages, 0)?;
    let middle = frames(map)?;
    sys::move_pages(map, pages, 1)?;
    let after = frames(map)?;
    Ok(pages.iter().filter(|&&page| before[page] != middle[page] || middle[page] != after[page]).count())
}

/// Moves all pages of a scene from node to node in some way, under writers; gives the number of calls, and the report.
pub(crate) fn to_and_fro(
    scene: &Scene,
    mut ask: impl FnMut(&Scene, i32) -> Result<()>,
) -> std::result::Result<(usize, Report), Box<dyn Error>> {
    let pages = scene.kept.len();
    let mut calls = 0;
    let (hops, report) = scene.during(11, || -> Result<_> {
        let (mut hops, mut before) = (Vec::new(), scene.frames()?);
        for node in [0, 1, 0] {
            let mut there = 0;
            for _ in 0..MOST_TRIES {
                calls += 1;
                ask(scene, node)?;
                there = arrived(&scene.map, &scene.kept, node)?;
                if there == pages {
                    break;
                }
            }
            let now = scene.frames()?;
            hops.push((there, before.iter().zip(&now).filter(|(before, now)| before != now).count()));
            before = now;
        }
        Ok(hops)
    })?;
    report.sound()?;
    check(hops.iter().all(|hop| hop.0 == pages), || format!("of {pages} pages arrived, and moved: {hops:?}"))?;
    // In the first round some pages may be on the node already.
    check(hops[1..].iter().all(|hop| hop.1 == pages), || format!("of {pages} pages arrived, and moved: {hops:?}"))?;
    Ok((calls, report))
}

/// Moves 1,000 pages.
fn send(ask: impl FnMut(&Scene, i32) -> Result<()>) -> Outcome {
    const PAGES: usize = 1000;
    let scene = Scene::whole(PAGES)?;
    let (calls, report) = to_and_fro(&scene, ask)?;
    let counts = scene.device.counts()?;
    Ok(format!(
        "{PAGES} of {PAGES}, three times, in {calls} calls: {} moves, {} put back; {} writes",
        counts.moved, counts.failed, report.writes
    ))
}

pub(crate) fn move_pages() -> Outcome {
    send(|scene, node| sys::move_pages(&scene.map, &scene.kept, node).map(drop))
}

pub(crate) fn migrate_pages() -> Outcome {
    send(|_, node| sys::migrate_pages(1 - node, node).map(drop))
}

pub(crate) fn mbind() -> Outcome {
    send(|scene, node| match errno(&sys::mbind(&scene.map, MPOL_BIND, node, MOVE_ALL)) {
        // EIO: some pages stayed; `arrived` counts them.
        0 | libc::EIO => Ok(()),
        other => Err(std::io::Error::from_raw_os_error(other)),
    })
}

/// Memory that is predicted to fail: its mapped pages move at once.
pub(crate) fn soft_offline() -> Outcome {
    const PAGES: usize = 50;
    needs("CONFIG_MEMORY_FAILURE")?;
    let scene = Scene::whole(256)?;
    let before = scene.frames()?;
    let ((), report) = scene.during(12, || -> Result<()> {
        for page in 0..PAGES {
            // EBUSY: a passing reference.
            let asked = || scene.map.advise(page, 1, libc::MADV_SOFT_OFFLINE);
            let done = (0..MOST_TRIES).map(|_| asked()).find(|done| errno(done) != libc::EBUSY);
            done.unwrap_or_else(asked)?;
        }
        Ok(())
    })?;
    report.sound()?;
    let moved = (0..PAGES).filter(|&page| !report.after.contains(&before[page])).count();
    check(moved == PAGES, || format!("{moved} of {PAGES} moved"))?;
    Ok(format!("{moved} of {PAGES}"))
}

/// The same by physical address, for unmapped pages: the kernel drops clean ones.
pub(crate) fn soft_offline_unmapped() -> Outcome {
    needs("CONFIG_MEMORY_FAILURE")?;
    const PAGES: u64 = 20;
    let device = Device::open(PAGES)?;
    for page in 0..PAGES {
        // By `write`, since unmapping would mark pages dirty that were written through a mapping.
        device.write_word(page, 5, page + 1)?;
        device.watch(page)?;
        let before = device.look(page)?;
        fs::write("/sys/devices/system/memory/soft_offline_page", format!("{:#x}", before * PAGE as u64))?;
        let (word, after) = (device.read_word(page, 5)?, device.look(page)?);
        check(word == page + 1, || format!("page {page} has lost its contents: {word}"))?;
        check(after != before, || format!("page {page} is still in frame {before}"))?;
    }
    Ok(format!("{PAGES} of {PAGES}"))
}

/// A memory block that is present but offline.
pub(crate) struct Block {
    folder: String,
    frames: Range<u64>,
}

impl Block {
    /// The block that the guest reserves for this.
    pub(crate) fn spare() -> Result<Self> {
        const FOLDER: &str = "/sys/devices/system/memory";
        let number = |text: String| u64::from_str_radix(text.trim(), 16).map_err(std::io::Error::other);
        let block_frames = number(fs::read_to_string(format!("{FOLDER}/block_size_bytes"))?)? / PAGE as u64;
        for entry in fs::read_dir(FOLDER)? {
            let folder = entry?.path().to_string_lossy().into_owned();
            if fs::read_to_string(format!("{folder}/state")).is_ok_and(|state| state.trim() == "offline") {
                let first = number(fs::read_to_string(format!("{folder}/phys_index"))?)? * block_frames;
                return Ok(Self { folder, frames: first..first + block_frames });
            }
        }
        Err(std::io::Error::other("no offline memory block: the guest must have one plugged in and left offline"))
    }

    pub(crate) fn set(&self, state: &str) -> Result<()> {
        fs::write(format!("{}/state", self.folder), state)
    }

    fn holds(&self, scene: &Scene) -> Result<Vec<usize>> {
        let frames = scene.frames()?;
        Ok((0..frames.len()).filter(|&at| self.frames.contains(&frames[at])).collect())
    }
}

/// Memory to be unplugged: all pages leave it, and offlining waits for pinned ones.
pub(crate) fn memory_offline() -> Outcome {
    needs("CONFIG_MEMORY_HOTREMOVE")?;
    let block = Block::spare()?;
    let scene = Scene::whole(3000)?;
    let mut facts = Vec::new();
    for pinned in [false, true] {
        block.set("online_movable")?;
        sys::move_pages(&scene.map, &scene.kept, 0)?;
        sys::move_pages(&scene.map, &scene.kept, 1)?;
        let inside = block.holds(&scene)?;
        check(inside.len() * 2 > scene.kept.len(), || format!("only {} pages are in the block", inside.len()))?;
        let of_them = inside[inside.len() / 2];
        if pinned {
            scene.device.pin(of_them as u64, "stays")?;
        }
        let before = scene.frames()?;
        let (left, report) = scene.during(13, || -> std::result::Result<_, Box<dyn Error>> {
            let child = sys::fork(|| i32::from(block.set("offline").is_err()))?;
            let mut left = 0;
            if pinned {
                wait_until("all others to leave the block", || Ok(block.holds(&scene)?.len() == 1))?;
                left = block.holds(&scene)?.len();
                check(child.ended().is_none(), || "the block went offline with a pinned page in it".to_owned())?;
                check(scene.frames()?[of_them] == before[of_them], || "the pinned page moved".to_owned())?;
                scene.device.unpin(of_them as u64, "stays")?;
            }
            let end = child.wait();
            check(end == End::Exit(0), || format!("offlining ended by {end:?}"))?;
            Ok(left)
        })?;
        report.sound()?;
        let still = block.holds(&scene)?.len();
        check(still == 0, || format!("{still} pages are in a block that is offline"))?;
        facts.push(format!("{} pages left the block, {left} of them after it was unpinned", inside.len()));
    }
    Ok(facts.join("; "))
}

/// The number of huge pages to ask for beyond those available without moving.
const MORE: u64 = 24;

/// Sets the size of the huge-page pool; gives the size reached.
fn grow_pool(pages: u64) -> Result<u64> {
    const POOL: &str = "/proc/sys/vm/nr_hugepages";
    fs::write(POOL, pages.to_string())?;
    number_in(POOL)
}

/// Growing the huge-page pool in fragmented memory: first without moving the driver's pages, then with moves.
pub(crate) fn huge_page_pool() -> Outcome {
    needs("CONFIG_HUGETLB_PAGE")?;
    let scene = Scene::worn(free_pages()? as usize * 3 / 4, 2, 14)?;
    scene.device.policy(Policy::Refuse)?;
    // Moves granted before may still be under way; compaction outlasts them.
    compact()?;
    let moved_before = scene.device.counts()?.moved;
    let all = grow_pool(free_pages()?)?;
    let moved = scene.device.counts()?.moved - moved_before;
    check(moved == 0, || format!("{moved} pages moved although the driver refused"))?;
    scene.device.policy(Policy::Allow)?;
    let ((got, asked), report) = scene.during(14, || -> Result<_> {
        let (mut got, start) = (all, scene.device.counts()?.moved);
        // After a failure the kernel defers compaction for up to 64 calls. Some huge pages come from memory freed
        // meanwhile. So ask for more and more, until moves are needed.
        for asked in 1..=MOST_TRIES {
            got = grow_pool(got + MORE)?;
            if got > all && scene.device.counts()?.moved > start {
                return Ok((got, Some(asked)));
            }
        }
        Ok((got, None))
    })?;
    grow_pool(0)?;
    report.sound()?;
    let moved = scene.device.counts()?.moved - moved_before;
    let asked = asked.ok_or_else(|| format!("{got} huge pages with {moved} moves, and {all} without any"))?;
    check(moved > 0 && report.moved > 0, || format!("{got} huge pages instead of {all}, but nothing has moved"))?;
    Ok(format!(
        "{} of {} moved for {got} huge pages, of which {all} were available without moves; asked {asked} times",
        report.moved,
        scene.kept.len()
    ))
}

/// Faults on memory with transparent huge pages, with direct compaction on.
pub(crate) fn thp_faults() -> Outcome {
    const FOLDER: &str = "/sys/kernel/mm/transparent_hugepage";
    const HUGE: usize = 512;
    needs("CONFIG_TRANSPARENT_HUGEPAGE")?;
    let scene = Scene::worn(free_pages()? as usize * 3 / 4, 2, 15)?;
    let (free, moved_before) = (free_order9()?, scene.device.counts()?.moved);
    fs::write(format!("{FOLDER}/enabled"), "always")?;
    fs::write(format!("{FOLDER}/defrag"), "always")?;
    let (got, report) = scene.during(15, || -> Result<u64> {
        let before = kib("/proc/meminfo", "AnonHugePages:")?;
        // After a failure the kernel defers compaction for up to 64 faults.
        let (enough, blocks) = ((free + MORE) as usize, (free + 4 * MORE) as usize);
        let map = Map::new(None, 0, (blocks + 1) * HUGE, PRIVATE)?;
        let first = (map.address() / PAGE).next_multiple_of(HUGE) - map.address() / PAGE;
        for block in 0..blocks {
            map.store(first + block * HUGE, 0, 1);
            if block >= enough && scene.device.counts()?.moved > moved_before {
                break;
            }
        }
        Ok((kib("/proc/meminfo", "AnonHugePages:")?.saturating_sub(before)) / 2048)
    })?;
    fs::write(format!("{FOLDER}/defrag"), "madvise")?;
    report.sound()?;
    check(report.moved > 0, || format!("nothing moved for {got} huge pages, where {free} were free"))?;
    Ok(format!("{} of {} moved for {got} huge pages, where {free} were free", report.moved, scene.kept.len()))
}

/// A 1 GiB huge page from CMA memory, which movable pages use meanwhile. Needs a larger guest.
pub(crate) fn hugetlb_cma() -> Outcome {
    const POOL: &str = "/sys/devices/system/node/node1/hugepages/hugepages-1048576kB/nr_hugepages";
    needs("CONFIG_CMA")?;
    let kept = kib("/proc/meminfo", "CmaTotal:")?;
    check(kept >= 1 << 20, || format!("the guest reserves {kept} KiB for huge pages, not 1 GiB"))?;
    let scene = Scene::whole(40_000)?;
    sys::mbind(&scene.map, MPOL_BIND, 1, MOVE_ALL)?;
    let free = kib("/proc/meminfo", "CmaFree:")?;
    check(free + 10_000 * 4 < kept, || format!("hardly any CMA memory is used: {free} KiB of {kept} are free"))?;
    let (got, report) = scene.during(16, || -> Result<u64> {
        // A passing reference makes this fail.
        for _ in 0..MOST_TRIES {
            fs::write(POOL, "1")?;
            if number_in(POOL)? == 1 {
                break;
            }
        }
        number_in(POOL)
    })?;
    fs::write(POOL, "0")?;
    report.sound()?;
    check(got == 1 && report.moved > 10_000, || format!("{} pages moved for {got} huge page", report.moved))?;
    Ok(format!("{} of {} moved", report.moved, scene.kept.len()))
}
