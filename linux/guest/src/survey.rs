//! What `pagemove survey` says of memory that a test has put there, of which it knows whose it is and how much.
//!
//! The archive has the command at `/pagemove`.

use std::error::Error;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::process::Command;

use serde_json::Value;

use crate::device::Device;
use crate::machine::{frames, wait_until};
use crate::sys::{self, Map, PAGE, PRIVATE, Ring, SHARED};
use crate::verdict::{Outcome, Skip, check, needs};

/// Runs the command; gives what it prints.
fn survey(arguments: &[&str]) -> Result<String, Box<dyn Error>> {
    let output = Command::new("/pagemove").arg("survey").args(arguments).output()?;
    check(output.status.success(), || {
        format!("survey {arguments:?} gave {}: {}", output.status, String::from_utf8_lossy(&output.stderr))
    })?;
    Ok(String::from_utf8(output.stdout)?)
}

fn json(arguments: &[&str]) -> Result<Value, Box<dyn Error>> {
    Ok(serde_json::from_str(&survey(arguments)?)?)
}

/// The frames of an owner in all blocks.
fn held_by(owner: &str) -> Result<u64, Box<dyn Error>> {
    let rows = json(&["--range", "all", "--json"])?;
    let mut frames = 0;
    for row in rows.as_array().ok_or("no rows")? {
        for held in row["held_by"].as_array().ok_or("no owners")? {
            if held[0] == owner {
                frames += row["blocks"].as_u64().unwrap_or(0) * held[1].as_u64().unwrap_or(0);
            }
        }
    }
    Ok(frames)
}

/// The name of this program, as processes have it.
fn me() -> std::io::Result<String> {
    Ok(fs::read_to_string("/proc/self/comm")?.trim().to_owned())
}

/// A driver's pages that a process maps: by object and process.
pub(crate) fn packet_ring() -> Outcome {
    const PAGES: u32 = 600;
    needs("CONFIG_PACKET")?;
    let socket = sys::packet_ring(PAGES)?;
    let owner = format!("socket, mapped by {}", me()?);
    let before = held_by(&owner)?;
    let ring = Map::new(Some(socket.as_fd()), 0, PAGES as usize, SHARED)?;
    let mapped = held_by(&owner)?;
    check(before == 0 && mapped == u64::from(PAGES), || {
        format!("{owner:?} has {mapped} frames, {before} before, not {PAGES}")
    })?;
    let first = frames(&ring)?[0];
    let told = survey(&["--explain", &format!("{first:#x}")])?;
    check(told.contains(&owner), || told.clone())?;
    drop((ring, socket));
    let after = held_by(&owner)?;
    check(after == 0, || format!("{after} frames have that name afterwards"))?;
    Ok(format!("{owner:?}: {mapped} frames of {PAGES}"))
}

/// Memory that is secret looks like page cache, and never moves.
pub(crate) fn secret_memory() -> Outcome {
    const PAGES: usize = 64;
    // Switched off, or not there at all.
    let Ok(file) = sys::secret_file(PAGES) else {
        return Err(Skip("this kernel has no secret memory".to_owned()).into());
    };
    let map = Map::new(Some(file.as_fd()), 0, PAGES, SHARED)?;
    (0..PAGES).for_each(|page| map.store(page, 0, 1));
    let owner = format!("/secretmem, mapped by {}", me()?);
    let frames = held_by(&owner)?;
    check(frames == PAGES as u64, || format!("{owner:?} has {frames} frames, not {PAGES}"))?;
    Ok(format!("{owner:?}: {frames} frames that stay"))
}

/// Who has registered buffers, and how much.
pub(crate) fn registered_buffers() -> Outcome {
    const PAGES: usize = 96;
    needs("CONFIG_IO_URING")?;
    let map = Map::new(None, 0, PAGES, PRIVATE)?;
    (0..PAGES).for_each(|page| map.store(page, 0, 1));
    let pinned = |all: &Value| all["pinned"].as_u64();
    let before = pinned(&json(&["--json"])?);
    let ring = Ring::new()?;
    check(ring.register(&map, 0, PAGES)?, || "anonymous memory isn't registered".to_owned())?;
    let all = json(&["--json"])?;
    let mine = |all: &Value| {
        let pinners = all["pinners"].as_array().cloned().unwrap_or_default();
        pinners.into_iter().find(|pinner| pinner["pid"] == u64::from(std::process::id()))
    };
    let found = mine(&all).ok_or_else(|| format!("this process isn't among {}", all["pinners"]))?;
    check(found["io_uring_bytes"] == (PAGES * PAGE) as u64 && found["process"] == me()?, || found.to_string())?;
    let more = pinned(&all).zip(before).map(|(now, before)| now.saturating_sub(before));
    check(more.is_some_and(|more| more >= PAGES as u64), || format!("{more:?} more pages are told as pinned"))?;
    drop(ring);
    // The kernel gives them back a moment later.
    wait_until("survey to tell of no more", || {
        json(&["--json"]).map(|all| mine(&all).is_none()).map_err(|error| std::io::Error::other(error.to_string()))
    })?;
    Ok(format!("{}: io_uring's buffers of {PAGES} pages; pinned pages: {more:?} more", me()?))
}

/// The pages of a pool, used or not.
pub(crate) fn huge_page_pool() -> Outcome {
    const POOL: &str = "/proc/sys/vm/nr_hugepages";
    needs("CONFIG_HUGETLBFS")?;
    let hugetlb = || Ok::<_, Box<dyn Error>>(json(&["--json"])?["total"]["frames"]["hugetlb"].as_u64());
    let before = hugetlb()?;
    fs::write(POOL, "4")?;
    let pages: u64 = fs::read_to_string(POOL)?.trim().parse()?;
    let found = hugetlb();
    fs::write(POOL, "0")?;
    let found = found?;
    check(before == Some(0) && pages > 0 && found == Some(pages * 512), || {
        format!("{found:?} frames of hugetlb, {before:?} before, for {pages} pages")
    })?;
    Ok(format!("hugetlb: {} frames for {pages} pages", pages * 512))
}

/// Pages that a process has pinned through the driver: by the name that the driver gave.
pub(crate) fn pins() -> Outcome {
    let device = Device::open(16)?;
    device.fill(0, 16)?;
    device.watch(3)?;
    device.pin(3, "scanout")?;
    let told = survey(&["--explain", &format!("{:#x}", device.look(3)?)])?;
    let wanted = format!("pinned by {} (scanout)", me()?);
    check(told.contains(&wanted), || format!("{wanted:?} isn't in {told}"))?;
    device.unpin(3, "scanout")?;
    let told = survey(&["--explain", &format!("{:#x}", device.look(3)?)])?;
    check(!told.contains(&wanted), || told.clone())?;
    Ok(told.lines().next().unwrap_or_default().to_owned())
}

/// Slabs that grow and don't shrink: by their cache.
pub(crate) fn slabs() -> Outcome {
    const FILES: usize = 20_000;
    sys::allow_files(FILES as u64 + 100)?;
    let bytes = || {
        let all = json(&["--json"])?;
        let sums = all["kernel"].as_array().cloned().unwrap_or_default();
        let slabs = sums.into_iter().find(|sum| sum["field"] == "Slab").ok_or("no sum of slabs")?;
        let parts = slabs["parts"].as_array().cloned().unwrap_or_default();
        let files =
            parts.iter().find(|part| part["name"] == "filp").map_or(0, |part| part["bytes"].as_u64().unwrap_or(0));
        Ok::<_, Box<dyn Error>>((files, slabs["parts"].to_string()))
    };
    let files = (0..FILES).map(|_| File::open("/dev/null")).collect::<Result<Vec<_>, _>>()?;
    let (grown, parts) = bytes()?;
    // 192 to 256 bytes each.
    check(grown > FILES as u64 * 180 && grown < FILES as u64 * 400, || format!("filp has {grown} bytes: {parts}"))?;
    drop(files);
    Ok(format!("filp: {grown} bytes for {FILES} files"))
}
