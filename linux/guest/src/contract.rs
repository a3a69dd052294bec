//! Tests of what a process may rely on: the usual errnos, zeroed pages, and contents that don't change.
//!
//! Includes bad arguments as a hostile process would use them.

use std::error::Error;
use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use pagemove_sample::uapi::{self, FIRST_PAGES};

use crate::device::Device;
use crate::machine::{compact, free_pages, wait_until};
use crate::sys::{self, End, Map, PAGE, PRIVATE, READ_ONLY, SHARED, WORDS, errno};
use crate::verdict::{Outcome, check, expect, needs};

pub(crate) fn bad_input() -> Outcome {
    let device = Device::open(FIRST_PAGES)?;
    for command in [uapi::RESIZE, uapi::FREE, uapi::FILL, uapi::COUNT, uapi::PIN, uapi::LIST, uapi::POLICY, uapi::LOOK]
    {
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
    expect("unpinning without a pin", device.unpin(0, "x"), libc::ENOENT)?;
    expect("reading to a bad address", sys::read_to_nowhere(device.fd(), false), libc::EFAULT)?;
    expect("writing from a bad address", sys::read_to_nowhere(device.fd(), true), libc::EFAULT)?;
    expect("mapping at an unaligned offset", sys::try_map(device.fd(), 1, 4096), libc::EINVAL)?;
    expect("mapping nothing", sys::try_map(device.fd(), 0, 0), libc::EINVAL)?;
    expect("mapping past the largest offset", sys::try_map(device.fd(), i64::MIN, 1 << 30), libc::EOVERFLOW)?;
    Ok("each bad call gives its errno".to_owned())
}

pub(crate) fn past_the_end() -> Outcome {
    let device = Device::open(4)?;
    // Linux lets a file be mapped past its end; only an access there fails.
    let map = device.map(0, 8, SHARED)?;
    map.store(3, 0, 1);
    for (what, page) in [("past the end", 4), ("far past it", 7)] {
        let end = sys::fork(|| map.load(page, 0) as i32)?.wait();
        check(end == End::Signal(libc::SIGBUS), || format!("an access {what} ended by {end:?}"))?;
    }
    device.resize(2)?;
    let end = sys::fork(|| map.load(3, 0) as i32)?.wait();
    check(end == End::Signal(libc::SIGBUS), || format!("an access to the truncated part ended by {end:?}"))?;
    device.resize(8)?;
    check(map.load(3, 0) == 0, || "truncated contents came back".to_owned())?;
    Ok("SIGBUS past the end, before and after a truncation".to_owned())
}

pub(crate) fn cleared_and_apart() -> Outcome {
    // Fills free memory with a pattern first, so that uninitialised memory would show.
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
    check((0..pages).all(|page| one_map.load(page, 64) == 0), || {
        "a freed page came back with its contents".to_owned()
    })?;
    Ok(format!("{pages} pages in each of two opens"))
}

pub(crate) fn read_and_write() -> Outcome {
    let mut device = Device::open(FIRST_PAGES)?;
    let map = device.map(0, FIRST_PAGES as usize, SHARED)?;
    let text: Vec<u8> = (0..10_000u32).map(|at| (at * 7) as u8).collect();
    device.file.seek(SeekFrom::Start(1000))?;
    device.file.write_all(&text)?;
    compact()?;
    check(map.load(1, 0) == u64::from_ne_bytes(text[3096..3104].try_into()?), || {
        "a mapping shows other bytes".to_owned()
    })?;
    let mut back = vec![0; text.len()];
    device.file.seek(SeekFrom::Start(1000))?;
    device.file.read_exact(&mut back)?;
    check(back == text, || "other bytes came back".to_owned())?;
    device.file.seek(SeekFrom::End(-4))?;
    check(device.file.read(&mut back)? == 4 && device.file.read(&mut back)? == 0, || {
        "reads go past the end".to_owned()
    })?;
    let full = device.file.write(&text).err().and_then(|error| error.raw_os_error());
    check(full == Some(libc::ENOSPC), || format!("a write at the end gives {full:?}"))?;
    // Only pages written to: the failed write at the end allocated none.
    let counts = device.counts()?;
    check(counts.pages == 3, || format!("{} pages for {} bytes", counts.pages, text.len()))?;
    odd_places(&device, &map)?;
    Ok("as files do".to_owned())
}

/// Small writes and reads at unaligned offsets, also across a page boundary; the bytes around them don't change.
fn odd_places(device: &Device, map: &Map) -> Result<(), Box<dyn Error>> {
    let mut model = vec![0; 2 * PAGE];
    device.file.write_all_at(&model, 0)?;
    let places = (0..9).chain(PAGE - 16..PAGE + 9);
    for (round, (at, bytes)) in places.flat_map(|at| (0..=17).map(move |bytes| (at, bytes))).enumerate() {
        let text: Vec<u8> = (0..bytes).map(|byte| (round + 3 * byte) as u8).collect();
        device.file.write_all_at(&text, at as u64)?;
        model[at..at + bytes].copy_from_slice(&text);
        let seen: Vec<u8> =
            (0..2 * WORDS).flat_map(|word| map.load(word / WORDS, word % WORDS).to_ne_bytes()).collect();
        check(seen == model, || format!("{bytes} bytes written at {at} give {seen:?}"))?;
        let mut back = vec![0; bytes];
        device.file.read_exact_at(&mut back, at as u64)?;
        check(back == text, || format!("{bytes} bytes at {at} are read as {back:?}, not {text:?}"))?;
    }
    Ok(())
}

pub(crate) fn private_mapping() -> Outcome {
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

/// Oopsed kernels 6.1 and 6.12 when a driver's pages were made movable by `movable_operations`.
pub(crate) fn clear_refs() -> Outcome {
    let device = Device::open(64)?;
    let map = device.map(0, 64, SHARED)?;
    for round in 1..=50 {
        (0..64).for_each(|page| map.store(page, 0, round));
        // 4 clears soft-dirty bits, 1 referenced bits.
        for what in ["4", "1"] {
            // Fails on kernels without soft-dirty.
            let _ = fs::write("/proc/self/clear_refs", what);
        }
        if round % 10 == 0 {
            compact()?;
        }
        check((0..64).all(|page| map.load(page, 0) == round), || "a write is lost".to_owned())?;
    }
    Ok("50 rounds".to_owned())
}

pub(crate) fn drop_caches() -> Outcome {
    let device = Device::open(256)?;
    // By `write`, since unmapping would mark pages dirty that were written through a mapping.
    (0..256).try_for_each(|page| device.write_word(page, 5, page + 1))?;
    // No page is mapped now.
    fs::write("/proc/sys/vm/drop_caches", "3")?;
    // Any process with the file or a mapping may ask for this.
    sys::advise_dont_need(device.fd())?;
    let map = device.map(0, 256, READ_ONLY)?;
    for advice in [libc::MADV_COLD, libc::MADV_PAGEOUT] {
        (0..256).for_each(|page| _ = map.load(page, 5));
        expect("advice that pages aren't needed soon", map.advise(0, 256, advice), 0)?;
    }
    check((0..256).all(|page| map.load(page, 5) == page as u64 + 1), || "contents are gone".to_owned())?;
    Ok("unmapped pages keep their contents".to_owned())
}

/// Memory that the hardware reported as broken: accesses fail, other pages are unaffected, and the page can be freed.
pub(crate) fn broken_memory() -> Outcome {
    needs("CONFIG_MEMORY_FAILURE")?;
    let device = Device::open(8)?;
    let map = device.map(0, 8, SHARED)?;
    (0..8).for_each(|page| map.store(page, 0, page as u64 + 1));
    // The result says how well the kernel recovered; not tested.
    let _ = map.advise(3, 1, libc::MADV_HWPOISON);
    let end = sys::fork(|| map.load(3, 0) as i32)?.wait();
    check(end == End::Signal(libc::SIGBUS), || format!("an access to broken memory ended by {end:?}"))?;
    let number = device.read_word(3, 0).err().and_then(|error| error.raw_os_error());
    check(number == Some(libc::EIO), || format!("reading broken memory gives {number:?}"))?;
    expect("pinning broken memory", device.pin(3, "dma"), libc::EIO)?;
    compact()?;
    let others = (0..8).filter(|&page| page != 3).all(|page| map.load(page, 0) == page as u64 + 1);
    check(others, || "other pages have changed".to_owned())?;
    device.free(3, 1)?;
    // As with any file, an entry for broken memory survives a hole punched in the file.
    map.advise(3, 1, libc::MADV_DONTNEED)?;
    check(map.load(3, 0) == 0, || "the new page isn't clear".to_owned())?;
    Ok("SIGBUS and EIO for the one page, until it's freed and unmapped".to_owned())
}

/// A process killed during a long call ends before the call is complete.
pub(crate) fn killed_at_work() -> Outcome {
    const MANY: u64 = 60_000;
    let device = Device::open(MANY)?;
    let free = free_pages()?;
    let child = sys::fork(|| i32::from(device.fill(0, MANY).is_err()))?;
    // Don't ask the driver: it serves one call at a time.
    wait_until("the child to be at work", || Ok(free_pages()? + 5000 < free))?;
    child.kill();
    let end = child.wait();
    check(end == End::Signal(libc::SIGKILL), || format!("a killed process ended by {end:?}"))?;
    let pages = device.counts()?.pages;
    check(pages < MANY, || format!("it allocated all {MANY} pages first"))?;
    Ok(format!("after {pages} of {MANY} pages"))
}

pub(crate) fn unload_in_use() -> Outcome {
    let device = Device::open(16)?;
    let map = device.map(0, 16, SHARED)?;
    let busy = |number| number == libc::EAGAIN || number == libc::EBUSY;
    let first = errno(&sys::unload_module(crate::module::MODULE));
    drop(device);
    map.store(3, 0, 4);
    let second = errno(&sys::unload_module(crate::module::MODULE));
    check(busy(first) && busy(second), || format!("unloading gives {first}, and {second} with a mapping only"))?;
    check(map.load(3, 0) == 4, || "a write is lost".to_owned())?;
    Ok("refused while open, and while mapped".to_owned())
}
